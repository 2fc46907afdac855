"""``smolmix-sync ping``."""

from __future__ import annotations

import pytest

import smolmix_sync
from smolmix_sync.cli import main
from smolmix_sync.localnet import LocalNet

pytestmark = [pytest.mark.interop, pytest.mark.slow]


def test_answers_and_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with LocalNet():
        assert main(["ping", "-c", "2", "-i", "0.1", "www.localnet"]) == 0
        out = capsys.readouterr().out
        assert "seq=2 time=" in out
        assert "2 sent, 2 answered, 0 % lost" in out
        assert main(["ping", "-c", "1", "-W", "1", "silent.localnet"]) == 1
        assert "1 sent, 0 answered, 100 % lost" in capsys.readouterr().out
        assert main(["ping", "no-such-host.localnet"]) == 1
    assert smolmix_sync.get_tunnel() is None
    assert main(["ping", "-c", "0", "www.localnet"]) == 2
