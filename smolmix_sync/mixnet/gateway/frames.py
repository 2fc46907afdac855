"""Binary frames: Sphinx packets to the gateway, final-hop payloads to the client.

Wire layout, both directions::

    offset  size  field
    0       1     kind
    1       1     1: sealed; 0: plain, which we never send
    2       12    nonce
    14      n     plaintext and tag of 16 octets

Source: spec/gateway.md section 6; common/gateway-requests/src/types/binary_request.rs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.gateway.constants import (
    ERROR_FRAME_ADDRESS,
    ERROR_FRAME_FLAG,
    ERROR_FRAME_KIND,
    ERROR_FRAME_PACKET,
    ERROR_FRAME_TOO_SHORT,
    KEY_ROTATION_VERSION,
    NONCE_SIZE,
)
from smolmix_sync.mixnet.gateway.sealing import open_untrusted, seal
from smolmix_sync.mixnet.sphinx import MixPacket, NodeAddress

__all__ = [
    "FORWARD_V1",
    "FORWARD_V2",
    "PUSHED",
    "PlainFrameError",
    "decode_forward_untrusted",
    "decode_pushed_untrusted",
    "encode_forward",
    "encode_frame",
    "encode_pushed",
]

FORWARD_V1: Final = 1
FORWARD_V2: Final = 2
PUSHED: Final = 1

_SEALED: Final = 1
_PLAIN: Final = 0
_HEADER: Final = 2 + NONCE_SIZE


class PlainFrameError(WireError):
    """The frame is not sealed, so anyone on the path could have written it."""


def encode_frame(kind: int, plaintext: bytes, key: bytes, urandom: Callable[[int], bytes]) -> bytes:
    """Return a sealed frame."""
    ciphertext, nonce = seal(key, plaintext, urandom)
    return b"".join((bytes((kind, _SEALED)), nonce, ciphertext))


def _open_untrusted(frame: bytes, key: bytes, accept_plain: bool) -> tuple[int, bytes]:
    """Return kind and plaintext."""
    if len(frame) < 2:
        raise WireError(ERROR_FRAME_TOO_SHORT)
    kind, flag = frame[0], frame[1]
    if flag == _PLAIN:
        if not accept_plain:
            raise PlainFrameError("frame is not encrypted")
        if len(frame) < _HEADER:
            raise WireError(ERROR_FRAME_TOO_SHORT)
        return kind, frame[_HEADER:]
    if flag != _SEALED:
        raise WireError(ERROR_FRAME_FLAG)
    if len(frame) < _HEADER:
        raise WireError(ERROR_FRAME_TOO_SHORT)
    return kind, open_untrusted(key, frame[_HEADER:], frame[2:_HEADER])


def encode_forward(
    packet: MixPacket, key: bytes, urandom: Callable[[int], bytes], protocol_version: int
) -> bytes:
    """Return the frame that hands *packet* to the gateway."""
    if protocol_version >= KEY_ROTATION_VERSION:
        return encode_frame(FORWARD_V2, packet.encode(), key, urandom)
    return encode_frame(FORWARD_V1, packet.encode_v1(), key, urandom)


def decode_forward_untrusted(frame: bytes, key: bytes) -> MixPacket:
    """Return the packet a client wants forwarded; plain frames are accepted, as by every gateway.

    Raises:
        WireError: with the reference gateway's own words for what is wrong.
    """
    kind, plaintext = _open_untrusted(frame, key, accept_plain=True)
    if kind not in (FORWARD_V1, FORWARD_V2):
        raise WireError(ERROR_FRAME_KIND.format(kind=kind))
    try:
        return MixPacket.decode_untrusted(plaintext, kind)
    except WireError as exc:
        raise WireError(ERROR_FRAME_PACKET.format(reason=_reason(plaintext[kind:], exc))) from exc


def _reason(address: bytes, error: WireError) -> str:
    """Return the reference's words for an unreadable first hop, else ours."""
    try:
        NodeAddress.decode_untrusted(address[:19])
    except WireError:
        return ERROR_FRAME_ADDRESS
    return str(error)


def encode_pushed(payload: bytes, key: bytes, urandom: Callable[[int], bytes]) -> bytes:
    """Return the frame that brings *payload* to a client."""
    return encode_frame(PUSHED, payload, key, urandom)


def decode_pushed_untrusted(frame: bytes, key: bytes) -> bytes:
    """Return the payload the gateway pushes.

    Raises:
        PlainFrameError: the frame is not encrypted.
        WireError: the frame is malformed, of an unknown kind, or sealed with another key.
    """
    kind, plaintext = _open_untrusted(frame, key, accept_plain=False)
    if kind != PUSHED:
        raise WireError(ERROR_FRAME_KIND.format(kind=kind))
    return plaintext
