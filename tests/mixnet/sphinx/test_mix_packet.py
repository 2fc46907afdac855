"""MixPackets of both versions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.sphinx import MixPacket, NodeAddress, PacketSize, key_rotation_byte

ADDRESSES = st.builds(NodeAddress, st.ip_addresses().map(str), st.integers(0, 65535))


@given(ADDRESSES, st.sampled_from((386, 2413, 8557)), st.integers(0, 2))
def test_mix_packet_survives_both_versions(address: NodeAddress, size: int, rotation: int) -> None:
    packet = MixPacket(address, b"p" * size, rotation)
    assert MixPacket.decode_untrusted(packet.encode()) == packet
    assert MixPacket.decode_untrusted(packet.encode_v1(), kind=1) == MixPacket(address, b"p" * size, 0)


@given(st.binary(max_size=450), st.sampled_from((1, 2)))
def test_garbage_raises_only_wire_error(data: bytes, kind: int) -> None:
    try:
        packet = MixPacket.decode_untrusted(data, kind)
    except WireError:
        return
    assert (packet.encode_v1() if kind == 1 else packet.encode()) == data


@given(st.binary(max_size=12), st.integers(0, 2), st.sampled_from((b"\x04", b"\x06")))
def test_any_length_but_a_packet_size_is_refused(extra: bytes, rotation: int, kind: bytes) -> None:
    data = bytes((0, rotation)) + kind + bytes(6 if kind == b"\x04" else 18) + bytes(386)
    assert MixPacket.decode_untrusted(data).key_rotation == rotation
    if extra:
        with pytest.raises(WireError, match="size of a packet"):
            MixPacket.decode_untrusted(data + extra)


def test_packet_may_come_as_a_memoryview() -> None:
    packet = MixPacket(NodeAddress("::1", 1), bytes(386), 2)
    assert MixPacket.decode_untrusted(memoryview(packet.encode())) == packet


def test_packet_stays_out_of_the_repr() -> None:
    packet = MixPacket(NodeAddress("10.0.0.1", 1), bytes(386), 2)
    assert repr(packet) == "MixPacket(first_hop=NodeAddress(ip='10.0.0.1', port=1), key_rotation=2)"


def test_size_is_that_of_the_packet_inside() -> None:
    packet = MixPacket(NodeAddress("10.0.0.1", 1), bytes(2413))
    assert PacketSize.of_packet_untrusted(packet.packet) is PacketSize.REGULAR


def test_rotation_octet_tells_odd_from_even() -> None:
    assert [key_rotation_byte(i) for i in (0, 1, 2, 3, 0xFFFFFFFE, 0xFFFFFFFF)] == [0, 1, 2, 1, 2, 0]
