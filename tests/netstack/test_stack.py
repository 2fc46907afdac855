"""The whole stack: loopback, any address, order of output, bounds, drops, shutdown."""

from __future__ import annotations

import errno

import pytest
from support.netsim import NetSim, seeded_urandom
from support.playbook import Playbook

from smolmix_sync.netstack import (
    CLOSED,
    CONNECTED,
    ERROR,
    INCOMING,
    READABLE,
    Datagram,
    Incoming,
    Refusal,
    Stack,
    StackConfig,
    State,
    TcpSettings,
    ipv4,
)
from smolmix_sync.netstack.segment import ACK, RST, SYN, SegmentWriter

A, B = "10.0.0.1", "10.0.0.2"
WEB = "93.184.216.34"
WEB6 = "2606:2800:220:1::1"


def stacks(**config: object) -> tuple[Stack, Stack]:
    settings = StackConfig(**config)  # type: ignore[arg-type]
    return (
        Stack(A, "fd00::1", config=settings, urandom=seeded_urandom(1)),
        Stack(B, "fd00::2", config=settings, urandom=seeded_urandom(2)),
    )


def exchange(a: Stack, b: Stack, now: float = 0.0, rounds: int = 6) -> float:
    for _ in range(rounds):
        for packet in a.data_to_send(now):
            b.receive_data(packet, now)
        for packet in b.data_to_send(now):
            a.receive_data(packet, now)
        now += 0.025
    return now


# -- loopback


@pytest.mark.parametrize("addr", ["127.0.0.1", "127.9.9.9", "::1", A, "fd00::1", "0.0.0.0", "::"])
def test_loopback_connections_never_leave(addr: str) -> None:
    stack = Stack(A, "fd00::1", urandom=seeded_urandom(1), loopback=True)
    listener = stack.listen(None, 80)
    conn = stack.connect(addr, 80, 0.0)
    assert stack.next_deadline() == 0.0
    stack.handle_deadline(0.0)
    assert conn.state is State.ESTABLISHED
    peer = listener.accept()
    assert peer is not None
    assert peer.local[0] == conn.remote[0]
    conn.send(bytes(500_000))
    got = 0
    for _ in range(10):
        assert stack.data_to_send(0.0) == []
        got += len(peer.recv(10**6))
    assert got == 256 * 1024
    conn.close()
    peer.close()
    stack.handle_deadline(0.0)
    stack.handle_deadline(11.0)
    assert not stack.connections
    assert stack.next_deadline() is None


def test_loopback_delay_is_respected() -> None:
    stack = Stack(A, urandom=seeded_urandom(1), loopback=True, loopback_delay=0.1)
    stack.listen("127.0.0.1", 80)
    conn = stack.connect("127.0.0.1", 80, 0.0)
    stack.handle_deadline(0.0)
    assert conn.state is State.SYN_SENT
    assert stack.next_deadline() == pytest.approx(0.1)
    stack.handle_deadline(0.1)
    stack.handle_deadline(0.2)
    assert conn.state is State.ESTABLISHED
    assert conn.rtt.srtt == pytest.approx(0.2)


def test_loopback_refuses_and_carries_udp_and_echo() -> None:
    stack = Stack(A, urandom=seeded_urandom(1), loopback=True)
    conn = stack.connect("127.0.0.1", 81, 0.0)
    stack.handle_deadline(0.0)
    assert conn.error == errno.ECONNREFUSED
    server, client, ping = stack.udp("127.0.0.1", 53), stack.udp(), stack.ping()
    client.sendto(bytes(60_000), "127.0.0.1", 53)
    ping.send("0.0.0.0", 1)
    stack.handle_deadline(0.0)
    assert server.readable() == 1
    assert ping.readable() == 1
    client.connect("127.0.0.1", 99)
    client.send(b"x")
    stack.handle_deadline(0.0)
    assert client.error == errno.ECONNREFUSED
    assert stack.data_to_send(0.0) == []


def test_the_loopback_queue_is_bounded() -> None:
    stack = Stack(A, urandom=seeded_urandom(1), loopback=True, config=StackConfig(max_control=5))
    client = stack.udp()
    for _ in range(9):
        client.sendto(b"x", "127.0.0.1", 9)
    assert stack.counters.drops["loopback_full"] == 4


def test_without_loopback_its_addresses_are_unreachable() -> None:
    a, _ = stacks()
    for addr in ("127.0.0.1", "::1", A, "0.0.0.0"):
        with pytest.raises(OSError) as caught:
            a.connect(addr, 80, 0.0)
        assert caught.value.errno == errno.ENETUNREACH


# -- any address


def exit_pair() -> tuple[Stack, Stack]:
    client, _ = stacks()
    return client, Stack("192.0.2.1", "2001:db8::1", urandom=seeded_urandom(9), any_address=True)


@pytest.mark.parametrize("addr", [WEB, WEB6])
def test_a_syn_to_any_address_is_held_until_accepted(addr: str) -> None:
    client, terminal = exit_pair()
    conn = client.connect(addr, 443, 0.0)
    now = exchange(client, terminal)
    ((request, mask),) = list(terminal.events())
    assert isinstance(request, Incoming)
    assert mask == INCOMING
    assert request.local == (addr, 443)
    assert request.remote == conn.local
    peer = request.accept()
    now = exchange(client, terminal, now)
    assert conn.state is State.ESTABLISHED
    assert peer.local == (addr, 443)
    assert any(found is peer and bits & CONNECTED for found, bits in terminal.events())
    conn.send(b"hello")
    exchange(client, terminal, now)
    assert peer.recv(10) == b"hello"
    assert not terminal.incoming


def test_a_held_syn_is_one_event_however_often_it_is_repeated() -> None:
    client, terminal = exit_pair()
    client.connect(WEB, 443, 0.0)
    (syn,) = client.data_to_send(0.0)
    terminal.receive_data(syn, 0.0)
    terminal.receive_data(syn, 0.1)
    assert len(list(terminal.events())) == 1


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (Refusal.RST, errno.ECONNREFUSED),
        (Refusal.PORT_UNREACHABLE, errno.ECONNREFUSED),
        (Refusal.HOST_UNREACHABLE, errno.EHOSTUNREACH),
        (Refusal.NET_UNREACHABLE, errno.ENETUNREACH),
        (Refusal.ADMIN_PROHIBITED, errno.EHOSTUNREACH),
        (Refusal.DROP, 0),
    ],
)
@pytest.mark.parametrize("addr", [WEB, WEB6])
def test_refusals_arrive_as_errno(how: Refusal, expected: int, addr: str) -> None:
    client, terminal = exit_pair()
    conn = client.connect(addr, 443, 0.0)
    now = exchange(client, terminal, rounds=1)
    ((request, _),) = list(terminal.events())
    assert isinstance(request, Incoming)
    request.refuse(how)
    request.refuse(how)
    exchange(client, terminal, now, rounds=1)
    assert conn.error == expected


def test_held_requests_are_bounded_and_expire() -> None:
    client, _ = stacks()
    terminal = Stack(
        None,
        urandom=seeded_urandom(9),
        any_address=True,
        config=StackConfig(max_incoming=2, incoming_timeout=5.0),
    )
    for port in range(3):
        client.connect(WEB, 1 + port, 0.0)
    for packet in client.data_to_send(0.0):
        terminal.receive_data(packet, 0.0)
    assert terminal.counters.drops["tcp_backlog"] == 1
    requests = [obj for obj, _ in terminal.events()]
    assert terminal.next_deadline() == 5.0
    terminal.handle_deadline(5.0)
    assert not terminal.incoming
    late = requests[0]
    assert isinstance(late, Incoming)
    assert late.accept().error == errno.ECONNABORTED
    assert terminal.next_deadline() is None


def test_an_expired_request_leaves_alone_what_came_after_it() -> None:
    client, terminal = exit_pair()
    conn = client.connect(WEB, 443, 0.0)
    (syn,) = client.data_to_send(0.0)
    terminal.receive_data(syn, 0.0)
    ((old, _),) = list(terminal.events())
    terminal.handle_deadline(80.0)
    terminal.receive_data(syn, 81.0)
    ((new, _),) = list(terminal.events())
    assert isinstance(old, Incoming)
    assert isinstance(new, Incoming)
    old.refuse()
    assert old.accept().error == errno.ECONNABORTED
    assert list(terminal.incoming.values()) == [new]
    peer = new.accept()
    assert old.accept().error == errno.ECONNABORTED
    assert list(terminal.connections.values()) == [peer]
    exchange(client, terminal, 81.0)
    assert conn.state is peer.state is State.ESTABLISHED


def test_a_reset_withdraws_a_held_request() -> None:
    client, terminal = exit_pair()
    conn = client.connect(WEB, 443, 0.0)
    (syn,) = client.data_to_send(0.0)
    terminal.receive_data(syn, 0.0)
    writer = SegmentWriter(b"\x0a\0\0\x01", conn.local[1], bytes((93, 184, 216, 34)), 443)
    terminal.receive_data(writer.plain(conn.snd.iss + 1, 0, RST, 0, b""), 0.0)
    assert not terminal.incoming


def test_datagrams_to_any_address_are_events_and_can_be_answered() -> None:
    client, terminal = exit_pair()
    socket = client.udp()
    socket.connect("8.8.8.8", 53)
    socket.send(b"query")
    exchange(client, terminal)
    ((datagram, mask),) = list(terminal.events())
    assert isinstance(datagram, Datagram)
    assert (mask, datagram.payload, datagram.dst) == (INCOMING, b"query", ("8.8.8.8", 53))
    terminal.send_udp(datagram.dst, datagram.src, b"answer")
    exchange(client, terminal)
    item = socket.recv()
    assert item is not None
    assert item[:2] == (b"answer", ("8.8.8.8", 53))
    datagram.refuse(Refusal.ADMIN_PROHIBITED)
    exchange(client, terminal)
    assert socket.take_error() == errno.EHOSTUNREACH
    datagram.refuse(Refusal.DROP)
    assert terminal.data_to_send(1.0) == []


def test_waiting_datagrams_are_bounded() -> None:
    client, _ = stacks()
    terminal = Stack(None, urandom=seeded_urandom(9), any_address=True, config=StackConfig(max_datagrams=3))
    socket = client.udp()
    for _ in range(5):
        socket.sendto(b"x", "8.8.8.8", 53)
    exchange(client, terminal, rounds=1)
    assert terminal.counters.drops["event_queue_full"] == 2
    assert len(list(terminal.events())) == 3
    socket.sendto(b"x", "8.8.8.8", 53)
    exchange(client, terminal, rounds=1)
    assert len(list(terminal.events())) == 1


def test_echo_to_any_address_is_answered() -> None:
    client, terminal = exit_pair()
    ping = client.ping()
    ping.send("1.1.1.1", 1)
    exchange(client, terminal)
    reply = ping.recv()
    assert reply is not None
    assert reply.addr == "1.1.1.1"


def test_a_listener_on_an_exit_still_works() -> None:
    client, terminal = exit_pair()
    listener = terminal.listen(WEB, 80)
    conn = client.connect(WEB, 80, 0.0)
    exchange(client, terminal)
    assert conn.state is State.ESTABLISHED
    assert listener.readable() == 1


# -- drops


def drop(packet: bytes, **arguments: object) -> str:
    stack = Stack(A, "fd00::1", urandom=seeded_urandom(1), **arguments)  # type: ignore[arg-type]
    stack.receive_data(packet, 0.0)
    assert stack.data_to_send(0.0) == []
    return next((name for name, count in stack.counters.drops.items() if count), "")


@pytest.mark.parametrize(
    ("source", "destination", "reason"),
    [
        ("9.9.9.9", "10.0.0.9", "ip_not_for_us"),
        (A, A, "ip_spoofed_own_address"),
        ("127.0.0.1", A, "ip_source"),
        ("224.0.0.1", A, "ip_source"),
        ("255.255.255.255", A, "ip_source"),
        ("0.0.0.0", A, "ip_source"),
        ("9.9.9.9", "127.0.0.1", "ip_not_for_us"),
        ("9.9.9.9", "224.0.0.1", "ip_not_for_us"),
    ],
)
@pytest.mark.parametrize("loopback", [False, True])
def test_wrong_addresses_are_dropped_by_name(
    source: str, destination: str, reason: str, loopback: bool
) -> None:
    from smolmix_sync.netstack.addresses import pack

    packet = SegmentWriter(pack(source), 1, pack(destination), 2).plain(0, 0, SYN, 0, b"")
    assert drop(packet, loopback=loopback) == reason
    if destination != A:
        assert drop(packet, any_address=True) == ("" if destination == "10.0.0.9" else reason)


@pytest.mark.parametrize(
    "packet", [b"", b"\x00", b"\x45", b"\x60" * 39, bytes(100), b"\x45" * 60, b"\xff" * 60]
)
def test_garbage_is_dropped_and_counted(packet: bytes) -> None:
    assert drop(packet).startswith("ip_")


def test_unknown_protocols_and_icmp_types_are_counted() -> None:
    assert drop(ipv4.encode(b"\x09\x09\x09\x09", b"\x0a\0\0\x01", 47, b"gre")) == "ip_protocol"
    assert drop(ipv4.encode(b"\x09\x09\x09\x09", b"\x0a\0\0\x01", 1, b"")) == "icmp_short"
    assert drop(ipv4.encode(b"\x09\x09\x09\x09", b"\x0a\0\0\x01", 1, bytes(8))) == "icmp_checksum"
    assert (
        drop(ipv4.encode(b"\x09\x09\x09\x09", b"\x0a\0\0\x01", 1, b"\x0d\0\xf2\xff" + bytes(4)))
        == "icmp_type"
    )


def test_an_unknown_ipv6_protocol_is_answered_only_when_asked_for() -> None:
    from smolmix_sync.netstack import ipv6
    from smolmix_sync.netstack.addresses import pack

    peer, ours = pack("fd00::9"), pack("fd00::1")
    destination_options = bytes((200, 0, 1, 4, 0, 0, 0, 0))
    packet = ipv6.encode(peer, ours, 60, destination_options + b"data")
    quiet, _ = stacks()
    quiet.receive_data(packet, 0.0)
    assert quiet.data_to_send(0.0) == []
    a, _ = stacks(parameter_problem=True, icmp_rate=1.0)
    a.receive_data(packet, 0.0)
    (answer,) = a.data_to_send(0.0)
    assert answer[6] == 58
    assert answer[40:42] == b"\x04\x01"
    assert int.from_bytes(answer[44:48], "big") == 40  # the options' next-header field
    assert answer[48:] == packet
    a.receive_data(ipv6.encode(peer, ours, 201, b""), 0.0)
    assert a.data_to_send(0.0) == []
    assert (a.counters.drops["ip_protocol"], a.counters.drops["icmp_rate"]) == (2, 1)
    # A fragment names its protocol only at the start of the whole: the fixed header must do.
    a.receive_data(ipv6.fragment(peer, ours, 202, bytes(100), 96, 7)[0], 5.0)
    a.receive_data(ipv6.fragment(peer, ours, 202, bytes(100), 96, 7)[1], 5.0)
    a.receive_data(ipv6.fragment(peer, ours, 202, bytes(100), 96, 7)[2], 5.0)
    (answer,) = a.data_to_send(5.0)
    assert int.from_bytes(answer[44:48], "big") == 6
    assert ipv6.next_header_offset(ipv6.fragment(peer, ours, 202, bytes(8), 1280, 7)[0]) == 40


def test_an_ipv6_connection_has_a_flow_label_of_its_own() -> None:
    a, b = stacks()
    labels = set()
    for port in (80, 81, 82):
        a.connect("fd00::2", port, 0.0)
        (packet,) = a.data_to_send(0.0)
        labels.add(int.from_bytes(packet[:4], "big"))
        b.receive_data(packet, 0.0)
        assert len(b.data_to_send(0.0)) == 1  # a reset: the packet was valid
    assert len(labels) == 3
    assert all(label >> 20 == 0x600 for label in labels)


def test_a_snapshot_names_every_counter() -> None:
    a, _ = stacks()
    a.receive_data(b"", 0.0)
    snapshot = a.counters.snapshot()
    assert snapshot["drop_ip_short"] == 1
    assert snapshot["packets_in"] == 1


# -- order of output


def test_order_of_output() -> None:
    book = Playbook(StackConfig(tcp=TcpSettings(nodelay=True)))
    old = book.established()
    port_old = book.our_port
    lossy = book.established()
    port_lossy = book.our_port
    lossy.send(b"lost")
    assert book.pull()
    book.now += 0.92
    book.our_port, book.iss = port_old, old.snd.iss
    book.into("A", 1, 1, b"unacknowledged")
    book.now += 0.02
    book.stack.handle_deadline(book.now)  # its acknowledgement waits from here
    book.now += 0.06
    book.stack.handle_deadline(book.now)  # and here the other connection's timeout
    fresh = book.connect()
    sender = book.stack.udp()
    sender.sendto(b"datagram", "10.0.0.1", 9)
    book.our_port = 4444
    book.into("A", 1, raw_ack=5)  # answered by RST
    kinds = []
    for packet in book.stack.data_to_send(book.now, 1500):
        flags = packet[33]
        port = int.from_bytes(packet[20:22], "big")
        if packet[9] == 17:
            kinds.append("udp")
        elif flags & RST:
            kinds.append("reset")
        elif flags & SYN:
            kinds.append("syn")
        elif port == port_lossy:
            kinds.append("retransmission")
        else:
            kinds.append("ack")
    assert kinds == ["reset", "syn", "retransmission", "ack", "udp"]
    assert fresh.state is State.SYN_SENT


def test_connections_take_turns_one_segment_each() -> None:
    a, b = stacks()
    b.listen(None, 80, backlog=10)
    conns = [a.connect(B, 80, 0.0) for _ in range(3)]
    now = exchange(a, b)
    for conn in conns:
        conn.send(bytes(5000))
    ports = [int.from_bytes(a.data_to_send(now, 1500)[0][20:22], "big") for _ in range(6)]
    assert ports[:3] == ports[3:]
    assert len(set(ports[:3])) == 3


def test_a_full_bundle_takes_the_same_time_for_any_number_of_connections_pitfall_5() -> None:
    calls = {}
    for count in (4, 200):
        a, b = stacks()
        b.listen(None, 80, backlog=500)
        conns = [a.connect(B, 80, 0.0) for _ in range(count)]
        now = exchange(a, b)
        for conn in conns:
            conn.send(bytes(5000))
        seen = 0
        original = Stack.touch

        import sys

        def profile(frame: object, event: str, argument: object) -> None:
            nonlocal seen
            if event == "call":
                seen += 1

        sys.setprofile(profile)
        try:
            a.data_to_send(now, 1500)
        finally:
            sys.setprofile(None)
        calls[count] = seen
        assert original is Stack.touch
    assert calls[200] <= calls[4] + 4


def test_pending_estimates_what_waits() -> None:
    a, b = stacks(tail_probe=False)
    assert a.pending() == (0, 0)
    b.listen(None, 80)
    conn = a.connect(B, 80, 0.0)
    assert a.pending()[0] > 0
    now = exchange(a, b)
    conn.send(bytes(100_000))
    urgent, bulk = a.pending()
    assert urgent == 0
    assert 10_000 <= bulk <= 100_000
    a.data_to_send(now)
    now += 1.5
    a.handle_deadline(now)
    assert a.pending()[0] > 1000


def test_control_packets_are_bounded() -> None:
    a, _ = stacks(max_control=3)
    writer = SegmentWriter(b"\x09\x09\x09\x09", 1, b"\x0a\0\0\x01", 2)
    for index in range(5):
        a.receive_data(writer.plain(index, index, ACK, 0, b""), 0.0)
    assert len(a.data_to_send(0.0)) == 3
    assert a.counters.drops["control_full"] == 2


def test_a_datagram_larger_than_any_bundle_is_dropped_not_stuck() -> None:
    a, _ = stacks(datagram_mtu=1500)
    socket = a.udp()
    socket.sendto(bytes(1472), B, 9)
    socket.sendto(b"next", B, 9)
    assert len(a.data_to_send(0.0, 1500)) == 1
    assert a.counters.drops["too_big_for_room"] == 1
    assert a.next_deadline() is None


# -- ports


def test_ports_are_hard_to_guess_and_never_collide() -> None:
    a, _ = stacks(port_min=50_000, port_max=50_009)
    ports = {a.connect(B, 80, 0.0).local[1] for _ in range(10)}
    assert ports == set(range(50_000, 50_010))
    with pytest.raises(OSError) as caught:
        a.connect(B, 80, 0.0)
    assert caught.value.errno == errno.EADDRNOTAVAIL
    assert a.connect(B, 81, 0.0).local[1] in ports
    listeners = [a.listen(None, 0) for _ in range(10)]
    assert len({listener.local[1] for listener in listeners}) == 10
    with pytest.raises(OSError) as caught:
        a.listen(None, 0)
    assert caught.value.errno == errno.EADDRINUSE
    listeners[3].close()
    a.listen(None, 0)


def test_the_same_port_may_be_bound_to_different_addresses() -> None:
    a, b = stacks()
    v4 = a.listen(A, 80)
    v6 = a.listen("fd00::1", 80)
    b.connect(A, 80, 0.0)
    b.connect("fd00::1", 80, 0.0)
    exchange(b, a)
    assert (v4.readable(), v6.readable()) == (1, 1)
    with pytest.raises(OSError):
        a.listen("0.0.0.0", 80)
    with pytest.raises(OSError) as caught:
        a.listen("10.9.9.9", 80)
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_initial_sequence_numbers_differ_between_destinations_and_grow() -> None:
    a, _ = stacks()
    first = a.connect(B, 80, 0.0, local_port=50_000).snd.iss
    other = a.connect(B, 81, 0.0, local_port=50_000).snd.iss
    assert first != other
    a.connections.clear()
    later = a.connect(B, 80, 1.0, local_port=50_000).snd.iss
    assert (later - first) & 0xFFFFFFFF == 250_000


# -- the end of a tunnel


def test_shutdown_gives_every_socket_the_errno_and_sends_nothing() -> None:
    a, b = stacks()
    b.listen(None, 80)
    conn = a.connect(B, 80, 0.0)
    now = exchange(a, b)
    conn.send(b"data")
    opening = a.connect(B, 81, now)
    socket = a.udp()
    list(a.events())
    a.shutdown(errno.ENETDOWN)
    assert (conn.error, opening.error) == (errno.ENETDOWN, errno.ENETDOWN)
    assert socket.take_error() == errno.ENETDOWN
    assert a.data_to_send(now) == []
    assert a.next_deadline() is None
    assert all(mask & ERROR for _, mask in a.events())
    for call in (lambda: a.connect(B, 80, now), lambda: a.listen(None, 1), lambda: a.udp()):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.ENETDOWN
    a.set_addresses("10.0.0.7", None)
    assert a.v4 == "10.0.0.7"
    assert a.v6 is None
    assert a.connect(B, 80, now).local[0] == "10.0.0.7"


def test_new_addresses_end_only_the_connections_that_lost_theirs() -> None:
    a, b = stacks()
    b.listen(None, 80)
    v4 = a.connect(B, 80, 0.0)
    v6 = a.connect("fd00::2", 80, 0.0)
    exchange(a, b)
    a.set_addresses(A, "fd00::99")
    assert v4.error == 0
    assert v6.error == errno.ENETDOWN


def test_events_are_coalesced_per_object() -> None:
    book = Playbook()
    conn = book.established()
    for index in range(20):
        book.into("A", 1 + index, 1, b"x")
    book.into("FA", 21, 1)
    events = list(book.stack.events())
    assert len(events) == 1
    assert events[0][0] is conn
    assert events[0][1] & READABLE
    assert list(book.stack.events()) == []
    book.stack.shutdown(errno.ENETDOWN)
    assert book.stack.next_event() == (conn, ERROR | CLOSED | READABLE | 4 | 8)
    assert book.stack.next_event() is None


@pytest.mark.parametrize("seed", [1, 2])
def test_many_short_connections_leave_nothing_behind(seed: int) -> None:
    net = NetSim(seed)
    a, b = stacks(port_min=50_000, port_max=50_999)
    net.link(a, b, latency=0.05, jitter=0.02, loss=0.02)
    listener = b.listen(None, 80, backlog=1000)
    served = 0

    def serve() -> None:
        nonlocal served
        while (conn := listener.accept()) is not None:
            open_.append(conn)
        for conn in list(open_):
            data = conn.recv(1000)
            if data:
                conn.send(data)
            if conn.eof():
                conn.close()
                open_.remove(conn)
        for conn in list(clients):
            conn.recv(1000)
            if conn.eof() or conn.state is State.CLOSED:
                conn.close()
                clients.remove(conn)
                served += conn.error == 0

    open_: list = []
    clients: list = []
    net.application(serve)

    def start() -> None:
        conn = a.connect(B, 80, net.now)
        conn.send(b"request")
        conn.shutdown_write()
        clients.append(conn)
        net.kick(a)

    for index in range(300):
        net.at(index * 0.05, start)
    net.run(until=lambda: served == 300, limit=200)
    net.run(until=net.now + 70)
    for stack in (a, b):
        assert not stack.connections
        assert stack.next_deadline() is None
        assert len(stack._scheduler._heap) == 0


def test_a_syn_waits_longer_once_handshakes_took_long() -> None:
    book = Playbook()
    book.established(rtt=2.5)
    conn = book.connect()
    assert conn.rtt.rto > 5.0


def test_a_colliding_echo_identifier_moves_on() -> None:
    a, _ = stacks()
    used = {a.ping().ident for _ in range(300)}
    assert len(used) == 300
    taken = a._numbers.random16
    a._numbers.__class__.random16 = lambda self: next(iter(used))  # type: ignore[method-assign]
    try:
        assert a.ping().ident not in used
    finally:
        a._numbers.__class__.random16 = taken.__func__  # type: ignore[method-assign, attr-defined]


def test_the_queue_of_ownerless_packets_is_bounded() -> None:
    terminal = Stack(None, urandom=seeded_urandom(9), any_address=True, config=StackConfig(udp_sndbuf=2000))
    for _ in range(5):
        terminal.send_udp((WEB, 53), (A, 9), bytes(900))
    assert terminal.counters.drops["raw_queue_full"] == 3
    a, _ = stacks(udp_sndbuf=1000)
    ping = a.ping()
    ping.send(B, 1, bytes(900))
    with pytest.raises(OSError) as caught:
        ping.send(B, 2, bytes(900))
    assert caught.value.errno == errno.ENOBUFS


def test_half_received_datagrams_are_a_deadline_and_then_a_drop() -> None:
    a, b = stacks()
    a.udp().sendto(bytes(3000), B, 9)
    b.receive_data(a.data_to_send(0.0)[0], 0.0)
    assert b.next_deadline() == 15.0
    b.handle_deadline(15.0)
    assert b.counters.drops["fragment_timeout"] == 1
    assert b.next_deadline() is None


def test_small_rooms_never_break_the_order_or_the_bound() -> None:
    book = Playbook()
    conn = book.established(timestamps=True)
    book.into("A", 101, 1, bytes(100))
    conn.send(bytes(3000))
    book.pull()
    book.now += 1.5
    book.stack.handle_deadline(book.now)
    opening = book.stack.connect("10.0.0.1", 81, book.now)
    for room in (0, 10, 59, 60, 61, 62):
        for packet in book.stack.data_to_send(book.now, room):
            assert len(packet) + 2 <= room
    assert opening.state is State.SYN_SENT
    for room in range(62, 400, 7):
        assert sum(len(packet) + 2 for packet in book.stack.data_to_send(book.now, room)) <= room


def test_source_addresses_follow_the_destination() -> None:
    stack = Stack(A, "fd00::1", urandom=seeded_urandom(1), loopback=True)
    assert stack.connect(B, 1, 0.0, local_address="0.0.0.0").local[0] == A
    assert stack.connect("fd00::2", 1, 0.0, local_address="::").local[0] == "fd00::1"
    assert stack.connect(B, 1, 0.0, local_address="::").local[0] == A
    assert stack.connect("127.0.0.1", 1, 0.0, local_address=A).local[0] == A
    for addr, local, expected in (
        ("fd00::2", A, errno.ENETUNREACH),
        ("fd00::2", "0.0.0.0", errno.ENETUNREACH),
        (B, "127.0.0.1", errno.ENETUNREACH),
        (B, "9.9.9.9", errno.EADDRNOTAVAIL),
    ):
        with pytest.raises(OSError) as caught:
            stack.connect(addr, 1, 0.0, local_address=local)
        assert caught.value.errno == expected


def test_an_exit_whose_table_is_full_says_so() -> None:
    client, _ = stacks()
    terminal = Stack(None, urandom=seeded_urandom(9), any_address=True, config=StackConfig(max_connections=0))
    client.connect(WEB, 443, 0.0)
    exchange(client, terminal, rounds=1)
    ((request, _),) = list(terminal.events())
    assert isinstance(request, Incoming)
    with pytest.raises(OSError) as caught:
        request.accept()
    assert caught.value.errno == errno.ENOBUFS
