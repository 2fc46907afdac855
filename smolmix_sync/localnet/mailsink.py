"""An SMTP server that accepts every mail and keeps the last ones in memory.

Source: RFC 5321; RFC 1870 (SIZE); RFC 6152 (8BITMIME); RFC 4954 (AUTH PLAIN and LOGIN, every
password is right); RFC 3207 (STARTTLS).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
from collections import Counter, deque
from typing import Any

__all__ = ["MailSink"]

_MAX_MAIL = 32 << 20
_MAX_LINE = 1 << 16
_KEPT = 64
_IDLE_TIMEOUT = 300.0


class MailSink:
    """The server; `mails` are the last mails, oldest first, as JSON types."""

    def __init__(self, counters: Counter[str], tls: ssl.SSLContext | None) -> None:
        self._counters = counters
        self._tls = tls
        self._server: asyncio.Server | None = None
        self.mails: deque[dict[str, Any]] = deque(maxlen=_KEPT)

    async def listen(self, address: str, port: int) -> None:
        """Open the listener."""
        self._server = await asyncio.start_server(
            self._serve, address, port, reuse_address=True, limit=_MAX_LINE
        )

    def close(self) -> None:
        """Close the listener."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = _Session(self, reader, writer)
        with contextlib.suppress(OSError, ValueError, TimeoutError):
            await session.run()
        writer.close()

    def accept(self, sender: str, recipients: list[str], data: bytes) -> None:
        """Keep one mail."""
        self._counters["mails"] += 1
        self._counters["mail_bytes"] += len(data)
        self.mails.append({
            "from": sender,
            "to": recipients,
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "text": data[:65536].decode("utf-8", "replace"),
        })  # fmt: skip

    @property
    def tls(self) -> ssl.SSLContext | None:
        """What STARTTLS uses."""
        return self._tls


class _Session:
    def __init__(self, sink: MailSink, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._sink = sink
        self._reader = reader
        self._writer = writer
        self._secure = False
        self._sender: str | None = None
        self._recipients: list[str] = []

    async def _say(self, *lines: str) -> None:
        code, _, _ = lines[0].partition(" ")
        texts = [line.removeprefix(f"{code} ") for line in lines]
        for index, text in enumerate(texts):
            self._writer.write(f"{code}{' ' if index + 1 == len(texts) else '-'}{text}\r\n".encode())
        await self._writer.drain()

    async def _line(self) -> bytes:
        return await asyncio.wait_for(self._reader.readline(), _IDLE_TIMEOUT)

    async def run(self) -> None:
        await self._say("220 mail.localnet ESMTP")
        while line := await self._line():
            verb, _, argument = line.decode("utf-8", "replace").strip().partition(" ")
            if not await self._command(verb.upper(), argument):
                return

    async def _command(self, verb: str, argument: str) -> bool:
        match verb:
            case "HELO":
                await self._say("250 mail.localnet")
            case "EHLO":
                starttls = ["250 STARTTLS"] if self._sink.tls is not None and not self._secure else []
                features = ["250 8BITMIME", "250 SMTPUTF8", "250 AUTH PLAIN LOGIN", *starttls]
                await self._say("250 mail.localnet", f"250 SIZE {_MAX_MAIL}", *features)
            case "MAIL" if argument.upper().startswith("FROM:"):
                self._sender, self._recipients = _path(argument[5:]), []
                await self._say("250 ok")
            case "RCPT" if argument.upper().startswith("TO:") and self._sender is not None:
                recipient = _path(argument[3:])
                if recipient.startswith("nobody@"):
                    await self._say("550 no such user here")
                else:
                    self._recipients.append(recipient)
                    await self._say("250 ok")
            case "DATA" if self._recipients:
                await self._say("354 go ahead, end with a dot")
                return await self._data()
            case "AUTH":
                return await self._auth(argument)
            case "STARTTLS" if self._sink.tls is not None and not self._secure:
                await self._say("220 ready")
                await self._writer.start_tls(self._sink.tls)
                self._secure = True
            case "RSET":
                self._sender, self._recipients = None, []
                await self._say("250 ok")
            case "NOOP":
                await self._say("250 ok")
            case "VRFY":
                await self._say("252 send some mail")
            case "QUIT":
                await self._say("221 bye")
                return False
            case "MAIL" | "RCPT" | "DATA" | "STARTTLS":
                await self._say("503 bad sequence of commands")
            case _:
                await self._say("502 command not implemented")
        return True

    async def _data(self) -> bool:
        mail = bytearray()
        while (line := await self._line()) not in (b".\r\n", b".\n"):
            if not line:
                return False
            mail += line[1:] if line.startswith(b".") else line
            if len(mail) > _MAX_MAIL:
                await self._say("552 too large")
                return False
        assert self._sender is not None
        self._sink.accept(self._sender, self._recipients, bytes(mail))
        self._sender, self._recipients = None, []
        await self._say("250 accepted")
        return True

    async def _auth(self, argument: str) -> bool:
        method, _, initial = argument.partition(" ")
        if method.upper() == "PLAIN":
            if not initial:
                await self._say("334 ")
                await self._line()
        elif method.upper() == "LOGIN":
            for prompt in ("VXNlcm5hbWU6", "UGFzc3dvcmQ6")[1 if initial else 0 :]:
                await self._say(f"334 {prompt}")
                await self._line()
        else:
            await self._say("504 unknown mechanism")
            return True
        await self._say("235 welcome")
        return True


def _path(text: str) -> str:
    """Return the address between angle brackets."""
    return text.strip().partition("<")[2].partition(">")[0] if "<" in text else text.split()[0]
