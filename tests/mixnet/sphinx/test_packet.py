"""Whole packets: the recorded ones in both directions, and round trips over routes of our own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import vectors

from smolmix_sync import crypto
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.sphinx import (
    MAX_HOPS,
    FinalHop,
    ForwardHop,
    Hop,
    NodeAddress,
    PacketSize,
    build_packet,
    open_untrusted,
    unwrap_untrusted,
)
from smolmix_sync.mixnet.sphinx.header import build_header, header_mac
from smolmix_sync.mixnet.sphinx.keys import (
    BLINDING_FACTOR,
    MAC_KEY,
    PAYLOAD_KEY,
    PAYLOAD_KEY_SEED,
    REPLAY_TAG,
    STREAM_KEY,
    expand,
    payload_key_from_seed,
)
from smolmix_sync.mixnet.sphinx.payload import encapsulate, lioness_decrypt_untrusted

VERSIONS = (1, 257, 258, 259)


def replay(*parts: bytes) -> Callable[[int], bytes]:
    """Return a urandom that gives the recorded octets, in the order and sizes asked for."""
    remaining = list(parts)

    def urandom(size: int) -> bytes:
        part = remaining.pop(0)
        assert len(part) == size
        return part

    return urandom


def counted(seed: int = 0) -> Callable[[int], bytes]:
    """Return a urandom that is the same for the same seed."""
    stream = hashlib.shake_256(seed.to_bytes(8, "big")).digest(4096)
    position = 0

    def urandom(size: int) -> bytes:
        nonlocal position
        position += size
        return stream[position - size : position]

    return urandom


def own_route(hops: int, seed: int = 1) -> tuple[list[bytes], list[Hop]]:
    keys = [hashlib.sha256(bytes((seed, i))).digest() for i in range(hops)]
    route = [Hop(NodeAddress(f"10.0.0.{i + 1}", 1789), crypto.x25519_base(key)) for i, key in enumerate(keys)]
    return keys, route


def recorded_route(case: dict[str, Any]) -> list[Hop]:
    route = []
    for hop in case["route"]:
        address = NodeAddress.decode_untrusted(bytes.fromhex(hop["address"]))
        assert address == NodeAddress.parse(hop["socket"])
        assert crypto.x25519_base(bytes.fromhex(hop["private_key"])).hex() == hop["public_key"]
        route.append(Hop(address, bytes.fromhex(hop["public_key"])))
    return route


def check_build(case: dict[str, Any]) -> None:
    """Build the packet again from the recorded initial secret and padding."""
    message, destination, identifier, secret, padding = vectors.unhex(
        case, "message", "destination", "identifier", "initial_secret", "final_padding"
    )
    route = recorded_route(case)
    urandom = replay(secret, padding)
    header, material = build_header(
        route, case["delays_ns"], destination, urandom=urandom, version=case["version"], identifier=identifier
    )
    assert header.hex() == case.get("header", header.hex())
    assert (header + encapsulate(message, case["payload_size"], material)).hex() == case["packet"]
    for size in PacketSize:
        if size.payload_size == case["payload_size"]:
            packet = build_packet(
                message,
                route,
                case["delays_ns"],
                destination,
                size=size,
                urandom=replay(secret, padding),
                version=case["version"],
                identifier=identifier,
            )
            assert packet.hex() == case["packet"]


def check_hops(case: dict[str, Any]) -> None:
    """Unwrap the packet at every hop and compare every recorded field."""
    packet = bytes.fromhex(case["packet"])
    assert len(case["hops"]) == len(case["route"]) == case["path_length"]
    for node, hop in zip(case["route"], case["hops"], strict=True):
        private = bytes.fromhex(node["private_key"])
        assert packet[:32].hex() == hop["alpha"]
        shared = crypto.x25519(private, packet[:32])
        expanded = expand(shared)
        assert shared.hex() == hop["shared_secret"]
        assert expanded.hex() == hop["expanded"]
        assert expanded[STREAM_KEY].hex() == hop["stream_key"]
        assert expanded[MAC_KEY].hex() == hop["mac_key"]
        assert expanded[PAYLOAD_KEY_SEED].hex() == hop["payload_key_seed"]
        assert expanded[BLINDING_FACTOR].hex() == hop["blinding_factor"]
        assert expanded[REPLAY_TAG].hex() == hop["replay_tag"]
        seeded = payload_key_from_seed(expanded[PAYLOAD_KEY_SEED])
        key = seeded if case["version"] >= 259 else expanded[PAYLOAD_KEY]
        assert key.hex() == hop["payload_key"]
        if "mac" in hop:
            assert header_mac(expanded[MAC_KEY], packet[48:348]).hex() == hop["mac"] == packet[32:48].hex()

        opened = open_untrusted(packet, private)
        assert opened.replay_tag.hex() == hop["replay_tag"]
        result = opened.finish_untrusted()
        assert result.version == case["version"]
        assert result.replay_tag.hex() == hop["replay_tag"]
        if hop["kind"] == "final":
            assert isinstance(result, FinalHop)
            assert result.destination.hex() == hop["destination"] == case["destination"]
            assert result.identifier.hex() == hop["identifier"] == case["identifier"]
            assert result.message.hex() == hop["plaintext"] == case["message"]
            payload = lioness_decrypt_untrusted(key, packet[348:])
            assert payload.hex() == hop.get("payload", payload.hex())
            assert hashlib.sha256(payload).hexdigest() == hop["payload_sha256"]
        else:
            assert isinstance(result, ForwardHop)
            assert result.next_address.encode_padded(32).hex() == hop["next_address"]
            assert result.delay_ns == hop["delay_ns"] == case["delays_ns"][hop["hop"]]
            assert result.packet.hex() == hop.get("next_packet", result.packet.hex())
            assert hashlib.sha256(result.packet).hexdigest() == hop["next_packet_sha256"]
            packet = result.packet


def check_case(case: dict[str, Any]) -> None:
    check_build(case)
    check_hops(case)


def test_vector_packets_are_built_and_unwrapped() -> None:
    vectors.run("sphinx_packet.json", {"data": check_case})


@given(
    message=st.binary(max_size=21),
    hops=st.integers(1, MAX_HOPS),
    version=st.sampled_from((*VERSIONS, 260, 9999)),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_packet_reaches_the_end_of_its_route(
    message: bytes, hops: int, version: int, seed: int, data: st.DataObject
) -> None:
    keys, route = own_route(hops)
    delays = data.draw(st.lists(st.integers(0, 2**64 - 1), min_size=hops, max_size=hops))
    destination = data.draw(st.binary(min_size=32, max_size=32))
    identifier = data.draw(st.binary(min_size=16, max_size=16))
    packet = build_packet(
        message, route, delays, destination,
        size=PacketSize.ACK, urandom=counted(seed), version=version, identifier=identifier,
    )  # fmt: skip
    for i in range(hops - 1):
        assert len(packet) == PacketSize.ACK.packet_size
        onward = unwrap_untrusted(packet, keys[i])
        assert isinstance(onward, ForwardHop)
        assert (onward.next_address, onward.delay_ns) == (route[i + 1].address, delays[i])
        packet = onward.packet
    final = unwrap_untrusted(packet, keys[-1])
    assert isinstance(final, FinalHop)
    assert (final.message, final.destination, final.identifier) == (message, destination, identifier)
    assert final.version == version


@pytest.mark.parametrize("size", PacketSize, ids=lambda size: size.name)
def test_every_packet_size_takes_a_message_of_its_plaintext_size_and_no_more(size: PacketSize) -> None:
    keys, route = own_route(1)
    message = bytes(range(256)) * (size.plaintext_size // 256 + 1)
    message = message[: size.plaintext_size]
    packet = build_packet(message, route, [0], bytes(32), size=size, urandom=counted())
    assert len(packet) == size.packet_size
    final = unwrap_untrusted(packet, keys[0])
    assert isinstance(final, FinalHop)
    assert final.message == message
    with pytest.raises(ValueError, match="does not fit"):
        build_packet(message + b"!", route, [0], bytes(32), size=size, urandom=counted())


def test_default_version_is_259() -> None:
    keys, route = own_route(1)
    packet = build_packet(b"", route, [0], bytes(32), size=PacketSize.ACK, urandom=counted())
    assert unwrap_untrusted(packet, keys[0]).version == 259


def build_ack(**changes: Any) -> bytes:
    arguments: dict[str, Any] = {
        "route": own_route(2)[1], "delays_ns": [0, 0], "destination": bytes(32), "version": 259,
        "identifier": bytes(16),
    }  # fmt: skip
    arguments.update(changes)
    return build_packet(b"m", size=PacketSize.ACK, urandom=counted(), **arguments)


@pytest.mark.parametrize(
    "changes",
    [
        {"route": []},
        {"route": own_route(6)[1], "delays_ns": [0] * 6},
        {"delays_ns": [0]},
        {"delays_ns": [0, -1]},
        {"delays_ns": [2**64, 0]},
        {"destination": bytes(31)},
        {"identifier": bytes(17)},
        {"version": 0x10000},
        {"version": -1},
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as caught:
        build_ack(**changes)
    assert not isinstance(caught.value, WireError)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize(
    "key", [bytes(32), (1).to_bytes(32, "little"), bytes(31)], ids=["zero", "one", "short"]
)
def test_node_key_of_low_order_or_wrong_size_is_refused(key: bytes, position: int, version: int) -> None:
    _, route = own_route(2)
    route[position] = Hop(route[position].address, key)
    with pytest.raises(ValueError):
        build_ack(route=route, version=version)
