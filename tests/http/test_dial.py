"""Names with several addresses: the next is tried beside one that is silent, and the first that answers wins."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from smolmix_sync.errors import LeakBlocked
from smolmix_sync.http import dial as module
from smolmix_sync.http.dial import Deadline, dial


class Sock:
    def __init__(self, address: str) -> None:
        self.address = address
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


class Tunnel:
    """Addresses that answer or fail when told to: ``{address: (seconds, error or None)}``."""

    def __init__(self, addresses: dict[str, tuple[float, OSError | None]]) -> None:
        self.config = SimpleNamespace(connect_timeout=5.0)
        self.addresses = addresses
        self.begun: list[tuple[str, float]] = []
        self.made: list[Sock] = []
        self.start = time.monotonic()

    def wait_ready(self, timeout: float | None = None, *, fail_fast: bool = False) -> None: ...

    def resolve(self, host: str, family: int = 0, timeout: float | None = None) -> list[str]:
        return list(self.addresses)

    def create_connection(self, address: tuple[str, int], timeout: float | None = None) -> Sock:
        self.begun.append((address[0], time.monotonic() - self.start))
        seconds, error = self.addresses[address[0]]
        time.sleep(min(seconds, timeout or 60))
        if timeout is not None and seconds > timeout:
            raise TimeoutError(errno.ETIMEDOUT, "timed out")
        if error is not None:
            raise error
        self.made.append(Sock(address[0]))
        return self.made[-1]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STAGGER", 0.2)


def test_silent_address_holds_nobody_up_and_the_late_connection_is_closed() -> None:
    tunnel = Tunnel({"192.0.2.1": (0.6, None), "2001:db8::1": (0.05, None), "192.0.2.2": (0.0, None)})
    winner = dial(tunnel, "host.example", 80, Deadline(10))  # type: ignore[arg-type]
    assert winner.address == "2001:db8::1"  # type: ignore[attr-defined]
    assert [address for address, _ in tunnel.begun] == ["192.0.2.1", "2001:db8::1"]
    assert 0.15 < tunnel.begun[1][1] < 0.55
    wait_until(lambda: len(tunnel.made) == 2 and tunnel.made[1].closed.wait(5))
    assert not tunnel.made[0].closed.is_set()


def test_address_that_fails_makes_room_for_the_next_at_once() -> None:
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    tunnel = Tunnel({"192.0.2.1": (0.0, refused), "192.0.2.2": (0.0, None)})
    assert dial(tunnel, "host.example", 80, Deadline(10)).address == "192.0.2.2"  # type: ignore
    assert tunnel.begun[1][1] < 0.15


def test_first_addresss_failure_is_told_and_the_time_is_for_all() -> None:
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    unreachable = OSError(errno.ENETUNREACH, "unreachable")
    tunnel = Tunnel({"192.0.2.1": (0.1, refused), "192.0.2.2": (0.0, unreachable)})
    with pytest.raises(ConnectionRefusedError):
        dial(tunnel, "host.example", 80, Deadline(10))  # type: ignore[arg-type]
    tunnel = Tunnel({"192.0.2.1": (9.0, None), "192.0.2.2": (9.0, None)})
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        dial(tunnel, "host.example", 80, Deadline(0.7))  # type: ignore[arg-type]
    assert time.monotonic() - began < 3


def test_name_without_addresses_and_name_of_this_machine() -> None:
    with pytest.raises(OSError) as caught:
        dial(Tunnel({}), "host.example", 80, Deadline(1))  # type: ignore[arg-type]
    assert caught.value.errno == errno.EHOSTUNREACH
    tunnel = Tunnel({"192.0.2.1": (0.0, None), "127.0.0.1": (0.0, None)})
    with pytest.raises(LeakBlocked):
        dial(tunnel, "host.example", 80, Deadline(1))  # type: ignore[arg-type]
    assert tunnel.begun == []


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_one_address_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.threading, "Thread", None)
    tunnel = Tunnel({"192.0.2.1": (0.0, socket.gaierror(socket.EAI_AGAIN, "x"))})
    with pytest.raises(socket.gaierror):
        dial(tunnel, "host.example", 80, Deadline(1))  # type: ignore[arg-type]
