"""READY means that something came back: what counts as that, and what does not."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from support.greenlets import in_greenlet

from smolmix_sync.config import TunnelConfig
from smolmix_sync.errors import IprError, NoExit
from smolmix_sync.netstack import Stack
from smolmix_sync.reactor.loop import ReactorLoop
from smolmix_sync.reactor.probe import IPV6_RESOLVER, ExitProbe

CONFIG = TunnelConfig(primary_dns="1.1.1.1", fallback_dns="9.9.9.9")


@pytest.fixture(scope="module")
def loop() -> Iterator[ReactorLoop]:
    reactor = ReactorLoop().start()
    yield reactor
    reactor.stop()


class Exit:
    """Carries packets between a new stack and the hosts behind an exit; *protocols* are the ones let through."""

    def __init__(self, loop: ReactorLoop, *hosts: Stack, protocols: tuple[int, ...] = (1, 6, 17, 58)) -> None:
        self.loop = loop
        self.hosts = hosts
        self.protocols = protocols
        self.stack = Stack("10.0.0.2", "fc00::2", urandom=os.urandom)
        self.sent = 0
        self.probe = ExitProbe(self.stack, CONFIG, loop, self.carry)

    def carry(self) -> None:
        now = self.loop.now()
        for packet in self.stack.data_to_send(now):
            self.sent += 1
            if (packet[9] if packet[0] >> 4 == 4 else packet[6]) in self.protocols:
                for host in self.hosts:
                    host.receive_data(packet, now)
        for host in self.hosts:
            deadline = host.next_deadline()
            if deadline is not None and deadline <= now:
                host.handle_deadline(now)
            for packet in host.data_to_send(now):
                self.stack.receive_data(packet, now)

    def run(self, seconds: float) -> None:
        def run() -> None:
            self.probe.run(self.loop.now() + seconds, lambda: None)

        in_greenlet(self.loop, run)


def host(v4: str, v6: str | None = None, *, listen: bool = False) -> Stack:
    stack = Stack(v4, v6, urandom=os.urandom)
    if listen:
        stack.listen("0.0.0.0", 53)
    return stack


@pytest.mark.slow
def test_exit_that_carries_nothing_fails_the_probe(loop: ReactorLoop) -> None:
    exit_ = Exit(loop)
    with pytest.raises(NoExit, match="nothing comes back"):
        exit_.run(2.5)
    assert exit_.sent > 4, "it asked over UDP, again, and over TCP"
    assert not exit_.probe.ipv6_works


def test_refusal_by_a_resolver_has_been_to_the_other_side_too(loop: ReactorLoop) -> None:
    exit_ = Exit(loop, host("1.1.1.1"), protocols=(6,))
    exit_.run(5.0)


def test_handshake_is_enough_where_udp_is_dropped(loop: ReactorLoop) -> None:
    exit_ = Exit(loop, host("1.1.1.1", listen=True), protocols=(6,))
    exit_.run(5.0)


@pytest.mark.parametrize("resolver", ["1.1.1.1", "9.9.9.9"])
def test_datagram_from_either_resolver_is_enough(loop: ReactorLoop, resolver: str) -> None:
    server = host(resolver)
    udp = server.udp(resolver, 53)
    exit_ = Exit(loop, server, protocols=(17,))

    def answer() -> None:
        exit_.carry()
        while (got := udp.recv()) is not None:
            udp.sendto(got[0], *got[1])

    exit_.probe._wake = answer
    exit_.run(5.0)
    assert not exit_.probe.ipv6_works


def test_answer_over_ipv6_tells_that_the_exit_has_it(loop: ReactorLoop) -> None:
    server = host("192.0.2.1", IPV6_RESOLVER)
    udp = server.udp(IPV6_RESOLVER, 53)
    exit_ = Exit(loop, server)

    def answer() -> None:
        exit_.carry()
        while (got := udp.recv()) is not None:
            udp.sendto(got[0], *got[1])

    exit_.probe._wake = answer
    exit_.run(5.0)
    assert exit_.probe.ipv6_works


def test_probe_ends_at_once_when_going_on_makes_no_sense(loop: ReactorLoop) -> None:
    exit_ = Exit(loop)

    def check() -> None:
        raise IprError("the gateway is gone")

    with pytest.raises(IprError, match="gateway"):
        in_greenlet(loop, lambda: exit_.probe.run(loop.now() + 5, check))
    exit_.probe.close()
