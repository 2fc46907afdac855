"""Addresses of Nym clients: base58 and the 96-octet Recipient.

Source: spec/message-layer.md section 3; spec/topology.md section 5;
common/nymsphinx/addressing/src/clients.rs.
"""

from __future__ import annotations

from dataclasses import dataclass

from smolmix_sync.crypto import ed25519_is_valid_point
from smolmix_sync.errors import WireError

__all__ = ["KEY_SIZE", "RECIPIENT_SIZE", "Recipient", "base58_decode", "base58_encode"]

# From the specification.
KEY_SIZE = 32
RECIPIENT_SIZE = 3 * KEY_SIZE

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_VALUES = {character: value for value, character in enumerate(_ALPHABET)}

# Ours: decoding is quadratic, and nothing in Nym's formats is longer (a SURB of 1164 octets is 1590 digits).
_MAX_TEXT = 2048


def base58_encode(data: bytes | bytearray | memoryview) -> str:
    """Return *data* in base58 with the Bitcoin alphabet and no checksum."""
    octets = bytes(data)
    zeros = len(octets) - len(octets.lstrip(b"\0"))
    number = int.from_bytes(octets, "big")
    digits: list[str] = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_ALPHABET[digit])
    digits.append("1" * zeros)
    return "".join(reversed(digits))


def base58_decode(text: str) -> bytes:
    """Return the octets that *text* stands for.

    Raises:
        WireError: a character is outside the alphabet, or the text is longer than any Nym value.
    """
    if len(text) > _MAX_TEXT:
        raise WireError("base58 text is too long")
    number = 0
    try:
        for character in text:
            number = number * 58 + _VALUES[character]
    except KeyError:
        raise WireError("not a base58 character") from None
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


@dataclass(frozen=True, slots=True)
class Recipient:
    """Where a Nym client can be reached.

    The constructor checks lengths only; :meth:`parse` and :meth:`decode_untrusted` also check that both
    Ed25519 keys are points, as the Rust client does.

    Attributes:
        identity: the client's Ed25519 identity; also its Sphinx destination.
        encryption: the client's X25519 key.
        gateway: the Ed25519 identity of the gateway it is registered at.

    Source: common/nymsphinx/addressing/src/clients.rs.
    """

    identity: bytes
    encryption: bytes
    gateway: bytes

    def __post_init__(self) -> None:
        if not len(self.identity) == len(self.encryption) == len(self.gateway) == KEY_SIZE:
            raise ValueError("a recipient consists of three keys of 32 octets")

    def encode(self) -> bytes:
        """Return the 96 octets ``identity || encryption || gateway``."""
        return self.identity + self.encryption + self.gateway

    @classmethod
    def decode_untrusted(cls, data: bytes | bytearray | memoryview) -> Recipient:
        """Decode exactly 96 octets.

        Raises:
            WireError: wrong length, or one of the Ed25519 keys is not a point.
        """
        octets = bytes(data)
        if len(octets) != RECIPIENT_SIZE:
            raise WireError(f"a recipient has {RECIPIENT_SIZE} octets, not {len(octets)}")
        identity, encryption, gateway = octets[:32], octets[32:64], octets[64:]
        if not ed25519_is_valid_point(identity) or not ed25519_is_valid_point(gateway):
            raise WireError("an identity key of the recipient is not a point of Ed25519")
        return cls(identity, encryption, gateway)

    @classmethod
    def parse(cls, text: str) -> Recipient:
        """Read the text form ``identity.encryption@gateway``; surrounding blanks are not removed.

        Raises:
            WireError: not exactly one ``@`` and one ``.``, or a part is not the base58 form of a valid key.
        """
        client, at, gateway = text.partition("@")
        identity, dot, encryption = client.partition(".")
        if not at or not dot or "@" in gateway or "." in encryption:
            raise WireError("an address reads identity.encryption@gateway")
        parts = [base58_decode(part) for part in (identity, encryption, gateway)]
        if any(len(part) != KEY_SIZE for part in parts):
            raise WireError("a key of the address does not have 32 octets")
        return cls.decode_untrusted(b"".join(parts))

    def __str__(self) -> str:
        return (
            f"{base58_encode(self.identity)}.{base58_encode(self.encryption)}@{base58_encode(self.gateway)}"
        )

    def __repr__(self) -> str:
        # Our own address is not to be logged above DEBUG; a repr ends up anywhere.
        return f"<Recipient {base58_encode(self.identity)[:6]}...@{base58_encode(self.gateway)[:6]}...>"
