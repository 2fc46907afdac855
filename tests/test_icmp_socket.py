"""Echo requests of a program through the exit: many at once, errors, and the end of the tunnel."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator

import pytest

from smolmix_sync import Tunnel
from smolmix_sync.localnet import LocalNet

pytestmark = [pytest.mark.interop, pytest.mark.slow]


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNet]:
    with LocalNet(set_default=False) as net:
        yield net


@pytest.fixture(scope="module")
def tunnel(net: LocalNet) -> Iterator[Tunnel]:
    with Tunnel(**net.client_settings()) as tunnel:
        yield tunnel


def test_answers_come_back_with_number_payload_and_round_trip(tunnel: Tunnel) -> None:
    with tunnel.icmp_socket() as sock, tunnel.icmp_socket() as other:
        payloads = {sock.send("echo.localnet", payload): payload for payload in (b"", b"x", os.urandom(1400))}
        assert list(payloads) == [1, 2, 3]
        answers = [sock.recv(20) for _ in payloads]
        assert {answer.seq: answer.payload for answer in answers} == payloads
        assert all(answer.rtt is not None and 0 < answer.rtt < 20 for answer in answers)
        assert {answer.source for answer in answers} == {"198.51.100.10"}
        with pytest.raises(TimeoutError):
            other.recv(0.1)


def test_what_cannot_be_sent_or_answered(tunnel: Tunnel) -> None:
    with tunnel.icmp_socket() as sock:
        with pytest.raises(OSError) as caught:
            sock.send("echo.localnet", bytes(1401))
        assert caught.value.errno == errno.EMSGSIZE
        sock.send("silent.localnet")
        with pytest.raises(TimeoutError):
            sock.recv(1.0)
        # localnet's exit sends no ICMP errors about echoes: what the stack would make of one.
        tunnel._loop.call(sock._echoes.answers.append, errno.EHOSTUNREACH)
        with pytest.raises(OSError) as caught:
            sock.recv(20)
        assert caught.value.errno == errno.EHOSTUNREACH
    sock.close()
    with pytest.raises(OSError) as caught:
        sock.recv(1.0)
    assert caught.value.errno == errno.EBADF


def test_end_of_the_tunnel_wakes_who_waits(net: LocalNet) -> None:
    with Tunnel(**net.client_settings()) as tunnel, tunnel.icmp_socket() as sock:
        ender = threading.Timer(0.5, tunnel.shutdown, (0.5,))
        ender.start()
        began = time.monotonic()
        with pytest.raises(OSError) as caught:
            sock.recv(30)
        assert caught.value.errno == errno.ENETDOWN
        assert time.monotonic() - began < 10
        ender.join()
