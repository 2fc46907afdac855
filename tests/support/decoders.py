"""Every decoder of octets from outside, as a function of octets; seeds from the vectors; mutations.

A decoder may raise WireError and nothing else. Those named in ``THROUGH`` take what another decoder has read,
and are reached through it.
"""

from __future__ import annotations

import ast
import json
import random
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import smolmix_sync
from smolmix_sync import address, crypto
from smolmix_sync.daemon import protocol
from smolmix_sync.errors import WireError
from smolmix_sync.ipr import codec, ip_header, legacy, lp, requests, responses, values
from smolmix_sync.localnet import semi_skimmed
from smolmix_sync.mixnet import (
    acks,
    fragment_encryption,
    fragments,
    message,
    noise,
    reconstruction,
    strict_json,
)
from smolmix_sync.mixnet.gateway import final_hop, frames, handshake, sealing, text
from smolmix_sync.mixnet.settings import TrafficSettings
from smolmix_sync.mixnet.sphinx import constants, framing, mix_packet, node_address, payload, surb, unwrap
from smolmix_sync.mixnet.topology import (
    bincode,
    cache,
    described,
    epochs,
    fetch,
    fields,
    network_json,
    performance,
    skimmed,
    timestamps,
)
from smolmix_sync.netstack import icmp, ipv4, ipv6, options, segment, udp
from smolmix_sync.reactor import identity, nymapi, resolver, wsupgrade

__all__ = ["TARGETS", "THROUGH", "decoders", "mutated", "one", "seeds"]

PACKAGE = Path(smolmix_sync.__file__).parent
VECTORS = Path(__file__).parents[1] / "vectors"

_KEY16, _KEY32, _NONCE12 = bytes(range(16)), bytes(range(32)), bytes(12)
_A4, _B4 = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))


def _zeros(size: int) -> bytes:
    return bytes(size)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _json(data: bytes) -> strict_json.JsonObject:
    return strict_json.load_object_untrusted(data, 1 << 20)


def _pushed(data: bytes) -> None:
    frames.decode_pushed_untrusted(data, _KEY32)
    frames.decode_pushed_untrusted(frames.encode_frame(frames.PUSHED, data, _KEY32, _zeros), _KEY32)


def _forward(data: bytes) -> None:
    for kind in (1, 2):
        try:
            frames.decode_forward_untrusted(frames.encode_frame(kind, data, _KEY32, _zeros), _KEY32)
        except WireError:
            pass
    frames.decode_forward_untrusted(data, _KEY32)


def _client_handshake(data: bytes) -> None:
    handshake.ClientHandshake(_KEY32, crypto.ed25519_public_from_seed(_KEY32), _ones).receive_untrusted(data)


def _ones(size: int) -> bytes:
    return bytes(range(1, size + 1)) if size < 256 else b"\1" * size


def _gateway_handshake(data: bytes) -> None:
    gateway = handshake.GatewayHandshake(_KEY32, _ones)
    gateway.respond_untrusted(data[:80])
    gateway.finish_untrusted(data[80:])


def _noise(data: bytes) -> None:
    public = crypto.x25519_base(_KEY32)
    for link in (
        noise.NoiseLink.responder(_KEY32, urandom=_ones, now=0.0),
        noise.NoiseLink.initiator(_KEY32, public, urandom=_ones, now=0.0),
    ):
        link.data_to_send()
        link.receive_data(data)
        try:
            while link.next_data_untrusted() is not None:
                pass
        except WireError:
            pass


def _frames(data: bytes) -> None:
    decoder = framing.FrameDecoder()
    for _ in decoder.frames_untrusted(data):
        pass


def _reconstruction(data: bytes) -> None:
    sets = reconstruction.Reconstructor(TrafficSettings())
    for at in range(0, len(data), 120):
        try:
            sets.insert_untrusted("peer", data[at : at + 120], float(at))
        except WireError:
            pass
    sets.insert_untrusted("peer", data, 0.0)


def _unwrap(data: bytes) -> None:
    unwrap.open_untrusted(data, _KEY32).finish_untrusted()


def _directory(data: bytes) -> None:
    asked = fetch.DirectoryFetch()
    for path in asked.pending():
        for kind in ("application/json", "application/bincode"):
            again = fetch.DirectoryFetch()
            try:
                again.receive_untrusted(path, data, kind)
            except WireError:
                pass


def _segment(data: bytes) -> None:
    segment.decode_untrusted(data, 0)


def _responses(data: bytes) -> None:
    for layout in (8, 9, 10):
        try:
            responses.decode_response_untrusted(data, layout)
        except WireError:
            pass
    responses.decode_response_untrusted(data)


def _streams(data: bytes) -> None:
    for extended in (False, True):
        try:
            lp.StreamFrame.decode_untrusted(data, extended=extended)
        except WireError:
            pass
    lp.StreamFrame.from_frame_untrusted(lp.LpFrame.decode_untrusted(data))


def _icmp(data: bytes) -> None:
    icmp.quote_untrusted(icmp.decode_untrusted(_A4, _B4, data))


def _upgrade(data: bytes) -> None:
    one = wsupgrade.Upgrade("host", _ones)
    one.request()
    if not one.receive_untrusted(data):
        one.receive_untrusted(b"")


def _tag(data: bytes) -> None:
    constants.PacketSize.from_tag_untrusted(int.from_bytes(data[:2], "big"))


def _described(data: bytes) -> None:
    described.DescribedPage.decode_untrusted(data, skip_malformed=True)
    described.DescribedPage.decode_untrusted(data)


def _mix_packet(data: bytes) -> None:
    try:
        mix_packet.MixPacket.decode_untrusted(data, 1)
    except WireError:
        pass
    mix_packet.MixPacket.decode_untrusted(data)


#: What an input runs through, by module and name below the package.
TARGETS: dict[str, Callable[[bytes], object]] = {
    "address:Recipient.decode_untrusted": address.Recipient.decode_untrusted,
    "crypto:aes_gcm_decrypt_untrusted": lambda data: crypto.aes_gcm_decrypt_untrusted(
        _KEY32, _NONCE12, data, b""
    ),
    "crypto:secretbox_open_untrusted": lambda data: crypto.secretbox_open_untrusted(_KEY32, bytes(24), data),
    "daemon.protocol:Reply.decode_untrusted": protocol.Reply.decode_untrusted,
    "daemon.protocol:Request.decode_untrusted": protocol.Request.decode_untrusted,
    "daemon.protocol:decode_addresses_untrusted": protocol.decode_addresses_untrusted,
    "ipr.codec:unbundle_untrusted": codec.unbundle_untrusted,
    "ipr.ip_header:destination_untrusted": ip_header.destination_untrusted,
    "ipr.ip_header:parse_packet_untrusted": ip_header.parse_packet_untrusted,
    "ipr.legacy:decode_legacy_request_untrusted": legacy.decode_legacy_request_untrusted,
    "ipr.legacy:decode_legacy_response_untrusted": legacy.decode_legacy_response_untrusted,
    "ipr.lp:StreamFrame.decode_untrusted": _streams,
    "ipr.requests:decode_request_untrusted": requests.decode_request_untrusted,
    "ipr.responses:decode_response_untrusted": _responses,
    "ipr.values:IpPair.decode_untrusted": values.IpPair.decode_untrusted,
    "localnet.semi_skimmed:SemiSkimmedPage.decode_untrusted": semi_skimmed.SemiSkimmedPage.decode_untrusted,
    "mixnet.acks:decode_ack_untrusted": lambda data: acks.decode_ack_untrusted(_KEY16, data),
    "mixnet.fragment_encryption:decrypt_fragment_untrusted": lambda data: (
        fragment_encryption.decrypt_fragment_untrusted(data, _KEY32)
    ),
    "mixnet.fragments:FragmentHeader.decode_untrusted": fragments.FragmentHeader.decode_untrusted,
    "mixnet.fragments:check_fragment_id_untrusted": fragments.check_fragment_id_untrusted,
    "mixnet.fragments:unpad_untrusted": fragments.unpad_untrusted,
    "mixnet.gateway.final_hop:split_payload_untrusted": lambda data: final_hop.split_payload_untrusted(
        data, 0
    ),
    "mixnet.gateway.frames:decode_forward_untrusted": _forward,
    "mixnet.gateway.frames:decode_pushed_untrusted": _pushed,
    "mixnet.gateway.handshake:ClientHandshake.receive_untrusted": _client_handshake,
    "mixnet.gateway.handshake:GatewayHandshake.respond_untrusted": _gateway_handshake,
    "mixnet.gateway.sealing:open_untrusted": lambda data: sealing.open_untrusted(
        _KEY32, data[12:], data[:12]
    ),
    "mixnet.gateway.text:decode_handshake_untrusted": lambda data: text.decode_handshake_untrusted(
        _text(data)
    ),
    "mixnet.gateway.text:decode_request_untrusted": lambda data: text.decode_request_untrusted(_text(data)),
    "mixnet.gateway.text:decode_response_untrusted": lambda data: text.decode_response_untrusted(_text(data)),
    "mixnet.gateway.text:decode_sensitive_request_untrusted": text.decode_sensitive_request_untrusted,
    "mixnet.gateway.text:decode_sensitive_response_untrusted": text.decode_sensitive_response_untrusted,
    "mixnet.message:ReplySurb.decode_untrusted": message.ReplySurb.decode_untrusted,
    "mixnet.message:decode_message_untrusted": message.decode_message_untrusted,
    "mixnet.noise:NoiseLink.next_data_untrusted": _noise,
    "mixnet.reconstruction:Reconstructor.insert_untrusted": _reconstruction,
    "mixnet.sphinx.constants:PacketSize.from_tag_untrusted": _tag,
    "mixnet.sphinx.constants:PacketSize.of_packet_untrusted": constants.PacketSize.of_packet_untrusted,
    "mixnet.sphinx.framing:FrameDecoder.frames_untrusted": _frames,
    "mixnet.sphinx.mix_packet:MixPacket.decode_untrusted": _mix_packet,
    "mixnet.sphinx.node_address:NodeAddress.decode_untrusted": node_address.NodeAddress.decode_untrusted,
    "mixnet.sphinx.payload:lioness_decrypt_untrusted": lambda data: payload.lioness_decrypt_untrusted(
        bytes(192), data
    ),
    "mixnet.sphinx.payload:recover_untrusted": payload.recover_untrusted,
    "mixnet.sphinx.surb:Surb.decode_untrusted": surb.Surb.decode_untrusted,
    "mixnet.sphinx.unwrap:open_untrusted": _unwrap,
    "mixnet.sphinx.unwrap:unwrap_untrusted": lambda data: unwrap.unwrap_untrusted(data, _KEY32),
    "mixnet.strict_json:load_object_untrusted": _json,
    "mixnet.topology.bincode:decode_epoch_untrusted": bincode.decode_epoch_untrusted,
    "mixnet.topology.bincode:decode_health_untrusted": bincode.decode_health_untrusted,
    "mixnet.topology.bincode:decode_rewarded_set_untrusted": bincode.decode_rewarded_set_untrusted,
    "mixnet.topology.bincode:decode_skimmed_untrusted": bincode.decode_skimmed_untrusted,
    "mixnet.topology.cache:decode_cache_untrusted": lambda data: cache.decode_cache_untrusted(data, 1.7e9),
    "mixnet.topology.described:DescribedPage.decode_untrusted": _described,
    "mixnet.topology.epochs:Health.decode_untrusted": epochs.Health.decode_untrusted,
    "mixnet.topology.epochs:KeyRotationInfo.decode_untrusted": epochs.KeyRotationInfo.decode_untrusted,
    "mixnet.topology.epochs:decode_epoch_untrusted": epochs.decode_epoch_untrusted,
    "mixnet.topology.epochs:decode_rewarded_set_untrusted": epochs.decode_rewarded_set_untrusted,
    "mixnet.topology.fetch:DirectoryFetch.receive_untrusted": _directory,
    "mixnet.topology.fields:identity_untrusted": lambda data: fields.identity_untrusted(_text(data)),
    "mixnet.topology.fields:ip_untrusted": lambda data: fields.ip_untrusted(_text(data)),
    "mixnet.topology.fields:key_untrusted": lambda data: fields.key_untrusted(_text(data)),
    "mixnet.topology.fields:socket_address_untrusted": lambda data: fields.socket_address_untrusted(
        _text(data)
    ),
    "mixnet.topology.network_json:decode_network_untrusted": network_json.decode_network_untrusted,
    "mixnet.topology.network_json:decode_wasm_network_untrusted": network_json.decode_wasm_network_untrusted,
    "mixnet.topology.performance:Performance.parse_untrusted": lambda data: (
        performance.Performance.parse_untrusted(_text(data))
    ),
    "mixnet.topology.skimmed:SkimmedPage.decode_untrusted": skimmed.SkimmedPage.decode_untrusted,
    "mixnet.topology.timestamps:Timestamp.parse_own_untrusted": lambda data: (
        timestamps.Timestamp.parse_own_untrusted(_text(data))
    ),
    "mixnet.topology.timestamps:Timestamp.parse_rfc3339_untrusted": lambda data: (
        timestamps.Timestamp.parse_rfc3339_untrusted(_text(data))
    ),
    "netstack.icmp:decode_untrusted": _icmp,
    "netstack.ipv4:decode_untrusted": ipv4.decode_untrusted,
    "netstack.ipv6:decode_untrusted": ipv6.decode_untrusted,
    "netstack.options:decode_untrusted": options.decode_untrusted,
    "netstack.segment:decode_untrusted": _segment,
    "netstack.udp:decode_untrusted": lambda data: udp.decode_untrusted(_A4, _B4, data),
    "reactor.identity:ClientIdentity.decode_untrusted": identity.ClientIdentity.decode_untrusted,
    "reactor.nymapi:clock_ahead_untrusted": lambda data: nymapi.clock_ahead_untrusted(
        _text(data), 1.7e9, 1.7e9
    ),
    "reactor.resolver:decode_untrusted": resolver.decode_untrusted,
    "reactor.wsupgrade:Upgrade.receive_untrusted": _upgrade,
}

#: Decoders of what another one has read, and which.
THROUGH: dict[str, str] = {
    "ipr.lp:LpFrame.decode_untrusted": "ipr.lp:StreamFrame.decode_untrusted",
    "ipr.lp:StreamFrame.from_frame_untrusted": "ipr.lp:StreamFrame.decode_untrusted",
    "ipr.values:Timestamp.check_untrusted": "ipr.responses:decode_response_untrusted",
    "netstack.icmp:quote_untrusted": "netstack.icmp:decode_untrusted",
    "mixnet.gateway.handshake:GatewayHandshake.finish_untrusted": (
        "mixnet.gateway.handshake:GatewayHandshake.respond_untrusted"
    ),
    "mixnet.noise:_Cipher.decrypt_untrusted": "mixnet.noise:NoiseLink.next_data_untrusted",
    "mixnet.noise:_SymmetricState.decrypt_and_hash_untrusted": "mixnet.noise:NoiseLink.next_data_untrusted",
    "mixnet.sphinx.framing:FrameDecoder.next_frame_untrusted": "mixnet.sphinx.framing:FrameDecoder.frames_untrusted",
    "mixnet.sphinx.unwrap:OpenedPacket.finish_untrusted": "mixnet.sphinx.unwrap:open_untrusted",
    "mixnet.strict_json:load_untrusted": "mixnet.strict_json:load_object_untrusted",
    "mixnet.topology.fetch:_Pages.add_untrusted": "mixnet.topology.fetch:DirectoryFetch.receive_untrusted",
    **dict.fromkeys(
        (
            "mixnet.topology.described:BuildInformation.decode_untrusted",
            "mixnet.topology.described:DescribedNode.decode_untrusted",
            "mixnet.topology.described:SphinxKey.decode_untrusted",
        ),
        "mixnet.topology.described:DescribedPage.decode_untrusted",
    ),
    "mixnet.topology.epochs:Interval.decode_untrusted": "mixnet.topology.epochs:decode_epoch_untrusted",
    "mixnet.topology.epochs:KeyRotationInfo.from_json_untrusted": (
        "mixnet.topology.epochs:KeyRotationInfo.decode_untrusted"
    ),
    "mixnet.topology.epochs:rewarded_set_from_json_untrusted": (
        "mixnet.topology.epochs:decode_rewarded_set_untrusted"
    ),
    **dict.fromkeys(
        (
            "mixnet.topology.network_json:network_from_json_untrusted",
            "mixnet.topology.network_json:node_from_json_untrusted",
        ),
        "mixnet.topology.network_json:decode_network_untrusted",
    ),
    **dict.fromkeys(
        (
            "mixnet.topology.skimmed:DeclaredRoles.decode_untrusted",
            "mixnet.topology.skimmed:Metadata.decode_untrusted",
            "mixnet.topology.skimmed:Pagination.decode_untrusted",
            "mixnet.topology.skimmed:SkimmedEntry.decode_untrusted",
            "mixnet.topology.skimmed:SkimmedNode.decode_untrusted",
        ),
        "mixnet.topology.skimmed:SkimmedPage.decode_untrusted",
    ),
    # Costs argon2's time by intention; behind it stands secretbox.
    "reactor.identity:PassphraseSeal.open_untrusted": "crypto:secretbox_open_untrusted",
}


def decoders() -> Iterator[str]:
    """Yield every function of the package whose name ends in ``_untrusted`` and that is no module's private one."""
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)

        def walk(body: list[ast.stmt], above: str) -> Iterator[str]:
            for node in body:
                if isinstance(node, ast.ClassDef):
                    yield from walk(node.body, f"{above}{node.name}.")
                elif (
                    isinstance(node, ast.FunctionDef)
                    and node.name.endswith("_untrusted")
                    and node.name[0] != "_"
                ):
                    yield above + node.name

        for name in walk(ast.parse(path.read_text()).body, ""):
            yield f"{module}:{name}"


def one(target: Callable[[bytes], object], data: bytes) -> None:
    """Run one input; anything raised but WireError is a fault of the decoder."""
    try:
        target(data)
    except WireError:
        pass


@lru_cache(maxsize=1)
def seeds() -> tuple[bytes, ...]:
    """Return the octets and the JSON documents found in the vectors, up to 20 kB each, without repetitions."""
    found: dict[bytes, None] = {}

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            for one in value.values():
                collect(one)
            found.setdefault(json.dumps(value).encode()[:20_000])
        elif isinstance(value, list):
            for one in value:
                collect(one)
        elif isinstance(value, str):
            found.setdefault(value.encode()[:20_000])
            try:
                found.setdefault(bytes.fromhex(value)[:20_000])
            except ValueError:
                pass

    for path in sorted(VECTORS.rglob("*.json")):
        collect(json.loads(path.read_text(encoding="utf-8")))
    return tuple(found)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return *data* with a few octets changed, cut out, repeated or put in."""
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(changed) + 1)
        kind = rng.randrange(6)
        if kind == 0 and changed:
            changed[at % len(changed)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 1:
            del changed[at : at + rng.randrange(1, 9)]
        elif kind == 2:
            changed[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 3:
            changed[at:at] = changed[at : at + 32]
        elif kind == 4:
            del changed[at:]
        elif changed:
            changed[at % len(changed)] ^= 1 << rng.randrange(8)
    return bytes(changed)
