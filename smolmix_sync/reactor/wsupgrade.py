"""The upgrade of a connection to a websocket, sans-IO: what is asked, and whether the answer will do.

websocket-client's own keeps one jar of cookies for the whole process, which a gateway could know us by after every change
of identity, and reads an answer for as long as there is one. Here nothing is remembered, nothing is followed, and
the answer is bounded.

Source: RFC 6455 section 4.1.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable

import h11

from smolmix_sync.errors import WireError

__all__ = ["Upgrade"]

# From the specification.
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#: Ours: gateways answer with some hundred octets.
_MAX_ANSWER = 16 * 1024


class Upgrade:
    """One upgrade.

    Args:
        authority: the Host header.
        urandom: source of randomness.

    Attributes:
        rest: octets behind the answer, once there was one: they are websocket frames.
    """

    def __init__(self, authority: str, urandom: Callable[[int], bytes]) -> None:
        self._authority = authority
        self._key = base64.b64encode(urandom(16))
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_ANSWER)
        self._received = 0
        self.rest = b""

    def request(self) -> bytes:
        """Return what is to be sent.

        Raises:
            WireError: the authority cannot stand in a request.
        """
        headers = [
            ("Upgrade", "websocket"),
            ("Host", self._authority),
            ("Sec-WebSocket-Key", self._key.decode()),
            ("Sec-WebSocket-Version", "13"),
            ("Connection", "Upgrade"),
        ]
        try:
            asked = self._http.send(h11.Request(method="GET", target="/", headers=headers))
        except h11.LocalProtocolError as error:  # a host name with a line break in it, or worse
            raise WireError(str(error)) from None
        self._http.send(h11.EndOfMessage())
        return asked or b""

    def receive_untrusted(self, data: bytes) -> bool:
        """Take octets of the answer, b"" for its end; tell whether the websocket is open.

        Raises:
            WireError: it will not be.
        """
        self._received += len(data)
        try:
            self._http.receive_data(data)
            while (event := self._http.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.InformationalResponse) and event.status_code == 101:
                    self._check(event)
                    self.rest = self._http.trailing_data[0]
                    return True
                if not isinstance(event, h11.InformationalResponse):
                    status = getattr(event, "status_code", None)
                    raise WireError(f"status {status}" if status else "the connection was closed")
        except h11.RemoteProtocolError as error:
            raise WireError(str(error)) from None
        if self._received > _MAX_ANSWER:
            raise WireError("the answer does not end")
        return False

    def _check(self, answer: h11.InformationalResponse) -> None:
        found = dict(answer.headers)
        expected = base64.b64encode(hashlib.sha1(self._key + _GUID).digest())
        connection = {word.strip().lower() for word in found.get(b"connection", b"").split(b",")}
        if (
            found.get(b"upgrade", b"").lower() != b"websocket"
            or b"upgrade" not in connection
            or not hmac.compare_digest(found.get(b"sec-websocket-accept", b""), expected)
        ):
            raise WireError("the answer is not that of a websocket")
