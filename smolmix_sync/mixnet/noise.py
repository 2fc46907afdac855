"""Noise on the links between nodes: ``Noise_XKpsk3_25519_AESGCM_SHA256`` in the frames of Nym.

Clients never need it: only nodes whose topology entries carry a noise key speak it to each other,
and the stream of mix frames then runs inside. Both ends know from the topology; nothing is
negotiated. The first octet of a connection tells: 1 is a Noise frame, 7 or 8 a plain mix frame.

Frame, big-endian::

    offset  size  field
    0       1     noise version, 1
    1       1     pattern, 1: XKpsk3
    2       1     0 handshake, 1 data
    3       2     length of the message
    5       3     reserved, 0, ignored
    8       n     Noise message

Source: spec/sphinx.md section 18; common/nymnoise; Noise protocol framework, revision 34.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from smolmix_sync.crypto import (
    aes_gcm_decrypt_untrusted,
    aes_gcm_encrypt,
    hmac_sha256,
    sha256,
    x25519,
    x25519_base,
)
from smolmix_sync.errors import WireError

__all__ = ["HANDSHAKE_TIMEOUT", "MAX_PLAINTEXT", "NOISE_VERSION", "NoiseLink", "NoiseState", "noise_psk"]

# From the specification.
NOISE_VERSION = 1
#: Seconds a node gives the other end to finish the handshake.
HANDSHAKE_TIMEOUT = 1.5
#: Octets of plaintext in one data frame.
MAX_PLAINTEXT = 65519
_PATTERN_XKPSK3 = 1
_HANDSHAKE = 0
_DATA = 1
_HEADER_SIZE = 8
_TAG_SIZE = 16
_KEY_SIZE = 32
_PROTOCOL_NAME = b"Noise_XKpsk3_25519_AESGCM_SHA256"
_PSK_PREFIX = b"NYMTECH_NOISE_dQw4w9WgXcQ"
_LAST_NONCE = 2**64 - 1
_MESSAGE_SIZES = (_KEY_SIZE + _TAG_SIZE, _KEY_SIZE + _TAG_SIZE, _KEY_SIZE + 2 * _TAG_SIZE)


def noise_psk(responder_public: bytes) -> bytes:
    """Return the pre-shared key of links to the node with this noise key.

    Source: spec/sphinx.md section 18.2.
    """
    return sha256(_PSK_PREFIX + responder_public)


class _Cipher:
    """One direction's key and its counter."""

    __slots__ = ("_key", "_nonce")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._nonce = 0

    def _next_nonce(self) -> bytes:
        if self._nonce >= _LAST_NONCE:
            raise WireError("noise key is used up")
        nonce = bytes(4) + self._nonce.to_bytes(8, "big")
        self._nonce += 1
        return nonce

    def encrypt(self, plaintext: bytes, aad: bytes = b"") -> bytes:
        return aes_gcm_encrypt(self._key, self._next_nonce(), plaintext, aad)

    def decrypt_untrusted(self, ciphertext: bytes, aad: bytes = b"") -> bytes:
        return aes_gcm_decrypt_untrusted(self._key, self._next_nonce(), ciphertext, aad)


class _SymmetricState:
    """The handshake's running hash and chaining key (Noise section 5.2)."""

    __slots__ = ("_chaining_key", "_cipher", "hash")

    def __init__(self, responder_public: bytes) -> None:
        self._chaining_key = _PROTOCOL_NAME  # exactly one hash long, so it is used as it is
        self._cipher = _Cipher(bytes(_KEY_SIZE))
        self.hash = sha256(_PROTOCOL_NAME)  # the prologue is empty
        self.mix_hash(responder_public)

    def mix_hash(self, data: bytes) -> None:
        self.hash = sha256(self.hash + data)

    def mix_key(self, material: bytes) -> None:
        secret = hmac_sha256(self._chaining_key, material)
        self._chaining_key = hmac_sha256(secret, b"\x01")
        self._cipher = _Cipher(hmac_sha256(secret, self._chaining_key + b"\x02"))

    def mix_ephemeral(self, public: bytes) -> None:
        self.mix_hash(public)
        self.mix_key(public)  # because the pattern has a psk

    def mix_key_and_hash(self, material: bytes) -> None:
        secret = hmac_sha256(self._chaining_key, material)
        self._chaining_key = hmac_sha256(secret, b"\x01")
        hashed = hmac_sha256(secret, self._chaining_key + b"\x02")
        self._cipher = _Cipher(hmac_sha256(secret, hashed + b"\x03"))
        self.mix_hash(hashed)

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        ciphertext = self._cipher.encrypt(plaintext, self.hash)
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash_untrusted(self, ciphertext: bytes) -> bytes:
        plaintext = self._cipher.decrypt_untrusted(ciphertext, self.hash)
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[_Cipher, _Cipher]:
        """Return the ciphers from initiator to responder and back."""
        secret = hmac_sha256(self._chaining_key, b"")
        first = hmac_sha256(secret, b"\x01")
        return _Cipher(first), _Cipher(hmac_sha256(secret, first + b"\x02"))


class NoiseState(Enum):
    """Where a link is."""

    HANDSHAKE = "handshake"
    OPEN = "open"
    CLOSED = "closed"


class NoiseLink:
    """One end of a Noise link, without the socket.

    Hand in what was read with :meth:`receive_data`; call :meth:`next_data_untrusted` until it gives
    None, and after it write what :meth:`data_to_send` gives. :meth:`send` works once :attr:`state` is
    ``OPEN``. What is held back is at most one frame, 65543 octets, beyond what was last handed in.

    Make one with :meth:`initiator` or :meth:`responder`.

    Source: spec/sphinx.md section 18.
    """

    __slots__ = (
        "_buffer",
        "_deadline",
        "_ephemeral",
        "_error",
        "_output",
        "_psk",
        "_receive",
        "_remote_ephemeral",
        "_send",
        "_static",
        "_step",
        "_symmetric",
        "is_initiator",
        "remote_static",
        "state",
    )

    def __init__(
        self,
        *,
        is_initiator: bool,
        static_private: bytes,
        responder_public: bytes,
        urandom: Callable[[int], bytes],
        now: float,
    ) -> None:
        self.is_initiator = is_initiator
        self.state = NoiseState.HANDSHAKE
        #: The other end's noise key; a responder learns it, and does not check it, in the last message.
        self.remote_static: bytes | None = responder_public if is_initiator else None
        self._static = static_private
        self._ephemeral = urandom(_KEY_SIZE)
        self._remote_ephemeral = b""
        self._psk = noise_psk(responder_public)
        self._symmetric = _SymmetricState(responder_public)
        self._step = 0  # which of the three handshake messages comes next
        self._send: _Cipher | None = None
        self._receive: _Cipher | None = None
        self._buffer = bytearray()
        self._output: list[bytes] = []
        self._error = ""
        self._deadline = now + HANDSHAKE_TIMEOUT
        if is_initiator:
            self._write_first(responder_public)

    @classmethod
    def initiator(
        cls, static_private: bytes, responder_public: bytes, *, urandom: Callable[[int], bytes], now: float
    ) -> NoiseLink:
        """Return the end that connected to the node with noise key *responder_public*.

        Raises:
            ValueError: *responder_public* has the wrong size or low order.
        """
        return cls(
            is_initiator=True,
            static_private=static_private,
            responder_public=responder_public,
            urandom=urandom,
            now=now,
        )

    @classmethod
    def responder(cls, static_private: bytes, *, urandom: Callable[[int], bytes], now: float) -> NoiseLink:
        """Return the end that accepted the connection, with its own noise key."""
        return cls(
            is_initiator=False,
            static_private=static_private,
            responder_public=x25519_base(static_private),
            urandom=urandom,
            now=now,
        )

    @property
    def handshake_hash(self) -> bytes:
        """The hash over the handshake, the same at both ends once the link is open."""
        return self._symmetric.hash

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Append octets read from the connection."""
        if self.state is not NoiseState.CLOSED:
            self._buffer += data

    def data_to_send(self) -> list[bytes]:
        """Return the frames to write now, and forget them."""
        output, self._output = self._output, []
        return output

    def next_deadline(self) -> float | None:
        """Return when the handshake has to be finished; None when it is, or the link is closed."""
        return self._deadline if self.state is NoiseState.HANDSHAKE else None

    def handle_deadline(self, now: float) -> None:
        """Close the link if its handshake took too long."""
        if self.state is NoiseState.HANDSHAKE and now >= self._deadline:
            self._close("noise handshake took too long")

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt *data*; nothing is sent for no octets, which a reader would take for the end.

        Raises:
            ValueError: the link is not open.
        """
        if self._send is None or self.state is not NoiseState.OPEN:
            raise ValueError(f"noise link is in state {self.state.value}")
        for start in range(0, len(data), MAX_PLAINTEXT):
            self._queue(_DATA, self._send.encrypt(bytes(data[start : start + MAX_PLAINTEXT])))

    def next_data_untrusted(self) -> bytes | None:
        """Work on what was received; return the plaintext of the next data frame, or None.

        Raises:
            WireError: a frame or its encryption is wrong, or the link was closed before. Close the
                connection; every later call raises again.
        """
        if self.state is NoiseState.CLOSED:
            raise WireError(self._error)
        try:
            while (frame := self._next_frame()) is not None:
                kind, message = frame
                if self.state is NoiseState.HANDSHAKE:
                    self._read_handshake(kind, message)
                else:
                    return self._read_data(kind, message)
        except WireError as exc:
            self._close(str(exc))
            raise
        return None

    def _close(self, reason: str) -> None:
        self.state = NoiseState.CLOSED
        self._error = reason
        self._buffer.clear()
        self._output.clear()

    def _queue(self, kind: int, message: bytes) -> None:
        header = bytes((NOISE_VERSION, _PATTERN_XKPSK3, kind)) + len(message).to_bytes(2, "big") + bytes(3)
        self._output.append(header + message)

    def _next_frame(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < _HEADER_SIZE:
            return None
        version, pattern, kind = buffer[:3]
        if version != NOISE_VERSION:
            raise WireError(f"noise version {version} is unknown")
        if pattern != _PATTERN_XKPSK3:
            raise WireError(f"noise pattern {pattern} is not XKpsk3")
        end = _HEADER_SIZE + int.from_bytes(buffer[3:5], "big")
        if len(buffer) < end:
            return None
        message = bytes(buffer[_HEADER_SIZE:end])
        del buffer[:end]
        return kind, message

    def _read_data(self, kind: int, message: bytes) -> bytes:
        if kind != _DATA:
            raise WireError(f"noise frame of type {kind} on an open link")
        assert self._receive is not None
        return self._receive.decrypt_untrusted(message)

    def _read_handshake(self, kind: int, message: bytes) -> None:
        if kind != _HANDSHAKE:
            raise WireError(f"noise frame of type {kind} in the handshake")
        if len(message) != _MESSAGE_SIZES[self._step]:
            raise WireError(f"noise handshake message has {len(message)} octets")
        if self._step == 0:
            self._read_first(message)
            self._write_second()
        elif self._step == 1:
            self._read_second(message)
            self._write_third()
        else:
            self._read_third(message)

    def _open(self) -> None:
        to_responder, to_initiator = self._symmetric.split()
        self._send, self._receive = (
            (to_responder, to_initiator) if self.is_initiator else (to_initiator, to_responder)
        )
        self._ephemeral = self._psk = b""
        self.state = NoiseState.OPEN

    # The three messages, each written at one end and read at the other; tokens in the order of the pattern.

    def _write_first(self, responder_public: bytes) -> None:
        symmetric, public = self._symmetric, x25519_base(self._ephemeral)
        symmetric.mix_ephemeral(public)
        symmetric.mix_key(x25519(self._ephemeral, responder_public))  # es
        self._queue(_HANDSHAKE, public + symmetric.encrypt_and_hash(b""))
        self._step = 1

    def _read_first(self, message: bytes) -> None:
        symmetric = self._symmetric
        self._remote_ephemeral = message[:_KEY_SIZE]
        symmetric.mix_ephemeral(self._remote_ephemeral)
        symmetric.mix_key(_shared_untrusted(self._static, self._remote_ephemeral))  # es
        symmetric.decrypt_and_hash_untrusted(message[_KEY_SIZE:])

    def _write_second(self) -> None:
        symmetric, public = self._symmetric, x25519_base(self._ephemeral)
        symmetric.mix_ephemeral(public)
        symmetric.mix_key(_shared_untrusted(self._ephemeral, self._remote_ephemeral))  # ee
        self._queue(_HANDSHAKE, public + symmetric.encrypt_and_hash(b""))
        self._step = 2

    def _read_second(self, message: bytes) -> None:
        symmetric = self._symmetric
        self._remote_ephemeral = message[:_KEY_SIZE]
        symmetric.mix_ephemeral(self._remote_ephemeral)
        symmetric.mix_key(_shared_untrusted(self._ephemeral, self._remote_ephemeral))  # ee
        symmetric.decrypt_and_hash_untrusted(message[_KEY_SIZE:])

    def _write_third(self) -> None:
        symmetric = self._symmetric
        static = symmetric.encrypt_and_hash(x25519_base(self._static))
        symmetric.mix_key(_shared_untrusted(self._static, self._remote_ephemeral))  # se
        symmetric.mix_key_and_hash(self._psk)
        self._queue(_HANDSHAKE, static + symmetric.encrypt_and_hash(b""))
        self._open()

    def _read_third(self, message: bytes) -> None:
        symmetric = self._symmetric
        self.remote_static = symmetric.decrypt_and_hash_untrusted(message[: _KEY_SIZE + _TAG_SIZE])
        symmetric.mix_key(_shared_untrusted(self._ephemeral, self.remote_static))  # se
        symmetric.mix_key_and_hash(self._psk)
        symmetric.decrypt_and_hash_untrusted(message[_KEY_SIZE + _TAG_SIZE :])
        self._open()


def _shared_untrusted(private: bytes, public: bytes) -> bytes:
    try:
        return x25519(private, public)
    except ValueError as exc:
        raise WireError("noise key of the other end has low order") from exc
