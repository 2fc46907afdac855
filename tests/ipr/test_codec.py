from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolmix_sync.errors import WireError
from smolmix_sync.ipr.codec import BundleEncoder, bundle, fill_bundle, split_bundle, unbundle_untrusted

PACKETS = st.lists(st.integers(0, 1600).map(bytes), max_size=12)


@given(PACKETS)
def test_bundles_come_back(packets: list[bytes]) -> None:
    wire = bundle(packets)
    assert split_bundle(wire) == (packets, b"")
    assert unbundle_untrusted(wire, strict=True) == [packet for packet in packets if packet]


@given(st.binary(max_size=200))
def test_any_octets_split_into_packets_and_a_rest(data: bytes) -> None:
    packets, rest = split_bundle(data)
    assert bundle(packets) + rest == data
    assert unbundle_untrusted(data) == [packet for packet in packets if packet]


def test_a_truncated_bundle_gives_its_whole_packets_unless_strict() -> None:
    wire = bundle([b"one", b"two"])[:-1]
    assert unbundle_untrusted(wire) == [b"one"]
    with pytest.raises(WireError):
        unbundle_untrusted(wire, strict=True)


def test_no_packet_is_longer_than_its_prefix_can_say() -> None:
    assert len(bundle([bytes(65535)])) == 65537
    with pytest.raises(ValueError):
        bundle([bytes(65536)])
    with pytest.raises(ValueError):
        BundleEncoder().encode(bytes(65536))


@given(PACKETS)
def test_the_encoder_loses_nothing_and_exceeds_the_limit_only_for_oversize(packets: list[bytes]) -> None:
    encoder = BundleEncoder()
    out = [encoder.encode(packet) for packet in packets]
    out.append(encoder.flush())
    assert len(encoder) == 0
    assert [packet for wire in out for packet in split_bundle(wire)[0]] == packets
    for wire in out:
        assert len(wire) <= 1500 or len(split_bundle(wire)[0]) == 1


@given(PACKETS, st.integers(0, 3000))
def test_pulled_bundles_fit_their_room_and_keep_the_order(packets: list[bytes], room: int) -> None:
    queue = deque(packets)
    taken: list[bytes] = []
    while queue:
        part = fill_bundle(queue, room)
        assert part
        assert len(bundle(part)) <= room or len(part) == 1
        if queue:
            assert len(bundle([*part, queue[0]])) > room
        taken += part
    assert taken == packets
    assert fill_bundle(queue, room) == []
