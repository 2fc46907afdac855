"""Whole transfers over bad links: loss, reordering, duplication, the mixnet model, random programs, fuzz."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.netsim import Deadlock, NetSim, Spin, TimeLimit, Transfer, check_scoreboard, seeded_urandom
from support.netsim_adversary import NearTheWrap
from support.netsim_scenarios import LINUX

from smolmix_sync.netstack import Conn, Stack, StackConfig, State, TcpSettings
from smolmix_sync.netstack.checksum import internet_checksum, transport_checksum

A, B = "10.0.0.2", "10.0.0.1"
A6, B6 = "fd00::2", "fd00::1"


def hosts(
    seed: int, client: StackConfig | None = None, server: StackConfig | None = None
) -> tuple[Stack, Stack]:
    return (
        Stack(A, A6, config=client, urandom=seeded_urandom(seed)),
        Stack(B, B6, config=server, urandom=seeded_urandom(seed + 1000)),
    )


# -- the mixnet model of spec/netstack.md section 9


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_one_mebibyte_up_paced_takes_about_16_seconds(seed: int) -> None:
    net = NetSim(seed)
    a, b = hosts(seed, server=LINUX)
    model = net.mixnet(a, b)
    transfer = Transfer(net, a, b, B, up=1 << 20)
    net.run(until=lambda: transfer.done_at >= 0, limit=60)
    assert not transfer.bad
    assert transfer.done_at < 17.5
    assert transfer.conn.retransmissions <= 2
    assert model.up.sphinx_packets < 800


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_one_mebibyte_down_paced_takes_about_two_and_a_half_seconds(seed: int) -> None:
    net = NetSim(seed)
    a, b = hosts(seed, server=LINUX)
    model = net.mixnet(a, b)
    transfer = Transfer(net, a, b, B, down=1 << 20)
    net.run(until=lambda: transfer.done_at >= 0, limit=60)
    assert not transfer.bad
    assert transfer.done_at < 2.8
    assert model.up.sphinx_packets < 80
    assert transfer.conn.rcv.out_of_order > 400  # the link does reorder


def test_a_paced_upload_with_loss_and_no_resend_below_us_pitfall_1() -> None:
    net = NetSim(5)
    a, b = hosts(5, server=LINUX)
    net.mixnet(a, b, loss=0.03, resend=0)
    transfer = Transfer(net, a, b, B, up=300_000)
    net.run(until=lambda: transfer.done_at >= 0, limit=120)
    assert not transfer.bad
    assert 0 < transfer.conn.retransmissions < 40
    assert transfer.done_at < 12


def test_the_same_seed_gives_the_same_run() -> None:
    def run() -> tuple[float, int, dict[str, int | float | str]]:
        net = NetSim(11)
        a, b = hosts(11)
        net.mixnet(a, b, loss=0.02)
        transfer = Transfer(net, a, b, B, up=50_000, down=100_000)
        net.run(until=lambda: transfer.done_at >= 0, limit=120)
        return net.now, net.events, transfer.conn.info()

    assert run() == run()


# -- bad links


@pytest.mark.parametrize("addr", [B, B6])
@pytest.mark.parametrize("seed", [1, 2])
def test_five_percent_loss_with_heavy_reordering_completes(addr: str, seed: int) -> None:
    net = NetSim(seed)
    a, b = hosts(seed)
    net.link(a, b, latency=0.05, jitter=0.05, loss=0.05, duplicate=0.05)
    transfer = Transfer(net, a, b, addr, up=300_000, down=300_000)
    net.application(lambda: check_scoreboard(transfer.conn) if net.events % 50 == 0 else None)
    net.run(until=lambda: transfer.done_at >= 0, limit=300)
    assert not transfer.bad
    sent = transfer.conn.info()
    assert sent["retransmissions"] > 0
    segments = 300_000 / transfer.conn.mss
    assert sent["retransmissions"] < 0.2 * segments  # holes only, never go-back-N


@pytest.mark.parametrize(
    "options",
    [
        {"timestamps": False},
        {"sack": False},
        {"window_scale": False},
        {"timestamps": False, "sack": False, "window_scale": False},
    ],
)
def test_loss_is_survived_without_any_option(options: dict[str, bool]) -> None:
    net = NetSim(3)
    a, b = hosts(3, server=StackConfig(**options))  # type: ignore[arg-type]
    net.link(a, b, latency=0.02, jitter=0.02, loss=0.05)
    transfer = Transfer(net, a, b, B, up=200_000, down=60_000)
    net.run(until=lambda: transfer.done_at >= 0, limit=900)
    assert not transfer.bad
    assert transfer.conn.retransmissions > 0


@pytest.mark.parametrize("loss", [0.2, 0.4])
def test_terrible_loss_is_survived(loss: float) -> None:
    net = NetSim(4)
    a, b = hosts(4)
    net.link(a, b, latency=0.05, jitter=0.1, loss=loss)
    transfer = Transfer(net, a, b, B, up=20_000, down=20_000)
    net.run(until=lambda: transfer.done_at >= 0 or bool(transfer.conn.error), limit=900)
    assert transfer.done_at >= 0
    assert not transfer.bad


def test_small_rooms_carry_a_transfer() -> None:
    net = NetSim(6)
    a, b = hosts(6)
    net.link(a, b, latency=0.03, jitter=0.03, loss=0.03, room=700)
    transfer = Transfer(net, a, b, B, up=50_000, down=50_000)
    net.run(until=lambda: transfer.done_at >= 0, limit=200)
    assert not transfer.bad


def test_small_buffers_and_an_outage() -> None:
    small = StackConfig(tcp=TcpSettings(sndbuf=8192, rcvbuf=8192, rcvbuf_max=8192))
    net = NetSim(7)
    a, b = hosts(7, small, small)
    forward, back = net.link(a, b, latency=0.05, jitter=0.02, loss=0.01)
    transfer = Transfer(net, a, b, B, up=200_000, down=200_000)

    def switch(up: bool) -> None:
        forward.up = back.up = up

    net.at(2.0, switch, False)
    net.at(42.0, switch, True)
    net.run(until=lambda: transfer.done_at >= 0, limit=300)
    assert not transfer.bad
    assert transfer.done_at > 42.0


def test_a_path_that_drops_large_packets_is_discovered_by_icmp() -> None:
    from smolmix_sync.netstack import icmp, ipv4

    net = NetSim(8)
    a, b = hosts(8)
    forward, _ = net.link(a, b, latency=0.02)

    def router(packet: bytes) -> bytes | None:
        if len(packet) <= 1400:
            return packet
        ours, theirs = packet[12:16], b"\x0a\0\0\x63"
        message = icmp.encode(theirs, ours, 3, 4, b"\0\0\x05\x78", packet[:548])
        net.after(0.01, a.receive_data, ipv4.encode(theirs, ours, 1, message), net.now)
        net.after(0.011, net.kick, a)
        return None

    forward.tap = router
    transfer = Transfer(net, a, b, B, up=100_000)
    # The peer advertises 1380, so only a larger MSS meets the router.
    transfer.conn.peer_mss = 1460
    net.run(until=lambda: transfer.done_at >= 0, limit=60)
    assert not transfer.bad


@pytest.mark.parametrize("addr", [B, B6])
def test_a_large_window_passes_the_wrap_of_sequence_numbers(addr: str) -> None:
    net = NetSim(10)
    a, b = hosts(10)
    for stack in (a, b):
        stack._numbers = NearTheWrap(seeded_urandom(1))
    net.link(a, b, latency=0.05, jitter=0.03, loss=0.01)
    transfer = Transfer(net, a, b, addr, up=400_000, down=400_000)
    widest = 0

    def watch() -> None:
        nonlocal widest
        widest = max(widest, transfer.conn.snd.snd_nxt - transfer.conn.snd.snd_una)

    net.application(watch)
    net.run(until=lambda: transfer.done_at >= 0, limit=60)
    assert not transfer.bad
    assert widest > 65535
    snd, rcv = transfer.conn.snd, transfer.conn.rcv
    assert snd.iss + snd.snd_nxt > 1 << 32
    assert rcv.irs + rcv.rcv_nxt > 1 << 32


def test_a_driver_that_stops_at_a_condition_has_sent_what_was_due_pitfall_4() -> None:
    net = NetSim(11)
    a, b = hosts(11)
    net.link(a, b, latency=0.05)
    transfer = Transfer(net, a, b, B, up=1000)
    net.run(until=transfer.complete, limit=10)
    for stack in (a, b):
        due = stack.next_deadline()
        assert due is None or due > net.now
    peer = transfer.peer
    assert isinstance(peer, Conn)
    net.run(until=net.now + 0.5)
    assert peer.state is State.CLOSED  # the acknowledgement of its FIN was not left unsent


def test_connects_survive_twenty_percent_loss() -> None:
    net = NetSim(9)
    a, b = hosts(9)
    net.link(a, b, latency=0.1, jitter=0.1, loss=0.2)
    b.listen(None, 80, backlog=200)
    conns = [a.connect(B, 80, 0.0) for _ in range(100)]
    net.run(until=lambda: all(conn.state is State.ESTABLISHED or conn.error for conn in conns), limit=200)
    assert sum(conn.error == 0 for conn in conns) >= 99


# -- the simulator itself


class _Idle:
    def __init__(self, due: float | None) -> None:
        self.due = due

    def receive_data(self, packet: bytes, now: float) -> None: ...

    def data_to_send(self, now: float, room: int | None = None) -> list[bytes]:
        return []

    def next_deadline(self) -> float | None:
        return self.due

    def handle_deadline(self, now: float) -> None: ...


def test_the_simulator_finds_deadlocks_spins_and_late_runs() -> None:
    net = NetSim()
    net.link(_Idle(None), _Idle(None))
    with pytest.raises(Deadlock):
        net.run(until=lambda: False)
    net = NetSim()
    net.link(_Idle(0.0), _Idle(None))
    with pytest.raises(Spin):
        net.run(until=lambda: False)
    net = NetSim()
    net.link(_Idle(700.0), _Idle(None))
    with pytest.raises(TimeLimit):
        net.run(until=lambda: False, limit=600)


# -- random programs


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_program_over_any_fair_link_keeps_the_stream(data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 10**6))
    rng = random.Random(seed)
    config = StackConfig(
        tcp=TcpSettings(
            sndbuf=data.draw(st.sampled_from([2000, 20_000, 256 * 1024])),
            rcvbuf=data.draw(st.sampled_from([2000, 70_000, 1 << 20])),
            nodelay=data.draw(st.booleans()),
            rcvbuf_max=0,
        ),
        timestamps=data.draw(st.booleans()),
        sack=data.draw(st.booleans()),
    )
    net = NetSim(seed)
    a, b = hosts(seed, config)
    forward, back = net.link(
        a, b,
        latency=data.draw(st.sampled_from([0.0, 0.01, 0.3])),
        jitter=data.draw(st.sampled_from([0.0, 0.02, 0.2])),
        loss=data.draw(st.sampled_from([0.0, 0.05, 0.2])),
        duplicate=data.draw(st.sampled_from([0.0, 0.2])),
        room=data.draw(st.sampled_from([None, 1500, 600])),
    )  # fmt: skip
    listener = b.listen(None, 80)
    conn = a.connect(data.draw(st.sampled_from([B, B6])), 80, 0.0)
    peer: Conn | None = None
    written = {True: bytearray(), False: bytearray()}
    read = {True: bytearray(), False: bytearray()}
    for _ in range(data.draw(st.integers(1, 25))):
        peer = peer or listener.accept()
        action = rng.choice(["send", "send", "recv", "wait", "wait", "peer_send", "peer_recv", "shutdown"])
        side = action.startswith("peer_")
        end = peer if side else conn
        if action.endswith("send") and end is not None:
            payload = rng.randbytes(rng.choice([1, 10, 1000, 5000, 50_000]))
            try:
                size = end.send(payload)
                written[side] += payload[:size]
            except BrokenPipeError:
                pass
        elif action.endswith("recv") and end is not None:
            read[not side] += end.recv(rng.choice([1, 100, 10_000]))
        elif action == "shutdown" and rng.random() < 0.2:
            conn.shutdown_write()
        net.kick()
        net.run(until=net.now + rng.choice([0.0, 0.005, 0.1, 1.5]))
        check_scoreboard(conn)
        for key in (True, False):
            assert written[key].startswith(read[key])
    forward.loss = back.loss = 0.0
    finished: dict[bool, bool] = {True: False, False: False}

    def finish() -> None:
        nonlocal peer
        peer = peer or listener.accept()
        for side, end in ((False, conn), (True, peer)):
            if end is not None:
                if end.open:
                    end.shutdown_write()
                read[not side] += end.recv(10**6)
                finished[side] = end.eof()

    net.application(finish)
    net.run(until=lambda: all(finished.values()) or bool(conn.error), limit=400)
    if not conn.error:
        assert written == read
    conn.close()
    if peer is not None:
        peer.close()
    net.kick()
    net.run(until=net.now + 200)
    assert not a.connections
    assert not b.connections
    assert a.next_deadline() is None
    assert b.next_deadline() is None


# -- fuzz


def repair(packet: bytearray) -> bytes:
    """Make the checksums right again, so that a mutation reaches the state machine."""
    if len(packet) < 40 or packet[0] != 0x45:
        return bytes(packet)
    packet[2:4] = len(packet).to_bytes(2, "big")
    packet[10:12] = b"\0\0"
    packet[10:12] = internet_checksum(bytes(packet[:20])).to_bytes(2, "big")
    field = {6: 36, 1: 22}.get(packet[9])
    if field is not None:
        packet[field : field + 2] = b"\0\0"
        data = bytes(packet[20:])
        if packet[9] == 6:
            value = transport_checksum(bytes(packet[12:16]), bytes(packet[16:20]), 6, data)
        else:
            value = internet_checksum(data)
        packet[field : field + 2] = value.to_bytes(2, "big")
    return bytes(packet)


@pytest.mark.parametrize("seed", range(6))
def test_mutated_and_replayed_packets_never_raise_and_leave_bounded_state(seed: int) -> None:
    rng = random.Random(seed)
    a, b = hosts(seed)
    listener = b.listen(None, 80)
    corpus: list[bytes] = []
    now = 0.0
    conn = a.connect(B, 80, now)
    accepted: list[Conn] = []
    for step in range(1500):
        now += rng.random() * 0.3
        if conn.state is State.CLOSED or step % 100 == 99:
            conn.abort()
            conn = a.connect(B, 80, now)
        action = rng.random()
        if action < 0.3 and conn.state is not State.CLOSED and not conn.snd.fin_queued:
            conn.send(rng.randbytes(rng.randrange(3000)))
        elif action < 0.34:
            conn.shutdown_write()
        elif action < 0.36:
            conn.close()
        for sender, receiver in ((a, b), (b, a)):
            for packet in sender.data_to_send(now)[:30]:
                if len(corpus) < 500:
                    corpus.append(packet)
                else:
                    corpus[rng.randrange(500)] = packet
                mutated = bytearray(packet)
                if rng.random() < 0.4:
                    for _ in range(rng.randrange(1, 4)):
                        mutated[rng.randrange(20, len(mutated))] = rng.randrange(256)
                    if rng.random() < 0.3:
                        del mutated[rng.randrange(len(mutated)) :]
                    if rng.random() < 0.9:
                        mutated = bytearray(repair(mutated))
                receiver.receive_data(bytes(mutated), now)
                if rng.random() < 0.2:
                    receiver.receive_data(rng.choice(corpus), now)
        while (new := listener.accept()) is not None:
            accepted.append(new)
        for peer in accepted[-3:]:
            peer.recv(10_000)
            if rng.random() < 0.2 and peer.writable():
                peer.send(bytes(rng.randrange(4000)))
            if rng.random() < 0.02:
                peer.close()
        conn.recv(5000)
        list(a.events())
        list(b.events())
        for end in (conn, *accepted[-1:]):
            if end.state is not State.CLOSED:
                check_scoreboard(end)
    assert len(accepted) > 3
    a.shutdown(5)
    b.shutdown(5)
    assert a.next_deadline() is None
    assert b.next_deadline() is None
