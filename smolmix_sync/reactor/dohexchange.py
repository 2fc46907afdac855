"""DNS questions over HTTPS, sans-IO: ciphertext in and out, an answer's octets at the end of each.

The server is an IP literal, and its certificate must name that address: no name is needed to find the names' server.

Source: RFC 8484 (DoH), RFC 8467 (padding is the query's), RFC 9110.
"""

from __future__ import annotations

import _ssl
from typing import Any

import h11

__all__ = ["DOH_PORT", "DohExchange"]

DOH_PORT = 443
_TYPE = "application/dns-message"
# Ours: what an answer may be long; DNS itself has no longer message.
_MAX_ANSWER = 65535
_READ = 16384


class DohExchange:
    """A TLS session with one POST after the other in it.

    Args:
        context: a C-level TLS context that verifies.
        server: the address asked, the name in the certificate and in the Host field.
        query: the first DNS message.

    Attributes:
        answer: the response's content once it is complete.
        failed: why there will be none.
        answered: how many questions were answered before this one.
    """

    def __init__(self, context: Any, server: str, query: bytes) -> None:
        self.answer: bytes | None = None
        self.failed = ""
        self.answered = 0
        self._incoming = _ssl.MemoryBIO()
        self._outgoing = _ssl.MemoryBIO()
        self._tls = context._wrap_bio(self._incoming, self._outgoing, False, server_hostname=server)
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=16384)
        self._query = query
        self._host = f"[{server}]" if ":" in server else server
        self._shaken = False
        self._body = bytearray()
        self._step()

    @property
    def done(self) -> bool:
        """Whether there is nothing more to do."""
        return self.answer is not None or bool(self.failed)

    @property
    def reusable(self) -> bool:
        """Whether another question may follow: the answer is there, and the server keeps the connection."""
        return (
            self.answer is not None
            and self._http.our_state is h11.DONE
            and self._http.their_state is h11.DONE
            and not self._http.trailing_data[0]
        )

    def ask(self, query: bytes) -> None:
        """Ask the next question of a session that is :attr:`reusable`."""
        assert self.reusable
        self._http.start_next_cycle()
        self.answer = None
        self.answered += 1
        self._query = query
        self._body.clear()
        self._ask()

    def data_to_send(self) -> bytes:
        """Return the octets for the server."""
        return self._outgoing.read()

    def receive_data(self, data: bytes) -> None:
        """Take octets of the server; b"" is the end of its stream."""
        if self.done:
            return
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        self._step()

    def _step(self) -> None:
        try:
            if not self._shaken:
                self._tls.do_handshake()
                self._shaken = True
                self._ask()
            while not self.done:
                self._read(self._tls.read(_READ))
        except (_ssl.SSLWantReadError, _ssl.SSLWantWriteError):
            pass
        except _ssl.SSLCertVerificationError as error:
            self.failed = f"the certificate does not verify: {getattr(error, 'verify_message', error)}"
        except (_ssl.SSLEOFError, _ssl.SSLZeroReturnError):
            self._read(b"")
        except _ssl.SSLError as error:
            self.failed = f"TLS: {error}"

    def _ask(self) -> None:
        headers = [
            ("Host", self._host), ("Accept", _TYPE), ("Content-Type", _TYPE),
            ("Content-Length", str(len(self._query))),
        ]  # fmt: skip
        for event in (
            h11.Request(method="POST", target="/dns-query", headers=headers),
            h11.Data(data=self._query),
            h11.EndOfMessage(),
        ):
            self._tls.write(self._http.send(event) or b"")

    def _read(self, data: bytes) -> None:
        try:
            self._http.receive_data(data)
            while not self.done:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    if not data:
                        self.failed = "the connection ended before the answer"
                    return
                self._take(event)
        except h11.RemoteProtocolError as error:
            self.failed = f"not HTTP: {error}" if data else "the connection ended before the answer"

    def _take(self, event: object) -> None:
        if isinstance(event, h11.Response):
            kind = dict(event.headers).get(b"content-type", b"").split(b";")[0].strip().lower()
            if event.status_code != 200 or kind != _TYPE.encode():
                self.failed = f"answered with status {event.status_code}"
        elif isinstance(event, h11.Data):
            self._body += event.data
            if len(self._body) > _MAX_ANSWER:
                self.failed = "the answer is too long"
        elif isinstance(event, h11.EndOfMessage):
            self.answer = bytes(self._body)
        elif isinstance(event, h11.ConnectionClosed):
            self.failed = "the connection ended before the answer"
