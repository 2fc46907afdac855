from __future__ import annotations

from support.chaos import ChaosWorld, live

from smolmix_sync.reactor.report import TunnelState


def test_client_becomes_ready_and_moves_its_octets() -> None:
    def body(world: ChaosWorld) -> None:
        assert world.session.state is TunnelState.READY
        world.traffic.run("download", lambda: world.traffic.download(100_000))
        world.check()
        print(world.traffic.figures, world.marks, world.reactor.now())

    live(1, body)
