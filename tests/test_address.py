from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import vectors

from smolmix_sync.address import RECIPIENT_SIZE, Recipient, base58_decode, base58_encode
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.sphinx import NodeAddress

POINT = bytes(31) + b"\0"  # y = 0 is on the curve


def parses(text: str) -> bool:
    try:
        Recipient.parse(text)
    except WireError:
        return False
    return True


def decodes(data: bytes) -> bool:
    try:
        Recipient.decode_untrusted(data)
    except WireError:
        return False
    return True


def test_recipients_and_node_addresses_agree_with_the_recorded_vectors() -> None:
    def recipient(case: dict[str, Any]) -> None:
        data, identity, encryption, gateway, destination = vectors.unhex(
            case, "bytes", "identity", "encryption", "gateway", "sphinx_destination"
        )
        made = Recipient(identity, encryption, gateway)
        assert Recipient.parse(case["address"]) == Recipient.decode_untrusted(data) == made
        assert made.encode() == data
        assert str(made) == case["address"]
        assert destination == made.identity

    def node(case: dict[str, Any]) -> None:
        address = NodeAddress.parse(case["addr"])
        assert address.encode().hex() == case["bytes"]
        assert address.encode_padded(19).hex() == case["padded19"]
        assert address.encode_padded(32).hex() == case["padded32"]
        assert NodeAddress.decode_untrusted(bytes.fromhex(case["padded32"])) == address

    vectors.run("message_addresses.json", {"recipients": recipient, "node_addresses": node})


def test_recipient_texts_agree_with_the_recorded_vectors_good_and_bad() -> None:
    def good(case: dict[str, Any]) -> None:
        made = Recipient.parse(case["text"])
        assert made.encode().hex() == case["hex"]
        assert str(made) == case["text"]
        assert made == Recipient(*vectors.unhex(case, "identity_hex", "encryption_hex", "gateway_hex"))

    def from_bytes(case: dict[str, Any]) -> None:
        assert decodes(bytes.fromhex(case["hex"])) is case["ok"]

    def from_text(case: dict[str, Any]) -> None:
        assert parses(case["text"]) is case["ok"]

    checks = {"vectors": good, "parse_bytes": from_bytes, "parse_text": from_text}
    vectors.run("topology_recipient.json", checks)


@given(st.binary(max_size=120))
@example(b"")
@example(bytes(3))
def test_base58_survives_the_round_trip_leading_zeros_included(data: bytes) -> None:
    assert base58_decode(base58_encode(data)) == data


@given(st.text(max_size=60))
@example("1" * 32 + "." + "1" * 32 + "@" + "1" * 32)
@example("a.b@c@d")
@example("a.b.c@d")
def test_garbage_as_an_address_raises_only_wire_error(text: str) -> None:
    parses(text)


@given(st.binary(max_size=RECIPIENT_SIZE + 2))
def test_garbage_as_recipient_octets_raises_only_wire_error(data: bytes) -> None:
    decodes(data)


def test_overlong_base58_is_refused_before_the_work_is_done() -> None:
    with pytest.raises(WireError, match="too long"):
        base58_decode("z" * 100_000)


def test_keys_of_wrong_size_are_the_callers_fault() -> None:
    with pytest.raises(ValueError, match="32 octets"):
        Recipient(bytes(32), bytes(31), bytes(32))


def test_the_repr_does_not_show_a_whole_address() -> None:
    made = Recipient(POINT, bytes(range(32)), POINT)
    assert base58_encode(bytes(range(32))) not in repr(made)
    assert str(made) not in repr(made)
