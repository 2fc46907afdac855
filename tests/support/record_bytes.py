"""Makes ``tests/vectors/recorded``: what real nodes and real clients send us, once, with throw-away keys.

::

    export PYTHONPATH=tests
    NYM_NODE=/path/to/nym-node python -m support.record_bytes nymnode        # as root
    NYM_NODE=/path/to/nym-node python -m support.record_bytes links          # as root
    CARGO_TARGET_DIR=... python -m support.record_bytes smolmix              # after tests/interop/test_smolmix_peer.py

Each starts its network with ``RECORD_WIRE`` set (see ``wire_recorder/sitecustomize.py``), has a few things done in
it, and keeps some cases of every kind that was seen. ``--keep FOLDER`` keeps what was noted, ``--from FOLDER``
makes the file from that again.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from support import recorded

from smolmix_sync.errors import SmolmixError, WireError
from smolmix_sync.mixnet.acks import MAX_ACK_PAYLOAD
from smolmix_sync.mixnet.fragment_encryption import PREFIX_SIZE
from smolmix_sync.mixnet.gateway import text as wire
from smolmix_sync.mixnet.gateway.authentication import authenticate
from smolmix_sync.mixnet.gateway.client import ClientSettings, ClientState, GatewayClient
from smolmix_sync.mixnet.gateway.frames import decode_forward_untrusted
from smolmix_sync.mixnet.sphinx import MixPacket, NodeAddress

Json = dict[str, Any]
RECORDER = Path(__file__).with_name("wire_recorder")
#: Cases kept of one shape.
PER_SHAPE = 2
#: Characters from which one is enough.
LARGE = 20_000
NETWORKS = {
    "nymnode": "five nym-nodes on loopback in a network namespace; the keys were made for it",
    "smolmix": "localnet of this package on loopback; the keys were made for it",
}


# --- from what was noted to cases ---


def notes(folder: Path) -> Iterator[Json]:
    for path in sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime):
        for line in path.read_text().splitlines():
            yield json.loads(line)


def case(kind: str, note: Json, *keys: str, **more: Any) -> Json:
    data = {"text": note["text"]} if "text" in note else {"hex": note["hex"]}
    return {
        "kind": kind,
        "direction": "peer_to_us",
        **data,
        "with": {name: note[name] for name in keys if note.get(name)} | more,
    }


def client_cases(told: list[Json]) -> Iterator[Json]:
    """What a real gateway and a real exit sent a client of ours."""
    for index, note in enumerate(told):
        event = note["event"]
        if event == "from_gateway" and "hex" in note:
            yield case("gateway_pushed", note, "shared_key")
        elif event == "from_gateway":
            yield from _handshake_or_response(note)
        elif event == "payload":
            yield from _payload(note, told[index + 1] if index + 1 < len(told) else {})
        elif event == "message":
            yield case("mixnet_message", note)
        elif event == "from_exit":
            yield case("ipr_response", note)


def _handshake_or_response(note: Json) -> Iterator[Json]:
    try:
        wire.decode_handshake_untrusted(note["text"])
    except WireError:
        yield case("gateway_response", note, "shared_key")
        return
    yield case("gateway_handshake", note)
    if not note["shared_key"]:
        keys = ("identity_seed", "gateway_identity", "private", "salt")
        yield case("gateway_handshake_material", note, *keys)


def _payload(note: Json, following: Json) -> Iterator[Json]:
    octets = bytes.fromhex(note["hex"])
    if len(octets) <= MAX_ACK_PAYLOAD:
        yield case("mixnet_ack", note, "ack_key")
    elif following.get("event") == "reply_key" and following["digest"] == octets[:PREFIX_SIZE].hex():
        yield case("mixnet_reply_fragment", note, reply_key=following["reply_key"])
    else:
        yield case("mixnet_fragment", note, "encryption_private")


def service_cases(told: list[Json]) -> Iterator[Json]:
    """What a real client sent our gateway and our exit."""
    nodes = {note["address"]: note["private"] for note in told if note["event"] == "node"}
    keys = {note["client"]: note["shared_key"] for note in told if note["event"] == "authentication"}
    for note in told:
        event = note["event"]
        if event == "from_client":
            yield from _from_client(note, nodes, keys)
        elif event == "to_exit":
            yield case("ipr_request", note)
        elif event == "message":
            yield case("mixnet_message", note)
        elif event == "payload" and len(note["hex"]) > 2 * MAX_ACK_PAYLOAD:  # acks are answers to our own
            yield case("mixnet_fragment", note, "encryption_private")


def _from_client(note: Json, nodes: Json, keys: Json) -> Iterator[Json]:
    if "hex" in note:
        packet = decode_forward_untrusted(bytes.fromhex(note["hex"]), bytes.fromhex(note["shared_key"]))
        yield case("gateway_forward", note, "shared_key")
        yield case("sphinx_route", {"hex": packet.encode().hex()}, nodes=nodes)
        return
    try:
        message = wire.decode_handshake_untrusted(note["text"])
    except WireError:
        pass
    else:
        yield case("gateway_handshake", note)
        if note["state"] == "handshake" and isinstance(message, wire.HandshakePayload):
            found = case("gateway_handshake_answer", note, "private", "init")
            found["with"]["identity_seed"] = note["seed"]
            yield found
    request = wire.decode_request_untrusted(note["text"])
    key = note["shared_key"]
    if isinstance(request, wire.AuthenticateV2):
        key = keys.get(request.client_identity.hex())
    yield case("gateway_request", {**note, "shared_key": key}, "shared_key")


def link_cases(folder: Path) -> Iterator[Json]:
    """How links from real nodes to ours begin, and what real nodes answer to ours."""
    for path in sorted(folder.glob("*.jsonl")):
        links: dict[tuple[str, int], Json] = {}
        told = [note for note in map(json.loads, path.read_text().splitlines()) if "link" in note]
        for note in told:
            first = links.setdefault((note["event"], note["link"]), {**note, "hex": ""})
            first["hex"] += note["hex"]
        noisy = any(event == "noise" for event, _ in links)
        for (event, _), note in links.items():
            if event == "noise" and note["initiator"]:
                yield case("noise_initiator", note, "static", "ephemeral", "responder")
            elif event == "noise":
                yield case("noise_responder", note, "static", "ephemeral")
            elif not noisy:  # behind Noise it is the same again
                yield case("link_frames", note)


def shape(kind: str, told: Json) -> tuple[object, ...]:
    """Return what makes a case another than those kept."""
    inside = told.get("inside") or told.get("response") or told.get("request") or {}
    frame = told.get("frame") or {}
    reply = inside.get("reply") or {}
    payload = told.get("payload")
    header = told.get("header") or {}
    return (
        kind,
        told.get("type"),
        str(told.get("message"))[:40] if told.get("type") == "ErrorReply" else None,
        told.get("content"),
        told.get("cover"),
        inside.get("type"),
        inside.get("version"),
        reply.get("type") if isinstance(reply, dict) else None,
        frame.get("msg_type"),
        payload["length"] if isinstance(payload, dict) else payload and len(payload),
        told.get("size"),
        told["hops"][0]["version"] if told.get("hops") else None,
        told.get("state"),
        bool(told.get("surbs")),
        bool(told.get("ack")),
        header.get("total", 0) > 1,
        bool(header.get("linked_id")),
    )


def choose(cases: Iterator[Json], *, peer_is_client: bool = False) -> list[Json]:
    """Return some of each shape, with what is read from them as what is expected."""
    kept: dict[tuple[object, ...], list[Json]] = {}
    for found in cases:
        try:
            told = recorded.read(found)
        except (WireError, KeyError) as error:
            print(f"not read: {found['kind']}: {error!r}", file=sys.stderr)
            continue
        if found["kind"] == "sphinx_route":
            passed = {*(hop["node"] for hop in told["hops"]), told["last"]}
            found["with"]["nodes"] = {node: found["with"]["nodes"][node] for node in sorted(passed)}
        if told.get("cover") and peer_is_client:
            continue  # our own
        same = kept.setdefault(shape(found["kind"], told), [])
        size = len(found.get("hex", found.get("text", "")))
        if len(same) < (PER_SHAPE if size < LARGE else 1):
            same.append({**found, "expect": told})
    return [found for _, same in sorted(kept.items(), key=lambda item: str(item[0])) for found in same]


def write(name: str, peer: str, version: str, cases: list[Json]) -> Path:
    path = recorded.folder() / f"{name}.json"
    provenance = {
        "peer": peer,
        "version": version,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "network": NETWORKS[name.partition("_")[0]],
    }
    body = ",\n".join(json.dumps(found) for found in cases)
    path.write_text(f'{{"provenance": {json.dumps(provenance)},\n"cases": [\n{body}\n]}}\n')
    return path


# --- real nodes ---


def record_nymnode(folder: Path) -> None:
    from interop.realnet import RealNet

    nodes = folder / "nodes"
    nodes.mkdir()
    with RealNet(nodes, open_proxy=False) as net:
        program = [sys.executable, "-m", "support.record_bytes", "inside", json.dumps(net.nodes)]
        subprocess.run(net.inside(*program), env=net.environment(), check=True, timeout=240)


def inside(nodes: Json) -> None:
    """Do, in the namespace, what makes nodes say everything they have to say."""
    probe_gateway(nodes["entry"])
    use_exit(nodes["entry"])


class Probe:
    """One websocket to the real entry, driven by our own session or by raw messages."""

    def __init__(self, entry: Json, client: GatewayClient) -> None:
        import websocket

        self.client = client
        self.socket = websocket.create_connection(f"ws://127.0.0.1:{entry['ws_port']}", timeout=5)

    def run(self, until: Callable[[], bool], *, unix_now: float | None = None) -> None:
        """Exchange messages until *until* or until the gateway says nothing for a while."""
        import websocket

        if self.client.state is ClientState.IDLE:
            self.client.start(time.monotonic(), time.time() if unix_now is None else unix_now)
        deadline = time.monotonic() + 8
        while not until() and time.monotonic() < deadline:
            self.flush()
            try:
                data = self.socket.recv()
            except (websocket.WebSocketException, OSError):
                return
            if data:
                self.client.receive_data(data, time.monotonic())

    def flush(self) -> None:
        for message in self.client.data_to_send(time.monotonic()):
            self.raw(message)

    def raw(self, message: str | bytes) -> None:
        if isinstance(message, str):
            self.socket.send(message)
        else:
            self.socket.send_binary(message)

    def hear(self, seconds: float = 1.0) -> None:
        """Take what comes for a moment."""
        end = time.monotonic() + seconds
        self.socket.settimeout(seconds)
        self.run(lambda: time.monotonic() > end)

    @property
    def ready(self) -> bool:
        return self.client.state is ClientState.READY


def probe_gateway(entry: Json) -> None:
    """Register, run out of bandwidth, claim, be refused in every way there is."""
    from smolmix_sync.address import base58_decode

    gateway = base58_decode(entry["identity"])
    settings = ClientSettings(auto_claim=False)

    def session(seed: bytes, **more: Any) -> Probe:
        client = GatewayClient(seed, gateway, urandom=os.urandom, settings=settings, **more)
        return Probe(entry, client)

    def over(probe: Probe) -> Callable[[], bool]:
        return lambda: probe.client.state in (ClientState.READY, ClientState.CLOSED)

    seed = os.urandom(32)
    first = session(seed)
    first.run(over(first))
    assert first.ready
    key, now = first.client.shared_key, time.monotonic()
    assert key is not None
    packet = MixPacket(NodeAddress("127.0.0.1", 10001), bytes(2413), 0)
    first.client.forward(packet, now)  # nothing was claimed yet
    first.hear()
    first.client.claim_bandwidth(now)
    first.hear()
    first.client.forward(packet, now)
    first.hear()
    first.raw(b"\x03\x01" + bytes(40))  # no such kind, and not sealed with our key
    first.hear()
    first.raw("nonsense")
    first.hear()
    first.client.remember_me(now)
    first.hear()
    duplicate = session(seed, shared_key=key)  # while the first connection lives
    duplicate.run(over(duplicate))
    duplicate.socket.close()
    first.socket.close()
    time.sleep(2.5)
    again = session(seed, shared_key=key)
    again.run(over(again))
    again.socket.close()
    for more, skew in (
        ({"shared_key": key, "protocol_version": 6}, 0.0),  # within the same second as the one before
        ({"shared_key": key}, 300.0),
        ({"shared_key": os.urandom(32)}, 1.5),
    ):
        refused = session(seed, **more)
        refused.run(over(refused), unix_now=time.time() + skew)
        refused.hear(0.3)
        refused.socket.close()
    stranger = session(os.urandom(32), shared_key=os.urandom(32))
    stranger.run(over(stranger))
    stranger.socket.close()
    for message in (
        "nonsense",
        wire.ClaimFreeTestnetBandwidth().encode(),
        b"\0" * 50,
        wire.HandshakePayload(6, bytes(80)).encode(),
        authenticate(seed, key, int(time.time()) + 5, 99, os.urandom).encode(),
    ):
        refused = session(os.urandom(32))
        refused.client.start(time.monotonic(), time.time())
        refused.client.data_to_send(time.monotonic())
        refused.raw(message)
        refused.hear(0.5)
        refused.socket.close()
    time.sleep(2.0)
    last = session(seed, shared_key=key)
    last.run(over(last))
    last.client.forget_me(time.monotonic())
    last.hear()
    last.socket.close()


def use_exit(entry: Json) -> None:
    """Tunnels of both framings, with every control request, and a download that makes the exit ask for SURBs."""
    from interop.realnet import API, NAME
    from interop.realnet_services import TARGET

    from smolmix_sync.tunnel import Tunnel

    for version in (9, 8):
        settings: Json = {"nym_api": API, "preferred_gateway": entry["identity"], "ipr_version": version}
        with Tunnel(**settings, open_reply_surbs=12, surb_stock=20) as tunnel:
            ipr = tunnel._session._bridge.ipr  # type: ignore[union-attr]

            def ask(what: str, ipr: Any = ipr, tunnel: Any = tunnel) -> None:
                def do() -> None:
                    getattr(ipr, what)(tunnel._loop.now())
                    tunnel._session._bridge._after_ipr(tunnel._loop.now())

                tunnel._loop.call(do)
                time.sleep(1)

            ask("ping")
            ask("health")
            tunnel.fetch(f"http://{NAME}/")
            with contextlib.suppress(OSError):  # the exit's policy forbids it, and says so
                tunnel.create_connection((TARGET, 81), timeout=10)
            if version == 9:
                tunnel.fetch(f"http://{NAME}/bytes/300000", timeout=60)
            ask("disconnect")


def record_links(folder: Path) -> None:
    from interop.mixednet import NAME, OUR_MIX, OUR_PLAIN_MIX, MixedNet

    nodes = folder / "nodes"
    nodes.mkdir()
    with MixedNet(nodes, True) as net:
        for middle in (OUR_MIX, OUR_PLAIN_MIX):
            with net.tunnel(net.use(middle)) as client:
                client.ask("fetch", url=f"http://{NAME}/")


# --- the real smolmix and nym-sdk ---


def record_smolmix(folder: Path) -> None:
    from interop.test_smolmix_peer import CRATE, Peers, write_network

    from smolmix_sync.client import MixnetClient
    from smolmix_sync.localnet import LocalNet

    target = Path(os.environ.get("CARGO_TARGET_DIR", CRATE / "target")) / "release"
    with LocalNet(set_default=False) as net:
        peers = Peers(target, write_network(net, folder / "network.json"))
        page = "get=http://www.localnet/bytes/60000"
        for version in ("9", "10"):
            peers.smolmix("--ipr-version", version, page, "udp=echo.localnet:7,3,1000")
        for _ in range(2):  # the second time it authenticates
            peers.run(
                "message_peer", "--storage", str(folder / "store"), "--sizes", "1", "echo", "--count", "0"
            )
    # Messages for a client of ours, which are noted here; its own texts to the gateway are not.
    recording = os.environ.pop("RECORD_WIRE")
    spec = importlib.util.spec_from_file_location("wire_recorder_hooks", RECORDER / "sitecustomize.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module._install(recording)
    with LocalNet(set_default=False) as net, MixnetClient(**net.client_settings()) as client:  # type: ignore[arg-type]
        peers = Peers(target, write_network(net, folder / "network.json"))
        process = peers.start("message_peer", "--sizes", "1,9000", "send", str(client.nym_address))
        try:
            for _ in range(2):
                received = client.receive(timeout=60)
                assert received.sender_tag is not None
                client.send_reply(received.sender_tag, received.data)
            process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["nymnode", "links", "smolmix", "inside"])
    parser.add_argument("nodes", nargs="?", type=json.loads)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--from", dest="source", type=Path)
    options = parser.parse_args()
    if options.what == "inside":
        inside(options.nodes)
        return
    with tempfile.TemporaryDirectory() as temporary:
        wires = options.source or options.keep or Path(temporary) / "wires"
        wires.mkdir(exist_ok=True, parents=True)
        if options.source is None:
            os.environ["RECORD_WIRE"] = str(wires)
            tests = Path(__file__).resolve().parents[1]
            os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (RECORDER, tests)))
            runs = {"nymnode": record_nymnode, "links": record_links, "smolmix": record_smolmix}
            runs[options.what](Path(temporary))
        told = list(notes(wires))
        links = list(link_cases(wires))
    from support.interop_record import crate_version, node_version

    if options.what == "nymnode":
        path = write("nymnode_client", "nym-node", node_version(), choose(client_cases(told)))
    elif options.what == "links":
        path = write("nymnode_links", "nym-node", node_version(), choose(iter(links)))
    else:
        told = [note for note in told if note["event"] not in ("from_gateway", "from_exit")]
        version = crate_version("nym-sdk")
        path = write(
            "smolmix_localnet",
            "smolmix and nym-sdk",
            version,
            choose(service_cases(told), peer_is_client=True),
        )
    print(path, path.stat().st_size)


if __name__ == "__main__":
    try:
        main()
    except SmolmixError as error:
        sys.exit(f"record_bytes: {error}")
