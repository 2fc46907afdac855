from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import vectors
from support.mixnet_world import World

from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.acks import (
    SURB_ACK_SIZE,
    build_surb_ack,
    decode_ack_untrusted,
    encode_ack,
    use_surb_as_ack,
)
from smolmix_sync.mixnet.sphinx import FinalHop, NodeAddress, build_surb, unwrap_untrusted

KEY = bytes(range(16))


def test_acks_agree_with_the_recorded_vectors() -> None:
    def check(case: dict[str, Any]) -> None:
        key, content, identifier = vectors.unhex(case, "ack_key", "content", "identifier")
        assert decode_ack_untrusted(key, content) == identifier
        assert encode_ack(key, identifier, content[:16]) == content
        assert identifier == case["set_id"].to_bytes(4, "big") + bytes((case["position"],))

    vectors.run("message_acks.json", {"cases": check})
    document = vectors.load("message_acks.json")
    if "too_short" in document:
        key, content = vectors.unhex(document["too_short"], "ack_key", "content")
        with pytest.raises(WireError):
            decode_ack_untrusted(key, content)
    if "negative_set_id" in document:
        (identifier,) = vectors.unhex(document["negative_set_id"], "identifier")
        with pytest.raises(WireError):
            decode_ack_untrusted(KEY, encode_ack(KEY, identifier, bytes(16)))


@given(st.binary(max_size=60))
def test_garbage_raises_only_wire_error(data: bytes) -> None:
    try:
        identifier = decode_ack_untrusted(KEY, data)
    except WireError:
        return
    assert encode_ack(KEY, identifier, data[:16]) == data


@pytest.mark.parametrize("size", [0, 20, 22, 48])
def test_acks_of_any_other_length_are_refused(size: int) -> None:
    with pytest.raises(WireError, match="21 octets"):
        decode_ack_untrusted(KEY, bytes(size))


@pytest.mark.parametrize("prepared", [False, True])
def test_an_ack_built_at_once_or_from_a_header_comes_back_to_its_sender(prepared: bool) -> None:
    world = World()
    identifier, destination, delays = b"\0\1\2\3\4", bytes(range(32)), [1, 2, 3, 4]
    route = world.topology.route_to(world.nodes[6].identity, world.urandom)
    if prepared:
        surb = build_surb(route, delays, destination, urandom=world.urandom)
        block = use_surb_as_ack(KEY, identifier, surb, world.urandom)
    else:
        block = build_surb_ack(KEY, identifier, route, delays, destination, world.urandom)
    assert len(block) == SURB_ACK_SIZE
    address, packet = NodeAddress.decode_untrusted(block), block[19:]
    while True:
        result = unwrap_untrusted(packet, world.by_address[address].key(2))
        if isinstance(result, FinalHop):
            break
        address, packet = result.next_address, result.packet
    assert result.destination == destination
    assert decode_ack_untrusted(KEY, result.message) == identifier
