"""``smolmix-sync ws``."""

from __future__ import annotations

import pytest

from smolmix_sync.cli import main
from smolmix_sync.localnet import LocalNet

pytestmark = [pytest.mark.interop, pytest.mark.slow]


def test_messages_go_and_their_echoes_come(
    capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalNet() as net:
        monkeypatch.setenv("SSL_CERT_FILE", str(net.ca_path))
        assert main(["ws", "wss://www.localnet/ws", "-s", "echo", "-m", "one", "-m", "two"]) == 0
        captured = capfdbinary.readouterr()
        assert captured.out == b"one\ntwo\n"
        assert b"subprotocol echo" in captured.err
        assert main(["ws", "ws://www.localnet/no-such-page", "-m", "x"]) == 1
        assert main(["ws", "ws://closed.localnet/", "-m", "x"]) == 1
        assert b"refused" in capfdbinary.readouterr().err
    assert main(["ws", "http://www.localnet/"]) == 2
