"""SURBs of both kinds: the recorded ones, and replies over routes of our own."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import vectors

from smolmix_sync import crypto
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.sphinx import (
    FinalHop,
    ForwardHop,
    Hop,
    NodeAddress,
    PacketSize,
    Surb,
    build_surb,
    unwrap_untrusted,
)
from smolmix_sync.mixnet.sphinx.payload import encapsulate


def replay(*parts: bytes) -> Any:
    remaining = list(parts)
    return lambda size: remaining.pop(0)[:size]


def route_of(private_keys: list[bytes]) -> list[Hop]:
    return [Hop(NodeAddress("::1", 1000 + i), crypto.x25519_base(key)) for i, key in enumerate(private_keys)]


def deliver(packet: bytes, private_keys: list[bytes]) -> FinalHop:
    for key in private_keys:
        result = unwrap_untrusted(packet, key)
        if isinstance(result, ForwardHop):
            packet = result.packet
    assert isinstance(result, FinalHop)
    return result


def check_surb(case: dict[str, Any]) -> None:
    encoded, message, destination, secret, padding = vectors.unhex(
        case, "surb", "message", "destination", "initial_secret", "final_padding"
    )
    assert len(encoded) == case["surb_len"]
    decoded = Surb.decode_untrusted(encoded)
    route = [Hop(NodeAddress.parse(hop["socket"]), bytes.fromhex(hop["public_key"])) for hop in case["route"]]
    surb = build_surb(
        route, case["delays_ns"], destination, urandom=replay(secret, padding), version=case["version"]
    )
    assert surb == decoded
    assert surb.encode() == encoded == decoded.encode()
    assert surb.uses_key_seeds == case["uses_key_seeds"]
    assert len(surb.key_material) == case["materials_count"]
    assert surb.first_hop.encode_padded(32).hex() == case["first_hop"]

    packet = decoded.header + encapsulate(message, case["payload_size"], decoded.key_material)
    assert packet.hex() == case["packet"]
    for size in PacketSize:
        if size.payload_size == case["payload_size"]:
            assert decoded.use(message, size) == (packet, surb.first_hop)
    for node, hop in zip(case["route"], case["hops"], strict=True):
        result = unwrap_untrusted(packet, bytes.fromhex(node["private_key"]))
        assert packet[:32].hex() == hop["alpha"]
        assert result.replay_tag.hex() == hop["replay_tag"]
        assert result.version == case["version"]
        if isinstance(result, FinalHop):
            assert hop["kind"] == "final"
            assert result.message.hex() == hop["plaintext"] == case["message"]
            assert result.destination.hex() == hop["destination"]
            assert result.identifier.hex() == hop["identifier"]
        else:
            assert hop["kind"] == "forward"
            assert result.next_address.encode_padded(32).hex() == hop["next_address"]
            assert result.delay_ns == hop["delay_ns"]
            assert hashlib.sha256(result.packet).hexdigest() == hop["next_packet_sha256"]
            packet = result.packet


def check_length(case: dict[str, Any]) -> None:
    result = case["result"]
    data = (bytes(348) + NodeAddress("127.0.0.1", 1789).encode()).ljust(case["len"], b"\0")[: case["len"]]
    if "error" in result:
        with pytest.raises(WireError):
            Surb.decode_untrusted(data)
    else:
        surb = Surb.decode_untrusted(data)
        assert surb.uses_key_seeds == result["uses_key_seeds"]
        assert len(surb.key_material) == result["materials_count"]
        assert surb.encode() == data


def test_vector_surbs_are_built_used_and_unwrapped() -> None:
    vectors.run("sphinx_surb.json", {"cases": check_surb, "from_bytes_lengths": check_length})


@given(
    hops=st.integers(1, 5),
    version=st.sampled_from((257, 258, 259)),
    message=st.binary(max_size=21),
    seed=st.binary(max_size=8),
)
def test_reply_through_a_surb_comes_home(hops: int, version: int, message: bytes, seed: bytes) -> None:
    private_keys = [hashlib.sha256(bytes((i,))).digest() for i in range(hops)]
    route = route_of(private_keys)
    urandom = replay(hashlib.sha256(seed).digest(), bytes(248))
    surb = build_surb(route, [1] * hops, b"d" * 32, urandom=urandom, version=version)
    received = Surb.decode_untrusted(surb.encode())
    assert received == surb
    assert received.uses_key_seeds == (version == 259)
    packet, first_hop = received.use(message, PacketSize.ACK)
    assert first_hop == route[0].address
    final = deliver(packet, private_keys)
    assert (final.message, final.destination, final.identifier) == (message, b"d" * 32, bytes(16))


def test_reply_longer_than_the_packet_is_refused() -> None:
    surb = build_surb(route_of([b"k" * 32]), [0], bytes(32), urandom=bytes)
    with pytest.raises(ValueError, match="does not fit"):
        surb.use(bytes(22), PacketSize.ACK)


def test_surb_whose_first_hop_is_no_address_is_refused() -> None:
    with pytest.raises(WireError, match="neither 4 nor 6"):
        Surb.decode_untrusted(bytes(444))


@given(st.binary(max_size=600))
@example(bytes(348) + b"\x04" + bytes(47))
def test_garbage_surb_raises_only_wire_error(data: bytes) -> None:
    try:
        surb = Surb.decode_untrusted(data)
    except WireError:
        return
    assert Surb.decode_untrusted(surb.encode()) == surb


def test_secrets_stay_out_of_the_repr() -> None:
    surb = build_surb(route_of([b"k" * 32]), [0], bytes(32), urandom=bytes)
    assert repr(surb) == "Surb()"
