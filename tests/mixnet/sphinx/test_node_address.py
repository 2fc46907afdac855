"""Node addresses, and the recorded addressing vectors."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import vectors

from smolmix_sync import crypto
from smolmix_sync.address import Recipient, base58_encode
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.sphinx import NodeAddress

ADDRESSES = st.builds(NodeAddress, st.ip_addresses().map(str), st.integers(0, 65535))


def check_address(case: dict[str, Any]) -> None:
    address = NodeAddress.parse(case["socket"])
    assert str(address) == case["socket"]
    assert address.encode().hex() == case["bytes"]
    assert len(address.encode()) == case["min_len"]
    assert address.encode_padded(19).hex() == case["padded19"]
    assert address.encode_padded(32).hex() == case["node_address"]
    for form in ("bytes", "padded19", "node_address"):
        assert NodeAddress.decode_untrusted(bytes.fromhex(case[form])) == address


def check_bad_address(case: dict[str, Any]) -> None:
    assert case["error"]
    with pytest.raises(WireError):
        NodeAddress.decode_untrusted(bytes.fromhex(case["bytes"]))


def check_recipient(case: dict[str, Any]) -> None:
    recipient = Recipient.parse(case["text"])
    assert str(recipient) == case["text"]
    assert recipient.encode().hex() == case["bytes"]
    assert Recipient.decode_untrusted(bytes.fromhex(case["bytes"])) == recipient
    assert recipient.identity.hex() == case["identity"] == case["sphinx_destination"]
    assert recipient.encryption.hex() == case["encryption_key"]
    assert recipient.gateway.hex() == case["gateway"]
    seed, gateway_seed, private = vectors.unhex(
        case, "identity_seed", "gateway_seed", "encryption_private_key"
    )
    assert crypto.ed25519_public_from_seed(seed) == recipient.identity
    assert crypto.ed25519_public_from_seed(gateway_seed) == recipient.gateway
    assert crypto.x25519_base(private) == recipient.encryption
    assert base58_encode(recipient.identity) == case["identity_base58"]
    assert case["sphinx_identifier"] == bytes(16).hex()


def check_bad_recipient(case: dict[str, Any]) -> None:
    assert case["error"]
    with pytest.raises(WireError):
        Recipient.parse(case["text"])


def test_vector_addresses_of_nodes_and_recipients() -> None:
    vectors.run(
        "sphinx_addressing.json",
        {
            "node_addresses": check_address,
            "bad_node_addresses": check_bad_address,
            "recipients": check_recipient,
            "bad_recipient_text": check_bad_recipient,
        },
    )


@given(ADDRESSES)
def test_address_survives_every_encoding(address: NodeAddress) -> None:
    assert NodeAddress.decode_untrusted(address.encode()) == address
    assert NodeAddress.decode_untrusted(address.encode_padded(32)) == address
    assert NodeAddress.parse(str(address)) == address


@given(st.binary(max_size=40))
@example(b"\x04\0\0")
@example(b"\x06" + bytes(17))
def test_garbage_raises_only_wire_error_and_the_rest_encodes_to_itself(data: bytes) -> None:
    try:
        address = NodeAddress.decode_untrusted(data)
    except WireError:
        return
    assert data.startswith(address.encode())


def test_equal_addresses_compare_equal_however_written() -> None:
    assert NodeAddress("0:0::1", 5) == NodeAddress("::1", 5)
    assert hash(NodeAddress("0:0::1", 5)) == hash(NodeAddress("::1", 5))
    assert NodeAddress("::1", 5) != NodeAddress("::1", 6)
    assert repr(NodeAddress("::1", 5)) == "NodeAddress(ip='::1', port=5)"


def test_mapped_ipv4_address_stays_ipv6() -> None:
    address = NodeAddress("::ffff:10.1.2.3", 9)
    assert address.encode()[0] == 6
    assert address.ip == "::ffff:10.1.2.3"
    assert ipaddress.ip_address(address.ip).version == 6


@pytest.mark.parametrize(
    ("ip", "port"), [("localhost", 1), ("fe80::1%eth0", 1), ("1.2.3.4", -1), ("1.2.3.4", 65536)]
)
def test_what_is_no_address_is_refused(ip: str, port: int) -> None:
    with pytest.raises(ValueError):
        NodeAddress(ip, port)


@pytest.mark.parametrize(
    "text", ["1.2.3.4", "1.2.3.4:", "1.2.3.4:x", "1.2.3.4:²", "::1", "::1:80", "[1.2.3.4:5", ""]
)
def test_text_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        NodeAddress.parse(text)


def test_padding_to_less_than_the_address_is_refused() -> None:
    with pytest.raises(ValueError, match="19"):
        NodeAddress("::1", 5).encode_padded(18)
