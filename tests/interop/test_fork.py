"""A fork in mid-transfer: the child has no tunnel, and the parent's gateway sees nothing of it."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path

import pytest
from support.transfers import body, upload

from smolmix_sync.localnet import LocalNet
from smolmix_sync.reactor import _real
from smolmix_sync.tunnel import Tunnel

pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


def test_fork_in_mid_transfer_leaves_the_gateways_byte_stream_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[int, list[bytes]] = {}  # by the peer's port: other tunnels of this process send too
    send = _real.RealSocket.send

    def recording_send(self: _real.RealSocket, data: bytes, *args: int) -> int:
        count = send(self, data, *args)
        if recording:
            sent.setdefault(self._sock.getpeername()[1], []).append(bytes(data[:count]))
        return count

    recording = True
    monkeypatch.setattr(_real.RealSocket, "send", recording_send)
    with (
        LocalNet(capture_dir=str(tmp_path), set_default=False) as net,
        Tunnel(**net.client_settings()) as tunnel,
    ):
        data = body(300_000)
        result: dict[str, object] = {}
        worker = threading.Thread(target=lambda: result.update(upload(tunnel, data)))
        idle = tunnel.create_connection(("echo.localnet", 7), timeout=20)
        worker.start()
        codes = []
        for _ in range(5):
            worker.join(0.4)
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    code = use_in_child(tunnel)
                finally:
                    os._exit(code)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        assert codes == [0] * 5
        worker.join(60)
        assert result["sha256"] == hashlib.sha256(data).hexdigest()
        idle.sendall(b"still here")
        assert idle.recv(100) == b"still here"
        idle.close()
        assert tunnel.stats().reconnects == 0
        recording = False
        _, port = net.node("entry").ports["ws"]
    captured = next(p for p in tmp_path.iterdir() if "client" in p.name and "entry" in p.name).read_bytes()
    websocket = b"".join(sent[port])
    assert len(websocket) > 500_000
    same = captured[: len(websocket)] == websocket
    assert same  # not in one expression: a diff of half a megabyte takes for ever


def use_in_child(tunnel: Tunnel) -> int:
    """Return 0 if every use of the parent's tunnel ends in ENETDOWN."""
    for call in (
        lambda: tunnel.create_connection(("198.51.100.10", 7), timeout=5),
        lambda: tunnel.getaddrinfo("www.localnet", 80),
    ):
        try:
            call()
        except OSError as error:
            if error.errno != errno.ENETDOWN and not isinstance(error, __import__("socket").gaierror):
                return 2
        else:
            return 3
    return 0
