"""A client of the daemon that means harm: raw packets over AF_UNIX, and what they leave behind in the daemon."""

from __future__ import annotations

import array
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from smolmix_sync.daemon.protocol import Reply

__all__ = ["RawClient", "ServedDaemon"]

TESTS = Path(__file__).resolve().parents[1]


class ServedDaemon:
    """A daemon over a stack that is its own network, in a process of its own."""

    def __init__(self, path: Path, limit: int = 4096) -> None:
        self.path = path
        self._stderr = path.with_suffix(".stderr").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, str(TESTS / "daemon" / "served_stack.py"), str(path), "0.002", str(limit)],
            env={**os.environ, "PYTHONPATH": str(TESTS)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "serving\n"

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    @property
    def memory(self) -> int:
        """Octets that are resident."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        [line] = [line for line in text.splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1]) * 1024

    def complaints(self) -> str:
        """What it wrote to stderr so far."""
        return self.path.with_suffix(".stderr").read_text()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._stderr.close()
        self.process.kill()
        self.process.wait(10)


class RawClient:
    """One control connection."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(5)
        self.sock.connect(str(path))
        self.received: list[int] = []

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()
        for fd in self.received:
            os.close(fd)
        self.received.clear()

    def send(self, packet: bytes, fds: Sequence[int] = ()) -> bool:
        """Send one packet; False if the daemon has hung up."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self.sock.sendmsg([packet], rights)
        except OSError:
            return False
        return True

    def receive(self, timeout: float = 5.0) -> Reply | None:
        """Return the next reply; None when the daemon has hung up.

        Raises:
            TimeoutError: nothing came.
        """
        if not select.select([self.sock], [], [], timeout)[0]:
            raise TimeoutError("no reply")
        try:
            data, ancillary, _, _ = self.sock.recvmsg(70_000, socket.CMSG_SPACE(64))
        except OSError:
            return None
        for level, kind, octets in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers = array.array("i")
                numbers.frombytes(octets[: len(octets) // 4 * 4])
                self.received += numbers
        return Reply.decode_untrusted(data) if data else None

    def ask(self, packet: bytes, fds: Sequence[int] = (), timeout: float = 5.0) -> Reply | None:
        """Send and return the reply."""
        if not self.send(packet, fds):
            return None
        return self.receive(timeout)

    def drain(self, quiet: float = 0.05, limit: float = 10.0) -> list[Reply]:
        """Return replies until nothing comes for a moment."""
        replies = []
        until = time.monotonic() + limit
        while time.monotonic() < until:
            try:
                reply = self.receive(quiet)
            except TimeoutError:
                break
            if reply is None:
                break
            replies.append(reply)
        return replies
