"""Flows: how descriptors find them, the records in the pairs, ports, and closes nobody reads."""

from __future__ import annotations

import errno
import os
import socket as stdlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolmix_sync.reactor import flow as flows
from smolmix_sync.reactor._originals import CSocket
from smolmix_sync.reactor.flow import (
    AF_INET,
    AF_INET6,
    SOCK_DGRAM,
    SOCK_STREAM,
    CloseWatch,
    Flow,
    FlowState,
    create,
    find,
    forget,
    nursery,
    pack_block,
    pack_error,
    ports,
    present,
    unmapped,
    unpack_block,
)


def made(kind: int = SOCK_STREAM, family: int = AF_INET) -> tuple[Any, Flow]:
    fd, flow = create(family, kind, 0)
    return CSocket(family, kind, 0, fd), flow


def test_flow_is_found_by_any_descriptor_of_its_socket() -> None:
    app, flow = made()
    copy = CSocket(AF_INET, SOCK_STREAM, 0, os.dup(app.fileno()))
    try:
        assert find(app) is flow
        assert find(copy) is flow
        assert flows.by_fd[copy.fileno()] is flow
        other, _ = stdlib.socketpair()
        with other, _:
            assert find(other) is None
    finally:
        app.close()
        copy.close()
        forget(flow)
    assert flow.cookie not in flows.by_cookie


def test_pair_knows_no_more_than_it_must() -> None:
    app, flow = made()
    assert flow.end is not None
    assert not os.get_inheritable(app.fileno())
    assert not os.get_inheritable(flow.end.fileno())
    assert app.getsockopt(stdlib.SOL_SOCKET, stdlib.SO_SNDBUF) == 2 * flows.PAIR_BUFFER
    app.close()
    forget(flow)


def test_reactor_ends_leave_the_low_descriptors_to_select() -> None:
    app, flow = made()
    assert flow.end is not None
    if flows._high_fds:
        assert flow.end.fileno() >= 1024
    assert app.fileno() < 1024
    app.close()
    forget(flow)


def test_unused_socket_is_forgotten_after_its_close() -> None:
    app, flow = made()
    nursery.add(flow)
    nursery.sweep()
    assert flow.end is not None
    app.close()
    second, other = made()  # making one sweeps
    assert flow.end is None
    assert flow.cookie not in flows.by_cookie
    assert not nursery.take(flow)
    nursery.add(other)
    assert nursery.take(other)
    assert not nursery.take(other)
    second.close()
    forget(other)


def test_dead_flow_is_dropped_when_its_descriptor_is_used_again() -> None:
    app, flow = made()
    fd = app.fileno()
    assert flow.end is not None
    flow.end.close()
    flow.end = None
    flow.state = FlowState.DEAD
    app.close()
    flows.remember_fd(fd, None)
    assert flow.cookie not in flows.by_cookie
    assert fd not in flows.by_fd


def test_close_watch_reports_each_close_once() -> None:
    watch = CloseWatch()
    one, two = stdlib.socketpair()
    seen: list[str] = []
    watch.add(one.fileno(), lambda: seen.append("first"))
    watch.add(one.fileno(), lambda: seen.append("replaced"))
    two.shutdown(stdlib.SHUT_WR)
    watch.sweep()
    assert not seen, "a half close is no close"
    two.close()
    watch.sweep()
    watch.sweep()
    assert seen == ["replaced"]
    assert not watch.remove(one.fileno())
    watch.close()
    one.close()


def test_ports_are_unique_per_protocol() -> None:
    one, two, udp = (
        Flow(AF_INET, SOCK_STREAM, 6),
        Flow(AF_INET, SOCK_STREAM, 6),
        Flow(AF_INET, SOCK_DGRAM, 17),
    )
    port = ports.reserve(one, 0)
    assert ports.LOW <= port <= ports.HIGH
    ports.reserve(udp, port)
    with pytest.raises(OSError) as caught:
        ports.reserve(two, port)
    assert caught.value.errno == errno.EADDRINUSE
    assert ports.holders(True, port) == [one]
    ports.release(one)
    ports.release(one)
    assert ports.reserve(two, port) == port
    ports.release(two)
    ports.release(udp)
    assert ports.holders(True, port) == []


def test_reuse_options_share_a_port() -> None:
    reuse_addr, reuse_port = (
        (stdlib.SOL_SOCKET, stdlib.SO_REUSEADDR),
        (stdlib.SOL_SOCKET, stdlib.SO_REUSEPORT),
    )
    for key, listening, shared in (
        (reuse_addr, False, True),
        (reuse_addr, True, False),
        (reuse_port, True, True),
    ):
        one, two = Flow(AF_INET, SOCK_STREAM, 6), Flow(AF_INET, SOCK_STREAM, 6)
        one.options[key] = two.options[key] = 1
        port = ports.reserve(one, 0)
        if listening:
            one.state = FlowState.LISTEN
        if shared:
            assert ports.reserve(two, port) == port
        else:
            with pytest.raises(OSError):
                ports.reserve(two, port)
        ports.release(one)
        ports.release(two)


def test_v6only_sockets_leave_the_ipv4_port_alone() -> None:
    four, six = Flow(AF_INET, SOCK_STREAM, 6), Flow(AF_INET6, SOCK_STREAM, 6)
    port = ports.reserve(four, 0)
    with pytest.raises(OSError):
        ports.reserve(six, port)
    six.options[(stdlib.IPPROTO_IPV6, stdlib.IPV6_V6ONLY)] = 1
    assert ports.reserve(six, port) == port
    ports.release(four)
    ports.release(six)


def test_ports_can_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(ports), "HIGH", ports.LOW)
    one, two = Flow(AF_INET, SOCK_STREAM, 6), Flow(AF_INET, SOCK_STREAM, 6)
    ports.reserve(one, 0)
    with pytest.raises(OSError):
        ports.reserve(two, 0)
    ports.release(one)


# --- records ----------------------------------------------------------------------------------


@given(st.ip_addresses(), st.integers(0, 65535))
def test_block_carries_an_address(address: Any, port: int) -> None:
    kind, host, number = unpack_block(pack_block((str(address), port)))
    assert (kind, number) == (address.version, port)
    assert stdlib.inet_pton(AF_INET if kind == 4 else AF_INET6, host) == address.packed


def test_block_carries_an_error() -> None:
    assert unpack_block(pack_error(errno.ECONNREFUSED)) == (0, "", errno.ECONNREFUSED)


@given(st.binary(max_size=40))
def test_garbage_is_no_block(data: bytes) -> None:
    try:
        kind, _, _ = unpack_block(data)
    except ValueError:
        return
    assert kind in (0, 4, 6)
    assert len(data) == 20


def test_addresses_are_shown_as_the_family_expects() -> None:
    assert present(AF_INET, "203.0.113.1", 5) == ("203.0.113.1", 5)
    assert present(AF_INET6, "203.0.113.1", 5) == ("::ffff:203.0.113.1", 5, 0, 0)
    assert present(AF_INET6, "2001:db8::1", 5) == ("2001:db8::1", 5, 0, 0)
    assert unmapped("::ffff:203.0.113.1") == "203.0.113.1"
    assert unmapped("2001:db8::1") == "2001:db8::1"
    assert unmapped("203.0.113.1") == "203.0.113.1"


def test_pending_error_is_taken_once() -> None:
    flow = Flow(AF_INET, SOCK_STREAM, 6)
    flow.error = errno.ECONNREFUSED
    assert (flow.take_error(), flow.take_error()) == (errno.ECONNREFUSED, 0)
