"""The control socket of a running localnet: one JSON line in, one JSON line out.

The supervisor listens on an AF_UNIX socket (mode 0600) in the state directory.
A request is ``{"op": "stats"}`` or ``{"op": "kill", "node": "mix2"}``; the answer
is ``{"ok": ...}`` or ``{"error": "..."}``. Every request is a connection of its
own, so threads and forked children may use one `ControlClient` at once.
"""

from __future__ import annotations

# The C type: this runs in processes where socket.socket may be patched.
import _socket
import contextlib
import json
from typing import Any

__all__ = ["ControlClient", "ControlError"]

_MAX_ANSWER = 16 << 20


class ControlError(RuntimeError):
    """The supervisor refused or failed a request; the message says why."""


class ControlClient:
    """Sends requests to a supervisor.

    Args:
        path: the control socket.
        timeout: seconds that one request may take.
    """

    def __init__(self, path: str, timeout: float = 30.0) -> None:
        self.path = path
        self.timeout = timeout

    def request(self, op: str, **arguments: Any) -> Any:
        """Return the answer to one request.

        Raises:
            ControlError: the supervisor said no, or closed without an answer.
            OSError: nobody listens at the path, or no answer came in time.
        """
        line = json.dumps({"op": op, **arguments}).encode() + b"\n"
        with contextlib.closing(_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)) as sock:
            sock.settimeout(self.timeout)
            sock.connect(self.path)
            sock.sendall(line)
            answer = bytearray()
            while not answer.endswith(b"\n"):
                chunk = sock.recv(65536)
                if not chunk:
                    raise ControlError(f"{op}: the supervisor closed the connection")
                answer += chunk
                if len(answer) > _MAX_ANSWER:
                    raise ControlError(f"{op}: answer too long")
        reply = json.loads(answer)
        if "error" in reply:
            raise ControlError(f"{op}: {reply['error']}")
        return reply["ok"]
