"""A malicious entry gateway: a page of attacks. The client stays up or says what is wrong, in bounded time and space,
tells the gateway no more than it may know, and talks to nobody else."""

from __future__ import annotations

import base64
import json
import os
import random
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.contacts import Contacts, recorded_contacts
from support.greenlets import in_greenlet, wait_until
from support.hostile_gateway import (
    CLIENT_SEED,
    LARGE,
    Connection,
    Meddler,
    Meeting,
    RelayOfMeddler,
    frame,
    garbage,
)
from support.mixnet_world import World

from smolmix_sync.address import base58_encode
from smolmix_sync.crypto import ed25519_public_from_seed
from smolmix_sync.errors import GatewayAuthError, GatewayError, SetupTimeout
from smolmix_sync.localnet import LocalNet
from smolmix_sync.mixnet.gateway import ClientState, GatewayClient, GatewayRefused, Pushed, Refusal
from smolmix_sync.mixnet.gateway import text as wire
from smolmix_sync.mixnet.gateway.constants import ERROR_DUPLICATE, ERROR_NOT_REGISTERED
from smolmix_sync.mixnet.gateway.frames import encode_frame, encode_pushed
from smolmix_sync.mixnet.gateway.handshake import FINALIZATION, GatewayHandshake
from smolmix_sync.mixnet.sphinx import MixPacket, NodeAddress
from smolmix_sync.reactor.gateway import GatewayEndpoint, GatewayLink, GatewayRefusal
from smolmix_sync.reactor.loop import ReactorLoop
from smolmix_sync.tunnel import Tunnel

PACKET = MixPacket(NodeAddress("192.0.2.1", 1789), bytes(2413), 1)
KINDS = {
    "supportedProtocol", "handshakePayload", "handshakeError", "authenticateV2", "claimFreeTestnetBandwidth",
}  # fmt: skip

Attack = Callable[[Meeting], object]


def spellings(secret: bytes) -> list[bytes]:
    """Return the ways in which octets may stand in a message."""
    numbers = ",".join(map(str, secret)).encode()
    return [secret, secret.hex().encode(), base58_encode(secret).encode(), base64.b64encode(secret), numbers]


def check_bounds(meeting: Meeting) -> None:
    client = meeting.client
    assert len(client._events) <= client.settings.max_events + 4
    assert len(client._out) <= client.settings.max_queued_frames + 4


def check_role(meeting: Meeting) -> None:
    """The gateway was told who we are there, and nothing that is not its own business."""
    meeting.take()
    for message in meeting.sent:
        if isinstance(message, str):
            assert json.loads(message)["type"] in KINDS
        octets = message.encode() if isinstance(message, str) else message
        for secret in (CLIENT_SEED, meeting.client.shared_key):
            if secret is not None:
                assert not any(spelling in octets for spelling in spellings(secret))


def works(meeting: Meeting) -> bool:
    """Tell whether an honest message comes through, and a packet of ours leaves."""
    client = meeting.client
    if client.state is not ClientState.READY or client.shared_key is None:
        return False
    meeting.events.clear()
    meeting.tell(encode_pushed(b"honest" * 20, client.shared_key, os.urandom))
    came = any(isinstance(event, Pushed) and event.payload == b"honest" * 20 for event in meeting.events)
    return came and client.forward(PACKET, meeting.now)


# --- while the session is set up ---

SETUP: list[Any] = []


def setup(sentence: str, state: ClientState, kind: Refusal) -> Callable[[Attack], Attack]:
    def keep(attack: Attack) -> Attack:
        SETUP.append(pytest.param(state, kind, attack, id=sentence))
        return attack

    return keep


def material(meeting: Meeting) -> bytes:
    """The client's first handshake message, as it stands in its text."""
    [text] = [one for one in meeting.take() if isinstance(one, str)]
    return bytes(json.loads(text)["data"])


def payload(data: bytes, version: int = 6) -> str:
    return wire.HandshakePayload(version, data).encode()


@setup("it says nothing at all, at the first question", ClientState.NEGOTIATING, Refusal.TIMEOUT)
def _(meeting: Meeting) -> None:
    meeting.take()


@setup("it says nothing at all, in the handshake", ClientState.HANDSHAKE, Refusal.TIMEOUT)
def _(meeting: Meeting) -> None:
    meeting.take()


@setup("it talks for ever beside the point while we register", ClientState.HANDSHAKE, Refusal.TIMEOUT)
def _(meeting: Meeting) -> None:
    for number in range(5000):
        meeting.tell({"type": "send", "remaining_bandwidth": number})
        meeting.tell({"type": "bandwidth", "available_total": number, "upgrade_mode": False})
        if not number % 100:
            meeting.advance(0.1)


@setup("it keeps a client that registers by sending frames for ever", ClientState.HANDSHAKE, Refusal.TIMEOUT)
def _(meeting: Meeting) -> None:
    for _ in range(3000):
        meeting.tell(garbage(100), drain=False)
    check_bounds(meeting)


@setup("it speaks a protocol of long ago", ClientState.NEGOTIATING, Refusal.VERSION)
def _(meeting: Meeting) -> None:
    meeting.tell({"type": "supportedProtocol", "version": 0})


@setup("it answers the first question with another answer", ClientState.NEGOTIATING, Refusal.PROTOCOL)
def _(meeting: Meeting) -> None:
    meeting.tell(wire.AuthenticateReply(6, True, 1 << 40).encode())


@setup("it answers with JSON a thousand levels deep", ClientState.NEGOTIATING, Refusal.PROTOCOL)
def _(meeting: Meeting) -> None:
    meeting.tell('{"type":"supportedProtocol","version":' + "[" * 10_000)


@setup("it answers with a megabyte of text", ClientState.NEGOTIATING, Refusal.PROTOCOL)
def _(meeting: Meeting) -> None:
    meeting.tell('{"type":"supportedProtocol","x":"' + "x" * (1 << 20) + '"}')


@setup("its version is a number of ten thousand digits", ClientState.NEGOTIATING, Refusal.PROTOCOL)
def _(meeting: Meeting) -> None:
    meeting.tell('{"type":"supportedProtocol","version":' + "9" * 10_000 + "}")


@setup("its version is NaN", ClientState.NEGOTIATING, Refusal.PROTOCOL)
def _(meeting: Meeting) -> None:
    meeting.tell('{"type":"supportedProtocol","version":NaN}')


@setup("it registers us without a handshake", ClientState.HANDSHAKE, Refusal.HANDSHAKE)
def _(meeting: Meeting) -> None:
    meeting.tell(wire.RegisterReply(6, True).encode())


@setup("it has not the key that the directory names", ClientState.HANDSHAKE, Refusal.HANDSHAKE)
def _(meeting: Meeting) -> None:
    impostor = GatewayHandshake(b"i" * 32, os.urandom)
    meeting.tell(payload(impostor.respond_untrusted(material(meeting))))


@setup("its handshake key makes every secret zero", ClientState.HANDSHAKE, Refusal.HANDSHAKE)
def _(meeting: Meeting) -> None:
    meeting.tell(payload(bytes(124)))


@setup("its handshake key is a point of small order", ClientState.HANDSHAKE, Refusal.HANDSHAKE)
def _(meeting: Meeting) -> None:
    point = bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")
    meeting.tell(payload(point + bytes(92)))


@setup("its handshake message is ten kilobytes", ClientState.HANDSHAKE, Refusal.HANDSHAKE)
def _(meeting: Meeting) -> None:
    meeting.tell(payload(bytes(10_000)))


@setup("it replays the handshake of another client", ClientState.HANDSHAKE, Refusal.HANDSHAKE)
def _(meeting: Meeting) -> None:
    other = Meeting(seed=2).until(ClientState.HANDSHAKE)
    honest = GatewayHandshake(bytes(range(32)), os.urandom)
    answer = honest.respond_untrusted(material(other))
    material(meeting)
    meeting.tell(payload(answer))


@setup("it breaks off the handshake at its last octet", ClientState.HANDSHAKE, Refusal.HANDSHAKE)
def _(meeting: Meeting) -> None:
    honest = GatewayHandshake(bytes(range(32)), os.urandom)
    meeting.tell(payload(honest.respond_untrusted(material(meeting))), payload(b"\0"))


@setup("it confirms the handshake and refuses the registration", ClientState.HANDSHAKE, Refusal.HANDSHAKE)
def _(meeting: Meeting) -> None:
    honest = GatewayHandshake(bytes(range(32)), os.urandom)
    meeting.tell(payload(honest.respond_untrusted(material(meeting))), payload(FINALIZATION))
    meeting.tell(wire.RegisterReply(6, False).encode())


@setup("it changes the protocol in the middle", ClientState.HANDSHAKE, Refusal.VERSION)
def _(meeting: Meeting) -> None:
    honest = GatewayHandshake(bytes(range(32)), os.urandom)
    meeting.tell(payload(honest.respond_untrusted(material(meeting)), version=99))


@setup("its refusal is a screen of control characters", ClientState.HANDSHAKE, Refusal.HANDSHAKE)
def _(meeting: Meeting) -> None:
    meeting.tell(wire.HandshakeError("\x1b[2J\r\n" * 1000).encode())


@pytest.mark.parametrize(("state", "kind", "attack"), SETUP)
def test_set_up_ends_with_a_reason(state: ClientState, kind: Refusal, attack: Attack) -> None:
    meeting = Meeting().until(state)
    attack(meeting)
    meeting.advance(60.0)
    assert meeting.client.state is ClientState.CLOSED
    meeting.drain()
    [refused] = [event for event in meeting.events if isinstance(event, GatewayRefused)]
    assert (refused.kind, refused.fatal) == (kind, True)
    check_bounds(meeting)
    check_role(meeting)
    # What is said after the end is not heard.
    meeting.tell(wire.AuthenticateReply(6, True, 1).encode(), garbage(500))
    assert meeting.client.next_event() is None


# --- once it is there ---

READY: list[Any] = []


def ready(sentence: str, counter: str | None = None) -> Callable[[Attack], Attack]:
    def keep(attack: Attack) -> Attack:
        READY.append(pytest.param(counter, attack, id=sentence))
        return attack

    return keep


def key_of(meeting: Meeting) -> bytes:
    key = meeting.client.shared_key
    assert key is not None
    return key


@ready("it pushes garbage", "dropped_undecryptable")
def _(meeting: Meeting) -> None:
    for size in (*range(64), 405, 2000, LARGE):
        meeting.tell(garbage(size))


@ready("it pushes frames that are not sealed", "dropped_unencrypted")
def _(meeting: Meeting) -> None:
    for _ in range(1000):
        meeting.tell(bytes((1, 0)) + bytes(12) + b"anybody could have written this")


@ready("it pushes frames of a kind that there is not", "dropped_undecryptable")
def _(meeting: Meeting) -> None:
    for kind in (0, 2, 77, 255):
        meeting.tell(encode_frame(kind, b"payload", key_of(meeting), os.urandom))


@ready("it pushes faster than anybody takes", "dropped_overflow")
def _(meeting: Meeting) -> None:
    pushed = encode_pushed(bytes(40), key_of(meeting), os.urandom)
    for _ in range(20_000):
        meeting.tell(pushed, drain=False)
    check_bounds(meeting)


@ready("it says that we are out of bandwidth, ten thousand times")
def _(meeting: Meeting) -> None:
    before = meeting.client.counters.claims
    for _ in range(10_000):
        meeting.tell(wire.OutOfBandwidthReply(2**62, -(2**62)).encode())
    assert meeting.client.counters.claims <= before + 1


@ready("it grants a negative bandwidth, again and again")
def _(meeting: Meeting) -> None:
    before = meeting.client.counters.claims
    for number in range(1000):
        meeting.tell(wire.BandwidthReply(-(2**63)).encode())
        meeting.client.forward(PACKET, meeting.now)
        meeting.take()
        meeting.now += 0.01 * (number % 2)
    assert meeting.client.counters.claims <= before + 7  # one a second


@ready("it grants more bandwidth than there are octets in the world")
def _(meeting: Meeting) -> None:
    meeting.tell(wire.BandwidthReply(2**63 - 1).encode())
    assert meeting.client.bandwidth == 2**63 - 1


@ready("its bandwidth is too large for a number of 64 bits", "dropped_malformed")
def _(meeting: Meeting) -> None:
    for number in ("9" * 400, "1e400", "-1e400", "NaN", "Infinity", '"1"', "1.5", "null", "[]", "true"):
        meeting.tell(f'{{"type":"bandwidth","available_total":{number},"upgrade_mode":false}}')


@ready("it floods us with errors")
def _(meeting: Meeting) -> None:
    for _ in range(20_000):
        meeting.tell(wire.ErrorReply("x" * 100).encode(), drain=False)
    check_bounds(meeting)


@ready("it seals answers with another key", "dropped_malformed")
def _(meeting: Meeting) -> None:
    for _ in range(200):
        meeting.tell(wire.EncryptedResponse(garbage(40), garbage(12)).encode())
        meeting.tell(wire.EncryptedResponse(garbage(1), garbage(1)).encode())


@ready("it authenticates us once more, under another version")
def _(meeting: Meeting) -> None:
    version = meeting.client.protocol_version
    meeting.tell(wire.AuthenticateReply(2, False, 0).encode(), wire.SupportedProtocolReply(1).encode())
    meeting.tell(wire.RegisterReply(1, False).encode())
    assert meeting.client.protocol_version == version


@ready("it begins a second handshake", "dropped_malformed")
def _(meeting: Meeting) -> None:
    key = key_of(meeting)
    meeting.tell(payload(bytes(124)), payload(FINALIZATION), wire.HandshakeError("start again").encode())
    assert meeting.client.shared_key == key


@ready("its texts are no JSON, or twice the same field", "dropped_malformed")
def _(meeting: Meeting) -> None:
    for text in ("", "{", "[]", "null", "\0", "[" * 100_000, '{"type":5}', '{"type":{"a":1}}', '"send"'):
        meeting.tell(text)


@ready("it says for every packet that nothing is left, though it was told to be quiet")
def _(meeting: Meeting) -> None:
    for _ in range(5000):
        meeting.tell(wire.SendReply(-1, True).encode())
    meeting.tell(wire.SendReply(1 << 40, False).encode())


@ready("it says that the ticket was spent, which there never was")
def _(meeting: Meeting) -> None:
    for _ in range(3000):
        meeting.tell(wire.TicketReplayReply().encode(), drain=False)
    check_bounds(meeting)


@pytest.mark.parametrize(("counter", "attack"), READY)
def test_open_session_stays_up(counter: str | None, attack: Attack) -> None:
    meeting = Meeting().until(ClientState.READY)
    meeting.take()
    before = getattr(meeting.client.counters, counter) if counter else -1
    attack(meeting)
    if counter:
        assert getattr(meeting.client.counters, counter) > before
    meeting.drain()
    meeting.take()
    check_bounds(meeting)
    check_role(meeting)
    assert works(meeting)


def test_gateway_that_knows_nobody_any_more_is_registered_at_anew_with_the_next_connection() -> None:
    meeting = Meeting().until(ClientState.READY)
    again = meeting.client.successor()
    again.start(meeting.now + 5, 1_763_726_405.0)
    again.data_to_send(meeting.now + 5)
    again.receive_data(wire.ErrorReply(ERROR_NOT_REGISTERED).encode(), meeting.now + 5)
    assert again.state is ClientState.CLOSED
    assert again.successor().shared_key is None


# --- the message core behind it: acks and payloads, which the gateway may drop, repeat, reorder and make up ---


def talk(world: World) -> tuple[Any, Any]:
    alice, bob = world.client(7), world.client(8)
    alice.core.send(bob.core.address, b"m" * 5000, world.now, surbs=5)
    return alice, bob


def test_gateway_that_repeats_everything_delivers_nothing_twice() -> None:
    world = World(seed=3)
    _, bob = talk(world)
    seen: list[bytes] = []
    honest = bob.receive

    def receive(payload: bytes) -> None:
        seen.append(payload)
        for _ in range(3):
            honest(payload)

    bob.receive = receive
    assert world.run(60, until=lambda: bob.messages)
    for payload_ in seen * 20:
        honest(payload_)
    world.run(5)
    assert [message.message for message in bob.messages] == [b"m" * 5000]
    assert bob.core.stats.dropped_malformed + bob.core.reconstructor.duplicates >= len(seen)
    assert bob.core.reconstructor.pending == 0


def test_gateway_that_makes_up_acknowledgements_ends_no_retransmission() -> None:
    world = World(seed=4)
    alice, bob = talk(world)
    while (packet := alice.core.next_packet(world.now)) is not None:
        del packet  # the gateway throws every packet away
    waiting = alice.core.awaiting_ack
    rng = random.Random(4)
    for size in [40, 40, 39, 41, 0, 1, 21, 20, 22] * 200:
        alice.receive(rng.randbytes(size))
    assert alice.core.awaiting_ack == waiting
    assert alice.core.stats.dropped_malformed > 100
    assert world.run(120, until=lambda: bob.messages)  # sent again, and delivered


def test_gateway_that_pushes_fragments_of_its_own_fills_no_table() -> None:
    world = World(seed=5)
    alice, _ = talk(world)
    rng = random.Random(5)
    for number in range(3000):
        alice.receive(rng.randbytes(2000 if number % 3 else 300))
    core = alice.core
    assert core.stats.dropped_malformed >= 2000  # the rest became fragments by chance: one set each at most
    assert core.reconstructor.pending <= 4096
    assert core.reconstructor._bytes <= 32 << 20
    assert not alice.messages


# --- the wire ---


@pytest.fixture(scope="module")
def loop() -> Iterator[ReactorLoop]:
    reactor = ReactorLoop().start()
    yield reactor
    reactor.stop()


def upgraded(connection: Connection, *, more: bytes = b"", accept: bytes | None = None) -> None:
    """Answer an upgrade request as a gateway should, with *more* headers."""
    import hashlib

    key = connection.request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    good = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    connection.say(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + (good if accept is None else accept) + b"\r\n" + more + b"\r\n"
    )


def flood(connection: Connection, data: bytes, octets: int = 1 << 30, seconds: float = 2.0) -> None:
    """Send *data* for as long as the client takes it, but not for ever."""
    connection.client.settimeout(0.3)
    until, sent = time.monotonic() + seconds, 0
    while connection.open and sent < octets and time.monotonic() < until:
        connection.say(data)
        sent += len(data)


UPGRADES: dict[str, Callable[[Connection], object]] = {
    "it closes before a word": lambda one: one.close(),
    "it answers with nothing but a line without an end": lambda one: flood(one, b"x" * 65536),
    "it answers with headers without an end": lambda one: (
        one.say(b"HTTP/1.1 101 Switching Protocols\r\n"),
        flood(one, b"X-Header: something\r\n" * 2000),
    ),
    "it sends interim answers without an end": lambda one: flood(one, b"HTTP/1.1 103 Early Hints\r\n\r\n" * 2000),
    "its status line has no status": lambda one: one.say(b"HTTP/1.1\r\n\r\n"),
    "its headers are not text": lambda one: one.say(b"HTTP/1.1 101 \xff\xfe\r\n\x80\x81: \xff\r\n\r\n"),
    "it sends us elsewhere": lambda one: one.say(
        b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"
    ),
    "it refuses, with a body of a terabyte": lambda one: (
        one.say(b"HTTP/1.1 404 Not Found\r\nContent-Length: 1099511627776\r\n\r\n"),
        flood(one, bytes(65536)),
    ),
    "its Content-Length is no number": lambda one: one.say(b"HTTP/1.1 500 No\r\nContent-Length: many\r\n\r\n"),
    "it accepts another key than ours": lambda one: upgraded(one, accept=b"AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    "it accepts and is not a gateway": lambda one: (upgraded(one), one.say(garbage(4000))),
    "it announces a frame of four exabytes": lambda one: (
        upgraded(one), one.say(frame(2, b"", length=1 << 62)), flood(one, bytes(65536))
    ),
    "it continues a message that it never began": lambda one: (upgraded(one), one.say(frame(0, b"x"))),
    "it begins a message and continues it with nothing, for ever": lambda one: (
        upgraded(one), one.say(frame(2, b"", fin=False)), flood(one, frame(0, b"", fin=False) * 20_000)
    ),
    "it sends a message octet by octet, without an end": lambda one: (
        upgraded(one), one.say(frame(1, b"{", fin=False)), flood(one, frame(0, b"x", fin=False) * 20_000)
    ),
    "its text is no UTF-8": lambda one: (upgraded(one), one.say(frame(1, b"\xff\xfe\xfd"))),
    "it pings without an end": lambda one: (upgraded(one), flood(one, frame(9, b"") * 30_000)),
    "its pings are larger than pings": lambda one: (upgraded(one), one.say(frame(9, bytes(60_000)))),
    "its frames have opcodes that there are not": lambda one: (upgraded(one), one.say(frame(11, b"?"))),
    "it closes the websocket at once": lambda one: (upgraded(one), one.say(frame(8, struct.pack("!H", 1000)))),
}  # fmt: skip


@contextmanager
def heartbeat(loop: ReactorLoop) -> Iterator[list[float]]:
    """Measure the longest time for which the reactor had no turn for others."""
    gaps = [0.0]
    stop: list[bool] = []

    def beat(last: float) -> None:
        now = loop.now()
        gaps[0] = max(gaps[0], now - last)
        if not stop:
            loop.call_later(0.01, beat, now)

    loop.post(lambda: beat(loop.now()))
    yield gaps
    stop.append(True)


@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.parametrize("attack", UPGRADES.values(), ids=UPGRADES)
def test_link_fails_with_a_reason_and_the_reactor_goes_on(
    loop: ReactorLoop, attack: Callable[[Connection], object]
) -> None:
    seed = os.urandom(32)
    client = GatewayClient(seed, ed25519_public_from_seed(os.urandom(32)), urandom=os.urandom)
    lost: list[str] = []
    with Meddler(None) as meddler, recorded_contacts() as contacts, heartbeat(loop) as gaps:
        meddler.on_request = attack
        link = GatewayLink(client, on_payload=lambda payload, now: None, on_lost=lost.append)
        began = time.monotonic()
        with pytest.raises((GatewayRefusal, OSError)):
            in_greenlet(loop, lambda: link.open(GatewayEndpoint("127.0.0.1", meddler.port), timeout=2.5))
        assert time.monotonic() - began < 6.0
        assert not link.is_open
        assert lost == []
        assert len(link._fragments) <= LARGE
        assert len(link._control) <= 32
        contacts.only(("127.0.0.1", meddler.port))
    assert gaps[0] < 1.0


@pytest.mark.interop
def test_gateway_cannot_know_us_again_by_a_cookie(loop: ReactorLoop) -> None:
    import websocket._handshake

    # Somebody else's websocket, inside the tunnel, was given a cookie for the gateway's address.
    websocket._handshake.CookieJar.add("spy=inside; Domain=127.0.0.1")
    try:
        with Meddler(None) as meddler:
            meddler.on_request = lambda one: upgraded(one, more=b"Set-Cookie: spy=42; Domain=127.0.0.1\r\n")
            for _ in range(2):
                client = GatewayClient(
                    os.urandom(32), ed25519_public_from_seed(b"g" * 32), urandom=os.urandom
                )
                link = GatewayLink(client, on_payload=lambda payload, now: None, on_lost=lambda reason: None)
                endpoint = GatewayEndpoint("127.0.0.1", meddler.port)
                with pytest.raises(OSError):
                    in_greenlet(loop, lambda link=link, to=endpoint: link.open(to, timeout=0.5))
            requests = [one.request for one in meddler.connections]
            assert len(requests) == 2
            assert not any(b"cookie" in request.lower() for request in requests)
            names = {line.partition(b":")[0].lower() for line in requests[0].split(b"\r\n")[1:] if line}
            assert names == {
                b"upgrade",
                b"host",
                b"sec-websocket-key",
                b"sec-websocket-version",
                b"connection",
            }
    finally:
        websocket._handshake.CookieJar.jar.clear()


# --- a whole tunnel ---


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNet]:
    with LocalNet(set_default=False) as net:
        yield net


class Scene:
    """A tunnel through a meddler."""

    def __init__(self, net: LocalNet, meddler: Meddler, relay: RelayOfMeddler, contacts: Contacts) -> None:
        self.meddler = meddler
        self.relay = relay
        self.contacts = contacts
        self.settings: dict[str, Any] = {**net.client_settings(), "nym_api": (relay.url,)}

    def tunnel(self, **settings: Any) -> Tunnel:
        return Tunnel(**{**self.settings, **settings})

    def check_contacts(self) -> None:
        api = int(self.relay.url.split(":")[2].split("/")[0])
        self.contacts.only(("127.0.0.1", self.meddler.port), ("127.0.0.1", api))


@pytest.fixture(scope="module")
def scene(net: LocalNet) -> Iterator[Scene]:
    import urllib.request

    with urllib.request.urlopen(
        f"{net.nym_api.rstrip('/')}/v2/unstable/nym-nodes/skimmed/entry-gateways"
    ) as answer:
        nodes = json.load(answer)["nodes"]["data"]
    [port] = [n["entry"]["ws_port"] for n in nodes if n["ed25519_identity_pubkey"] == net.gateway_identity]
    with Meddler(("127.0.0.1", port)) as meddler:
        with (
            RelayOfMeddler(net.nym_api, meddler.port, net.gateway_identity) as relay,
            recorded_contacts() as contacts,
        ):
            yield Scene(net, meddler, relay, contacts)


@pytest.fixture(scope="module")
def tunnel(scene: Scene) -> Iterator[Tunnel]:
    with scene.tunnel() as tunnel:
        yield tunnel


def echo(tunnel: Tunnel, word: bytes = b"echo") -> None:
    until = time.monotonic() + 20
    while True:
        try:
            with tunnel.tcp_connect("198.51.100.10:7", timeout=20) as sock:
                sock.sendall(word)
                assert sock.recv(len(word)) == word
                return
        except OSError:
            if time.monotonic() > until:
                raise


Meddling = Callable[[Connection, bytes, int, bytes], list[bytes]]


def every(count: int, extra: Callable[[Connection], list[bytes]]) -> Meddling:
    """Add *extra* to every so many frames."""
    return lambda one, whole, opcode, payload: [whole, *(extra(one) if not one.frames % count else [])]


def swapped(one: Connection, whole: bytes, opcode: int, payload: bytes) -> list[bytes]:
    """Hold one frame back until the next one has gone."""
    kept = one.state.pop("kept", None)
    if kept is not None:
        return [whole, kept]
    if opcode == 2:
        one.state["kept"] = whole
        return []
    return [whole]


def flipped(one: Connection, whole: bytes, opcode: int, payload: bytes) -> list[bytes]:
    if opcode == 2 and not one.frames % 4:
        return [whole[:-1] + bytes([whole[-1] ^ 1])]
    return [whole]


LIVE: dict[str, Meddling] = {
    "it pushes garbage between the frames": every(2, lambda one: [frame(2, garbage(n)) for n in (0, 1, 50, 2500)]),
    "it pushes every frame three times, old ones too": every(1, lambda one: one.pushed[-3:]),
    "it changes an octet in every fourth frame": flipped,
    "it swaps frames": swapped,
    "it throws every fifth push away": lambda one, whole, opcode, payload: (
        [] if opcode == 2 and not one.frames % 5 else [whole]
    ),
    "it says for every packet that the bandwidth is used up": every(
        1, lambda one: [frame(1, wire.OutOfBandwidthReply(1, -5).encode().encode())]
    ),
    "it grants negative bandwidth": every(3, lambda one: [frame(1, wire.BandwidthReply(-(2**63)).encode().encode())]),
    "it sends errors with control characters": every(
        3, lambda one: [frame(1, wire.ErrorReply("\x1b]0;owned\x07\r\n" * 50).encode().encode())]
    ),
    "it sends texts that are no JSON": every(2, lambda one: [frame(1, b"["), frame(1, b'{"type":"x"}'), frame(1, b"")]),
    "it pings and pongs as nobody asked": every(2, lambda one: [frame(9, b"p" * 125), frame(10, b"?")] * 20),
    "it cuts every message into pieces of three octets": lambda one, whole, opcode, payload: (
        [whole] if opcode not in (1, 2) else [
            frame(opcode if at == 0 else 0, payload[at:at + 3], fin=at + 3 >= len(payload))
            for at in range(0, max(1, len(payload)), 3)
        ]
    ),
}  # fmt: skip


@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.parametrize("meddling", LIVE.values(), ids=LIVE)
def test_tunnel_carries_its_data_all_the_same(scene: Scene, tunnel: Tunnel, meddling: Meddling) -> None:
    tunnel.wait_ready(20)
    scene.meddler.on_frame = meddling
    try:
        echo(tunnel, os.urandom(700))
    finally:
        scene.meddler.on_frame = None
    scene.check_contacts()
    assert "\x1b" not in tunnel.reason


CUTS: dict[str, bytes] = {
    "it closes the connection": frame(8, struct.pack("!H", 1000)),
    "it sends a frame that is too large": frame(2, b"", length=1 << 40),
    "it sends a reserved opcode": frame(5, b""),
    "it sends text that is no UTF-8": frame(1, b"\xc3\x28"),
    "it sends octets that are no frames": b"\xff" * 500,
}


@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.parametrize("data", CUTS.values(), ids=CUTS)
def test_tunnel_comes_back_after_the_link_was_broken(scene: Scene, tunnel: Tunnel, data: bytes) -> None:
    tunnel.wait_ready(20)
    before = tunnel.stats().reconnects
    scene.meddler.say(data)
    wait_until(lambda: tunnel.stats().reconnects > before, 15)
    tunnel.wait_ready(20)
    echo(tunnel)
    scene.check_contacts()


REFUSALS: dict[str, tuple[Callable[[int], bytes | None], tuple[type[Exception], ...]]] = {
    "it refuses everybody": (
        lambda step: frame(1, wire.ErrorReply("go away").encode().encode()),
        (GatewayAuthError,),
    ),
    "it closes at the first message": (lambda step: None, (GatewayError, SetupTimeout)),
    "it closes at the second message": (
        lambda step: None if step == 2 else b"",
        (GatewayError, SetupTimeout),
    ),
    "it closes at the third message": (lambda step: None if step == 3 else b"", (GatewayError, SetupTimeout)),
    "it closes at the fourth message": (
        lambda step: None if step == 4 else b"",
        (GatewayError, SetupTimeout),
    ),
    "it falls silent at the second message": (lambda step: b"silence" if step == 2 else b"", (SetupTimeout,)),
}


@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.parametrize(("answer", "errors"), REFUSALS.values(), ids=REFUSALS)
def test_set_up_fails_as_documented(scene: Scene, answer: Any, errors: Any) -> None:
    def meddle(one: Connection, whole: bytes, opcode: int, payload: bytes) -> list[bytes]:
        said = answer(one.frames)
        if said is None:
            one.close()
            return []
        if said == b"silence" or one.state.get("silent"):
            one.state["silent"] = True
            return []
        return [said or whole]

    scene.meddler.on_frame = meddle
    began = time.monotonic()
    try:
        with pytest.raises(errors), scene.tunnel(gateway_timeout=2.0, connect_timeout=8.0) as tunnel:
            tunnel.wait_ready(8)
    finally:
        scene.meddler.on_frame = None
    assert time.monotonic() - began < 12
    scene.check_contacts()


@pytest.mark.interop
@pytest.mark.slow
def test_gateway_that_refuses_first_and_accepts_later_is_used_then(scene: Scene) -> None:
    refused: list[int] = []

    def meddle(one: Connection, whole: bytes, opcode: int, payload: bytes) -> list[bytes]:
        if len(refused) < 2 and one.frames == 1:
            refused.append(1)
            error = wire.ErrorReply(ERROR_DUPLICATE).encode()
            return [frame(1, error.encode())]
        return [whole]

    scene.meddler.on_frame = meddle
    try:
        with scene.tunnel() as tunnel:
            tunnel.wait_ready(20)
            echo(tunnel)
    finally:
        scene.meddler.on_frame = None
    assert len(refused) == 2
