from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from support import vectors
from support.mixnet_cases import message_of
from support.mixnet_world import World

from smolmix_sync.address import Recipient
from smolmix_sync.crypto import x25519_base
from smolmix_sync.errors import TopologyError
from smolmix_sync.mixnet.acks import SURB_ACK_SIZE, decode_ack_untrusted, encode_ack
from smolmix_sync.mixnet.client import ClientKeys, MessageReceived, MixnetCore
from smolmix_sync.mixnet.cover import cover_plaintext, is_cover
from smolmix_sync.mixnet.fragment_encryption import decrypt_fragment_untrusted, decrypt_reply_fragment
from smolmix_sync.mixnet.fragments import COVER_FRAGMENT_ID, FragmentHeader, fragment_id, pad_message, split
from smolmix_sync.mixnet.message import (
    NymMessage,
    PlainMessage,
    RepliableMessage,
    ReplyData,
    ReplySurb,
)
from smolmix_sync.mixnet.packets import PacketBuilder, choose_size, per_fragment
from smolmix_sync.mixnet.settings import TrafficSettings
from smolmix_sync.mixnet.sphinx import (
    FinalHop,
    ForwardHop,
    MixPacket,
    NodeAddress,
    PacketSize,
    unwrap_untrusted,
)

REGULAR = 1611


def unused(size: int) -> bytes:
    raise AssertionError("no randomness is needed here")


def core_of(client: dict[str, Any]) -> MixnetCore:
    """Make the client whose keys a vector records."""
    seed, private, ack_key, address = vectors.unhex(
        client, "ed25519_private", "x25519_private", "ack_key", "recipient"
    )
    core = MixnetCore(
        ClientKeys(seed, private, ack_key),
        address[64:],
        config=TrafficSettings(minimum_surb_threshold=0),
        urandom=unused,
    )
    assert core.address == Recipient.decode_untrusted(address) == Recipient.parse(client["address"])
    return core


def walk(
    packet: bytes, first_hop: NodeAddress, hops: Iterable[dict[str, Any]], nodes: list[dict[str, Any]]
) -> bytes:
    """Take *packet* through the recorded hops with the nodes' keys; return the final payload."""
    by_id = {node["node_id"]: node for node in nodes}
    address = first_hop
    for hop in hops:
        node = by_id[hop["node_id"]]
        assert address == NodeAddress.parse(node["mix_host"])
        assert packet == bytes.fromhex(hop["packet_in"])
        result = unwrap_untrusted(packet, bytes.fromhex(node["sphinx_private"]))
        assert result.version == hop["sphinx_version"]
        if isinstance(result, FinalHop):
            assert hop["kind"] == "final"
            assert result.destination.hex() == hop["destination"]
            assert result.identifier.hex() == hop["surb_identifier"]
            assert result.message.hex() == hop["payload"]
            return result.message
        assert isinstance(result, ForwardHop)
        assert hop["kind"] == "forward"
        assert result.next_address == NodeAddress.parse(hop["next_hop"])
        assert result.delay_ns == int(hop["delay_nanos"])
        address, packet = result.next_address, result.packet
    raise AssertionError("the packet did not arrive")


def mix_packet(case: dict[str, Any]) -> MixPacket:
    """Decode the MixPacket of a case and check its recorded parts."""
    packet = MixPacket.decode_untrusted(bytes.fromhex(case["mix_packet_v2"]))
    assert packet.first_hop == NodeAddress.parse(case["first_hop"])
    assert packet.key_rotation == case["key_rotation_byte"]
    assert len(packet.packet) == case["sphinx_packet_len"]
    assert packet.encode().hex() == case["mix_packet_v2"]
    assert packet.encode_v1().hex().startswith(case["mix_packet_v1_prefix"])
    return packet


def check_packet(case: dict[str, Any], nodes: list[dict[str, Any]], ack_key: bytes) -> tuple[bytes, bytes]:
    """Walk a recorded packet and its ack; return the fragment identifier and what the gateway pushes."""
    packet = mix_packet(case["mix_packet"])
    payload = walk(packet.packet, packet.first_hop, case["hops"], nodes)
    at_exit = case["at_exit"]
    block, pushed = payload[: at_exit["ack_len"]], payload[SURB_ACK_SIZE:]
    assert at_exit["ack_len"] == SURB_ACK_SIZE
    assert pushed.hex() == at_exit["message_to_client"]
    first_hop = NodeAddress.decode_untrusted(block)
    assert first_hop == NodeAddress.parse(at_exit["ack_first_hop"])
    content = walk(block[19:], first_hop, at_exit["ack_hops"], nodes)
    assert content.hex() == at_exit["ack_content"]
    identifier = decode_ack_untrusted(ack_key, content)
    assert identifier.hex() == at_exit["recovered_identifier"]
    assert encode_ack(ack_key, identifier, content[:16]) == content
    return identifier, pushed


def delay_of(hops: list[dict[str, Any]]) -> int:
    return sum(int(hop["delay_nanos"]) for hop in hops if hop["kind"] == "forward")


def fragments_of(message: bytes, size: int, recorded: list[bytes]) -> list[bytes]:
    ids = dict.fromkeys(FragmentHeader.decode_untrusted(fragment)[0].set_id for fragment in recorded)
    return split(pad_message(message, size), size, iter(ids).__next__)


def event_of(message: NymMessage, replier: Recipient | None) -> MessageReceived | None:
    """Return what a client reports of *message*."""
    if isinstance(message, PlainMessage):
        return MessageReceived(message.data)
    if isinstance(message, ReplyData):
        return MessageReceived(message.data, None, True, replier)
    if isinstance(message, RepliableMessage) and message.content.is_data:
        return MessageReceived(message.data, message.sender_tag)
    return None


def test_packets_agree_with_the_recorded_vectors_hop_by_hop() -> None:
    def check(case: dict[str, Any]) -> None:
        nodes = case["topology"]["nodes"]
        (ack_key,) = vectors.unhex(case["sender"], "ack_key")
        (private,) = vectors.unhex(case["recipient"], "x25519_private")
        core = core_of(case["recipient"])
        fragments = []
        for index, entry in enumerate(case["packets"]):
            identifier, pushed = check_packet(entry, nodes, ack_key)
            decrypted = decrypt_fragment_untrusted(pushed, private)
            core.receive_data(pushed, float(index))
            if "fragment" not in entry:
                assert identifier == COVER_FRAGMENT_ID
                assert decrypted.hex() == entry["cover_plaintext"]
                assert decrypted == cover_plaintext(len(decrypted))
                assert is_cover(decrypted)
                assert core.stats.cover_received == index + 1
                continue
            assert decrypted.hex() == entry["fragment"]
            assert identifier == fragment_id(decrypted)
            assert identifier.hex() == entry["fragment_identifier"]
            assert pushed[:32].hex() == entry["ephemeral_public"]
            assert delay_of(entry["hops"]) + delay_of(entry["at_exit"]["ack_hops"]) == int(
                entry["total_delay_nanos"]
            )
            fragments.append(decrypted)
        assert not core.stats.dropped_malformed
        if fragments:
            message = message_of(case["message"])
            size = per_fragment(PacketSize[case["packet_size"].upper()])
            assert fragments_of(message.encode(), size, fragments) == fragments
            assert core.next_event() == event_of(message, None)
        assert core.next_event() is None

    vectors.run("message_packets.json", {"cases": check})


def test_replies_agree_with_the_recorded_vectors_hop_by_hop() -> None:
    def check(case: dict[str, Any]) -> None:
        nodes = case["topology"]["nodes"]
        recorded = case["repliable_message"]
        replier = core_of(case["replier"])
        fragments = []
        for index, entry in enumerate(case["repliable_packets"]):
            mix_packet(entry["mix_packet"])
            (packet_in,) = vectors.unhex(entry["last_hop"], "packet_in")
            node = next(node for node in nodes if node["node_id"] == entry["last_hop"]["node_id"])
            payload = walk(packet_in, NodeAddress.parse(node["mix_host"]), [entry["last_hop"]], nodes)
            assert payload[SURB_ACK_SIZE:].hex() == entry["message_to_client"]
            replier.receive_data(payload[SURB_ACK_SIZE:], float(index))
            fragments.append(bytes.fromhex(entry["fragment"]))
        surbs = [ReplySurb.decode_untrusted(bytes.fromhex(surb["bytes"])) for surb in recorded["surbs"]]
        for surb, entry in zip(surbs, recorded["surbs"], strict=True):
            assert surb.digest.hex() == entry["key_digest"]
        message = message_of(recorded)
        assert isinstance(message, RepliableMessage)
        size = len(fragments[0])
        assert fragments_of(message.encode(), size, fragments) == fragments
        assert replier.next_event() == event_of(message, None)
        assert replier.replies.available(message.sender_tag) == len(surbs)

        (ack_key,) = vectors.unhex(case["replier"], "ack_key")
        owner = core_of(case["surb_owner"])
        replies = []
        for index, entry in enumerate(case["reply_packets"]):
            identifier, pushed = check_packet(entry, nodes, ack_key)
            surb = ReplySurb.decode_untrusted(bytes.fromhex(entry["reply_surb"]))
            assert pushed[:32] == surb.digest
            fragment = decrypt_reply_fragment(pushed, surb.encryption_key)
            assert fragment.hex() == entry["fragment"]
            assert identifier == fragment_id(fragment)
            replies.append(fragment)
            # a SURB has no randomness of its own: the packet can be made again
            plaintext = bytes.fromhex(entry["hops"][-1]["payload"])
            made, first_hop = surb.surb.use(
                plaintext, PacketSize.of_packet_untrusted(bytes(len(plaintext) + 365))
            )
            again = MixPacket(first_hop, made, entry["surb_key_rotation_byte"])
            assert again.encode().hex() == entry["mix_packet"]["mix_packet_v2"]
            owner._reply_keys.add(surb.digest, surb.encryption_key, replier.address, 0.0)
            owner.receive_data(pushed, float(index))
        reply = message_of(case["reply_message"])
        assert fragments_of(reply.encode(), size, replies) == replies
        assert owner.next_event() == event_of(reply, replier.address)
        assert owner.stats.surbs_used == len(replies)

    vectors.run("message_replies.json", {"cases": check})


def test_sizes_agree_with_the_recorded_vectors() -> None:
    def check(case: dict[str, Any]) -> None:
        size = PacketSize[case["name"].upper()]
        assert (size.tag, size.packet_size) == (case["tag"], case["size"])
        assert (size.plaintext_size, size.payload_size) == (case["plaintext"], case["payload"])
        if case.get("sphinx_plaintext_plain"):
            assert per_fragment(size) == case["sphinx_plaintext_plain"] == case["sphinx_plaintext_reply"]

    assert vectors.load("message_constants.json").get("surb_ack_len", SURB_ACK_SIZE) == SURB_ACK_SIZE
    vectors.run("message_constants.json", {"packet_sizes": check})


def builder_in(world: World, **settings: Any) -> tuple[PacketBuilder, Recipient, bytes]:
    private = world.urandom(32)
    address = Recipient(world.nodes[0].identity, x25519_base(private), world.nodes[6].identity)
    return PacketBuilder(address, bytes(16), TrafficSettings(**settings), world.urandom), address, private


def deliver(world: World, packet: MixPacket) -> tuple[int, bytes]:
    """Return the number of hops of a packet and what its last node finds."""
    address, octets, hops = packet.first_hop, packet.packet, 0
    while True:
        hops += 1
        result = unwrap_untrusted(octets, world.by_address[address].key(packet.key_rotation))
        if isinstance(result, FinalHop):
            return hops, result.message
        address, octets = result.next_address, result.packet


@pytest.mark.parametrize("direct", [False, True])
def test_without_mix_hops_only_cover_visits_mix_nodes(direct: bool) -> None:
    world = World()
    builder, address, private = builder_in(world, disable_mix_hops=direct)
    fragment = split(pad_message(b"x", REGULAR), REGULAR, lambda: 9)[0]
    packet, _ = builder.forward(fragment, fragment_id(fragment), address, PacketSize.REGULAR, world.topology)
    hops, payload = deliver(world, packet)
    assert hops == (1 if direct else 4)
    assert decrypt_fragment_untrusted(payload[SURB_ACK_SIZE:], private) == fragment
    ack = MixPacket(NodeAddress.decode_untrusted(payload), payload[19:SURB_ACK_SIZE], packet.key_rotation)
    assert deliver(world, ack)[0] == hops
    assert len(builder.reply_surb(world.topology).surb.key_material) == hops
    hops, payload = deliver(world, builder.cover(world.topology))
    assert hops == 4
    assert is_cover(decrypt_fragment_untrusted(payload[SURB_ACK_SIZE:], private))
    ack = MixPacket(NodeAddress.decode_untrusted(payload), payload[19:SURB_ACK_SIZE], packet.key_rotation)
    assert deliver(world, ack)[0] == 4


def test_prepared_headers_are_used_once_and_only_with_their_topology() -> None:
    world = World()
    builder, address, _ = builder_in(world, prepared_acks=2, prepared_surbs=3)
    built = 0
    while builder.prepare(world.topology):
        built += 1
    assert built == 5
    surbs = [builder.reply_surb(world.topology) for _ in range(4)]
    assert len({surb.surb.header for surb in surbs}) == 4
    fragment = split(pad_message(b"x", REGULAR), REGULAR, lambda: 9)[0]
    blocks = set()
    for _ in range(4):
        packet, delay = builder.forward(
            fragment, fragment_id(fragment), address, PacketSize.REGULAR, world.topology
        )
        assert delay > 0
        _, payload = deliver(world, packet)
        blocks.add(payload[:SURB_ACK_SIZE])
        ack = MixPacket(NodeAddress.decode_untrusted(payload), payload[19:SURB_ACK_SIZE], packet.key_rotation)
        assert decode_ack_untrusted(bytes(16), deliver(world, ack)[1]) == fragment_id(fragment)
    assert len(blocks) == 4
    while builder.prepare(world.topology):
        pass
    world.set_rotation(5)
    packet, _ = builder.forward(fragment, fragment_id(fragment), address, PacketSize.REGULAR, world.topology)
    _, payload = deliver(world, packet)  # the ack is built with the new keys, or it would not arrive
    ack = MixPacket(NodeAddress.decode_untrusted(payload), payload[19:SURB_ACK_SIZE], packet.key_rotation)
    assert deliver(world, ack)[0] == 4
    assert builder.prepare(world.topology)


def test_cover_takes_the_secondary_size_in_the_configured_share() -> None:
    world = World()
    builder, _, _ = builder_in(world, secondary_packet_size=PacketSize.EXTENDED8)
    sizes = [len(builder.cover(world.topology).packet) for _ in range(60)]
    assert 25 < sizes.count(2413) < 58
    assert sizes.count(2413) + sizes.count(8557) == 60


def test_the_secondary_size_is_used_when_it_needs_fewer_packets() -> None:
    both = TrafficSettings(secondary_packet_size=PacketSize.EXTENDED8)
    assert choose_size(1000, both) == (PacketSize.REGULAR, 1)
    assert choose_size(3000, both) == (PacketSize.EXTENDED8, 1)
    assert choose_size(3000, TrafficSettings()) == (PacketSize.REGULAR, 2)
    with pytest.raises(ValueError, match="at most"):
        choose_size(TrafficSettings().max_message_size + 1, both)


def test_no_packet_is_built_to_a_gateway_that_is_not_known() -> None:
    world = World()
    builder, address, _ = builder_in(world)
    stranger = Recipient(address.identity, address.encryption, bytes(32))
    with pytest.raises(TopologyError):
        builder.forward(bytes(REGULAR), bytes(5), stranger, PacketSize.REGULAR, world.topology)
