"""An exit that means harm: by hand against the cores, and as a client of the mixnet that a tunnel takes for an exit."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import dns.flags
import dns.message
import dns.rrset

from smolmix_sync import MixnetClient
from smolmix_sync.ipr import IprClient
from smolmix_sync.ipr.codec import bundle
from smolmix_sync.ipr.events import PacketsReceived
from smolmix_sync.ipr.lp import StreamFrame, StreamMessageType
from smolmix_sync.ipr.requests import ConnectRequest, decode_request_untrusted
from smolmix_sync.ipr.responses import ConnectResponse, ConnectSuccess, DataResponse
from smolmix_sync.ipr.router import IpPacketRouter, PacketAccepted, RouterConfig, SendReply
from smolmix_sync.ipr.values import IpPair
from smolmix_sync.netstack import Conn, Datagram, Incoming, Stack, StackConfig
from smolmix_sync.netstack.segment import SegmentWriter

__all__ = ["OURS", "OURS6", "PEER", "HostileExit", "Inside", "address"]

OURS, OURS6 = "10.0.7.7", "fc00::707"
PEER = "203.0.113.5"


def address(text: str) -> bytes:
    """Return an address packed."""
    return IpPair(text, "::1").encode()[:4] if "." in text else IpPair("1.1.1.1", text).encode()[4:]


class Inside:
    """A client's session and stack, an honest peer on the internet, and the exit between them: the test."""

    def __init__(self, version: int = 10, **config: Any) -> None:
        self.now = 50.0
        self.version = version
        self.urandom = random.Random(version).randbytes
        self.client = IprClient(version, urandom=self.urandom)
        self.stack = Stack(OURS, OURS6, urandom=self.urandom, loopback=True, config=StackConfig(**config))
        self.peer = Stack(PEER, None, urandom=self.urandom)
        self.listener = self.peer.listen(None, 80)
        self.sequence = 0
        self.events: list[Any] = []
        self.out: list[bytes] = []
        self.request: ConnectRequest | None = None
        self.client.connect(self.now, 1.7e9)
        for message in self.client.data_to_send(self.now):
            if version >= 9:
                one = StreamFrame.decode_untrusted(message)
                if one.msg_type is not StreamMessageType.DATA:
                    continue
                message = one.payload
            asked = decode_request_untrusted(message)
            assert isinstance(asked, ConnectRequest)
            self.request = asked

    def connect(self, ips: IpPair | None = None, mtu: int = 1420) -> Inside:
        """Answer the connect request."""
        self.answer(ConnectResponse(self.version, self.request_id, self.success(ips, mtu)))
        return self

    @property
    def request_id(self) -> int:
        assert self.request is not None
        return self.request.request_id

    def success(self, ips: IpPair | None = None, mtu: int = 1420) -> ConnectSuccess:
        return ConnectSuccess(ips or IpPair(OURS, OURS6), mtu if self.version >= 10 else None)

    def answer(self, response: Any, sequence: int = 0) -> None:
        """Send a response in a frame of the stream."""
        self.raw(self.frame(response.encode(), sequence))

    def frame(
        self, payload: bytes, sequence: int = 0, kind: StreamMessageType = StreamMessageType.DATA
    ) -> bytes:
        if self.version < 9:
            return payload
        return StreamFrame(self.client.stream_id, kind, sequence, payload).encode()

    def raw(self, message: bytes) -> None:
        """Send octets."""
        self.client.receive_data(message, self.now)
        self.take()

    def take(self) -> None:
        """Do what the bridge does with events."""
        while (event := self.client.next_event()) is not None:
            if isinstance(event, PacketsReceived):
                for packet in event.packets:
                    self.stack.receive_data(packet, self.now)
            else:
                self.events.append(event)

    def data(self, packets: list[bytes], sequence: int | None = None) -> None:
        """Send IP packets."""
        if sequence is None:
            self.sequence += 1
            sequence = self.sequence
        self.answer(DataResponse(self.version, bundle(packets)), sequence)

    def advance(self, seconds: float) -> None:
        """Let time pass; what the stack sends reaches the peer, and back."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 0.02)
            self.client.handle_deadline(self.now)
            self.take()
            self.stack.handle_deadline(self.now)
            for packet in self.stack.data_to_send(self.now):
                self.out.append(packet)
                self.peer.receive_data(packet, self.now)
            self.peer.handle_deadline(self.now)
            packets = self.peer.data_to_send(self.now)
            if packets:
                self.data(packets)

    def open(self) -> tuple[Conn, Conn]:
        """Connect to the honest peer; return both ends."""
        ours = self.stack.connect(PEER, 80, self.now)
        self.advance(0.5)
        theirs = self.listener.accept()
        assert theirs is not None
        return ours, theirs

    def forged(self, conn: Conn, seq: int, ack: int, flags: int, payload: bytes = b"") -> bytes:
        """Return a segment that looks as if it came from the peer of *conn*."""
        port = int.from_bytes(conn.key[8:10], "big")
        writer = SegmentWriter(address(PEER), port, address(OURS), conn.local[1])
        return writer.plain(seq % 2**32, ack % 2**32, flags, 65535, payload)

    def numbers(self, conn: Conn) -> tuple[int, int]:
        """Return (next sequence number expected, next acknowledgement expected) of *conn*, as an exit sees them."""
        return conn.rcv.irs + conn.rcv.rcv_nxt, conn.snd.iss + conn.snd.snd_nxt

    def carries(self, ours: Conn, theirs: Conn) -> bool:
        """Tell whether data still goes both ways."""
        ours.send(b"up" * 500)
        theirs.send(b"down" * 500)
        self.advance(5.0)
        return theirs.recv(10_000) == b"up" * 500 and ours.recv(10_000) == b"down" * 500


class HostileExit:
    """An exit of a localnet that is one of our own clients: an honest router, and whatever an attack adds.

    Attributes:
        address: its Nym address, for ``ipr_address``.
        twist: called with every message before it is sent; returns the messages to send instead.
        connects: connect requests seen.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.client = MixnetClient(**settings)
        self.client.connect(30)
        self.address = str(self.client.nym_address)
        self.twist: Callable[[bytes], list[bytes]] = lambda message: [message]
        self.silent = False
        self.streams: set[int] = set()
        self.tag: bytes | None = None
        self.heard: list[bytes] = []
        self.router = IpPacketRouter(
            urandom=random.Random(9).randbytes, config=RouterConfig(bundle_timeout=0.005)
        )
        self.stack = Stack(None, None, urandom=random.Random(8).randbytes, any_address=True)
        self.errors: list[BaseException] = []
        self._jobs: list[Callable[[], object]] = []
        self._stop = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> HostileExit:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._thread.join(10)
        self.client.disconnect(1)

    def send(self, *messages: bytes) -> None:
        """Send messages to the client that connected last."""
        self._jobs.append(lambda: [self._reply(message) for message in messages])

    def frame(
        self, payload: bytes, sequence: int = 0, kind: StreamMessageType = StreamMessageType.DATA
    ) -> bytes:
        """Wrap a payload for the stream of that client."""
        return StreamFrame(max(self.streams), kind, sequence, payload).encode()

    def _reply(self, message: bytes) -> None:
        if self.tag is not None:
            try:
                self.client.send_reply(self.tag, message)
            except OSError:
                pass  # no SURB left: an exit that is hostile has no more of them than another

    def _run(self) -> None:
        while not self._stop:
            try:
                self._turn()
            except BaseException as error:
                self.errors.append(error)

    def _turn(self) -> None:
        now = self.client._loop.now()
        try:
            message = self.client.receive(0.01)
            if message.sender_tag is not None:
                self.tag = message.sender_tag
                self.heard.append(message.data)
                if len(message.data) >= 16:
                    self.streams = {int.from_bytes(message.data[2:10], "big")}
                if not self.silent:
                    self.router.receive_data(message.data, message.sender_tag, now)
        except TimeoutError:
            pass
        while self._jobs:
            self._jobs.pop(0)()
        self.router.handle_deadline(now)
        self._network(now)
        while (event := self.router.next_event()) is not None:
            if isinstance(event, SendReply):
                for one in self.twist(event.message):
                    self._reply(one)
            elif isinstance(event, PacketAccepted):
                self.stack.receive_data(event.packet, now)
                self._network(now)

    def _network(self, now: float) -> None:
        """The internet behind: every TCP port echoes, port 53 answers every name."""
        self.stack.handle_deadline(now)
        for thing, _ in self.stack.events():
            if isinstance(thing, Incoming):
                thing.accept()
            elif isinstance(thing, Datagram):
                self._datagram(thing)
            elif isinstance(thing, Conn):
                data = thing.recv(1 << 20)
                if data:
                    thing.send(data)
                elif thing.eof():
                    thing.close()
        for packet in self.stack.data_to_send(now):
            self.router.packet_from_network(packet, now)

    def _datagram(self, thing: Datagram) -> None:
        if thing.dst[1] != 53:
            return
        answer = dns.message.make_response(dns.message.from_wire(thing.payload))
        name = answer.question[0].name
        if answer.question[0].rdtype == 1:
            answer.answer.append(dns.rrset.from_text(name, 60, "IN", "A", "198.51.100.10"))
        self.stack.send_udp(thing.dst, thing.src, answer.to_wire())
