"""Packet sizes, their tags, and the key rotation octet."""

from __future__ import annotations

from typing import Any

import pytest
from support import vectors

from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.sphinx import HEADER_SIZE, PacketSize, key_rotation_byte
from smolmix_sync.mixnet.sphinx import constants as c


def check_size(case: dict[str, Any]) -> None:
    size = PacketSize[case["name"].upper()]
    assert (size.tag, size.packet_size) == (case["tag"], case["size"])
    assert (size.payload_size, size.plaintext_size) == (case["payload_size"], case["plaintext_size"])
    assert case["header_size"] == HEADER_SIZE
    assert PacketSize.from_tag_untrusted(case["tag"]) is size
    assert PacketSize.of_packet_untrusted(bytes(case["size"])) is size


def check_rotation(case: dict[str, Any]) -> None:
    assert key_rotation_byte(case["rotation_id"]) == case["wire"]


def test_vector_sizes_and_rotations() -> None:
    vectors.run("sphinx_params.json", {"packet_sizes": check_size, "key_rotation": check_rotation})


@pytest.mark.parametrize("tag", [0, 6, 7, 8, 255])
def test_unknown_size_tag_is_refused(tag: int) -> None:
    with pytest.raises(WireError, match="tag"):
        PacketSize.from_tag_untrusted(tag)


@pytest.mark.parametrize("length", [0, 385, 387, 2412, 33134])
def test_length_of_no_packet_size_is_refused(length: int) -> None:
    with pytest.raises(WireError, match="size of a packet"):
        PacketSize.of_packet_untrusted(bytes(length))


def test_sizes_follow_from_each_other() -> None:
    assert c.HEADER_SIZE == 348
    assert c.PRG_SIZE == 360
    assert c.MIN_PACKET_SIZE == 365
    assert c.STEP == 1 + 3 + c.NODE_ADDRESS_SIZE + 8 + c.GAMMA_SIZE
