"""TCP links between nodes: frames go one way, without a preamble, and no frame is ever answered.

Between nodes that announce a Noise key the frames run inside Noise, otherwise in the clear. Nothing is
negotiated: both ends know it from the directory, see `NoisePeers`.

Source: spec/sphinx.md sections 14, 17 and 18.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.noise import HANDSHAKE_TIMEOUT, NoiseLink, NoiseState
from smolmix_sync.mixnet.sphinx import FrameDecoder, MixFrame, NodeAddress, encode_frame

__all__ = ["LinkCapture", "MixListener", "MixSender", "NoisePeers"]

_log = logging.getLogger("smolmix_sync.localnet")

# From the specification.
_CONNECT_TIMEOUT = 1.5
_QUEUE = 2000
_BACK_OFF = 10.0
_MAX_BACK_OFF = 300.0
# Ours: octets that may wait in one link's write buffer, about as many packets as the queue.
_MAX_UNSENT = _QUEUE * 2417


class LinkCapture:
    """Writes the octets of links into files, one per link and direction, named ``<from>-to-<to>.bin``.

    The sender of a link writes it; a gateway writes both directions of its websockets,
    after TLS. Without a directory nothing happens.
    """

    def __init__(self, directory: str | None) -> None:
        self._directory = Path(directory) if directory else None
        self._files: dict[str, IO[bytes]] = {}

    def write(self, link: str, data: bytes) -> None:
        """Append *data* to the file of *link*."""
        if self._directory is None:
            return
        file = self._files.get(link)
        if file is None:
            file = self._files[link] = (self._directory / f"{link}.bin").open("ab", buffering=0)
        file.write(data)

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files.clear()


class NoisePeers:
    """Who speaks Noise, as the directory announces it, and this node's own key.

    The node that connects looks its peer's address and port up. The node that accepts sees only the
    source address, and so insists on Noise from every address at which any node announces it: two nodes
    behind one address must both speak it, or neither.

    Args:
        private: this node's key; None if it neither announces nor speaks Noise.
        keys: public keys by the mix listeners that they belong to.

    Source: spec/sphinx.md section 18.1; common/nymnoise/src/config.rs.
    """

    def __init__(self, private: bytes | None = None, keys: Mapping[NodeAddress, bytes] | None = None) -> None:
        self.private = private
        self._keys: dict[NodeAddress, bytes] = {}
        self._ips: frozenset[str] = frozenset()
        self.learn(keys or {})

    def learn(self, keys: Mapping[NodeAddress, bytes]) -> None:
        """Take the directory's keys in place of those before; open links stay as they are."""
        self._keys = dict(keys)
        self._ips = frozenset(address.ip for address in keys)

    def key_of(self, address: NodeAddress) -> bytes | None:
        """Return the key of the node that listens at *address*; None if the link to it is plain."""
        return self._keys.get(address) if self.private is not None else None

    def expects_noise(self, ip: str) -> bool:
        """Tell whether a link from *ip* has to begin with a handshake."""
        if self.private is None:
            return False
        source = ipaddress.ip_address(ip.partition("%")[0])
        mapped = source.ipv4_mapped if isinstance(source, ipaddress.IPv6Address) else None
        return not self._ips.isdisjoint((str(source), str(mapped or source)))


class MixListener:
    """Accepts links and hands every frame to *receive*."""

    def __init__(
        self, receive: Callable[[MixFrame], None], counters: Counter[str], noise: NoisePeers
    ) -> None:
        self._receive = receive
        self._counters = counters
        self._noise = noise
        self._server: asyncio.Server | None = None

    async def listen(self, address: str, port: int) -> None:
        """Open the listener."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _IncomingLink(self._receive, self._counters, self._noise),
            address,
            port,
            reuse_address=True,
            backlog=256,
        )

    def close(self) -> None:
        """Close the listener."""
        if self._server is not None:
            self._server.close()


class _IncomingLink(asyncio.Protocol):
    def __init__(
        self, receive: Callable[[MixFrame], None], counters: Counter[str], peers: NoisePeers
    ) -> None:
        self._receive = receive
        self._counters = counters
        self._peers = peers
        self._decoder = FrameDecoder()
        self._transport: asyncio.Transport | None = None
        self._noise: NoiseLink | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._counters["links_accepted"] += 1
        peer = transport.get_extra_info("peername")
        if peer is not None and self._peers.expects_noise(peer[0]):
            assert self._peers.private is not None
            loop = asyncio.get_running_loop()
            self._noise = NoiseLink.responder(self._peers.private, urandom=os.urandom, now=loop.time())
            self._timer = loop.call_later(HANDSHAKE_TIMEOUT, self._refuse, "no handshake in time")

    def data_received(self, data: bytes) -> None:
        self._counters["bytes_in"] += len(data)
        if self._noise is None:
            self._take_frames(data)
        else:
            self._take_noise(self._noise, data)

    def _take_noise(self, noise: NoiseLink, data: bytes) -> None:
        assert self._transport is not None
        noise.receive_data(data)
        try:
            while (plaintext := noise.next_data_untrusted()) is not None:
                if not plaintext:  # a real node takes it for the end of the stream
                    self._transport.close()
                self._take_frames(plaintext)
                if self._transport.is_closing():
                    return
        except WireError as error:
            if self._timer is not None:
                self._refuse(str(error))
            else:
                self._break(error)
            return
        for answer in noise.data_to_send():
            self._counters["bytes_out"] += len(answer)
            self._transport.write(answer)
        if self._timer is not None and noise.state is NoiseState.OPEN:
            self._counters["noise_links_in"] += 1
            self._timer.cancel()
            self._timer = None

    def _take_frames(self, data: bytes) -> None:
        try:
            for frame in self._decoder.frames_untrusted(data):
                self._receive(frame)
        except WireError as error:
            self._break(error)

    def _break(self, error: WireError) -> None:
        # Only a broken frame closes the link; a packet that does not unwrap is its receiver's business.
        self._counters["broken_links"] += 1
        _log.info("closing a link: %s", error)
        assert self._transport is not None
        self._transport.abort()

    def _refuse(self, reason: str) -> None:
        """Close a link that did not begin with the handshake of a node that knows this one's key."""
        assert self._timer is not None
        assert self._transport is not None
        self._timer.cancel()
        self._timer = None
        self._counters["noise_refused"] += 1
        _log.info("refusing a link: %s", reason)
        self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._refuse("closed during the handshake")


class MixSender:
    """Sends packets to other nodes: one connection per address, opened by the first packet.

    Args:
        name: of this node, for captures.
        address: the IP address that links come from, by which the other end knows this node.
        peers: names of the other nodes by ``ip:port``, for captures.
        counters: ``packets_out``, ``bytes_out`` and the losses are counted here.
        capture: where the octets sent are also written, as they are on the wire.
        frame_version: 7 or 8.
        noise: which links run inside Noise.
    """

    def __init__(
        self,
        name: str,
        address: str,
        peers: dict[str, str],
        counters: Counter[str],
        capture: LinkCapture,
        frame_version: int,
        noise: NoisePeers,
    ) -> None:
        self._name = name
        self._source = address
        self._peers = peers
        self._counters = counters
        self._capture = capture
        self._frame_version = frame_version
        self._noise = noise
        self._links: dict[NodeAddress, _OutgoingLink] = {}

    def send(self, address: NodeAddress, packet: bytes, key_rotation: int) -> None:
        """Queue *packet* for *address*; it is lost, and counted, if the link cannot take it."""
        link = self._links.get(address)
        if link is None:
            peer = self._peers.get(str(address), str(address))
            link = self._links[address] = _OutgoingLink(
                address, self._source, self._counters, self._capture, f"{self._name}-to-{peer}", self._noise
            )
        link.send(encode_frame(packet, key_rotation, self._frame_version))

    def close(self) -> None:
        """Close every link."""
        for link in self._links.values():
            link.close()


class _Handshake:
    """An initiator's handshake under way; *done* is resolved when the link is open or will not be."""

    def __init__(self, noise: NoiseLink, done: asyncio.Future[None]) -> None:
        self._noise = noise
        self.done = done

    def receive_data(self, data: bytes) -> None:
        if self.done.done():
            return
        self._noise.receive_data(data)
        try:
            self._noise.next_data_untrusted()
        except WireError as error:
            self.fail(error)
            return
        if self._noise.state is NoiseState.OPEN:
            self.done.set_result(None)

    def fail(self, error: WireError) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class _OutgoingLink(asyncio.Protocol):
    """One connection, and the packets that wait for it."""

    def __init__(
        self,
        address: NodeAddress,
        source: str,
        counters: Counter[str],
        capture: LinkCapture,
        capture_name: str,
        peers: NoisePeers,
    ) -> None:
        self._address = address
        self._source = source
        self._counters = counters
        self._capture = capture
        self._capture_name = capture_name
        self._peers = peers
        self._waiting: deque[bytes] = deque()
        self._transport: asyncio.Transport | None = None
        self._noise: NoiseLink | None = None
        self._handshake: _Handshake | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._failures = 0
        self._not_before = 0.0

    def send(self, frame: bytes) -> None:
        transport = self._transport
        if transport is not None:
            if transport.get_write_buffer_size() > _MAX_UNSENT:
                self._counters["lost_queue_full"] += 1
                return
            self._write_frame(transport, frame)
            return
        if len(self._waiting) >= _QUEUE:
            self._counters["lost_queue_full"] += 1
            return
        self._waiting.append(frame)
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def _write_frame(self, transport: asyncio.Transport, frame: bytes) -> None:
        self._counters["packets_out"] += 1
        if self._noise is None:
            self._write(transport, frame)
        else:
            self._noise.send(frame)
            self._write_noise(transport, self._noise)

    def _write_noise(self, transport: asyncio.Transport, noise: NoiseLink) -> None:
        for data in noise.data_to_send():
            self._write(transport, data)

    def _write(self, transport: asyncio.Transport, data: bytes) -> None:
        transport.write(data)
        self._counters["bytes_out"] += len(data)
        self._capture.write(self._capture_name, data)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await asyncio.sleep(max(0.0, self._not_before - loop.time()))
            same_family = (":" in self._address.ip) == (":" in self._source)
            connecting = loop.create_connection(
                lambda: self,
                self._address.ip,
                self._address.port,
                # The other end tells by the source whether to expect Noise.
                local_addr=(self._source, 0) if same_family else None,
            )
            transport, _ = await asyncio.wait_for(connecting, _CONNECT_TIMEOUT)
            key = self._peers.key_of(self._address)
            if key is not None:
                await self._shake_hands(transport, key)
            if transport.is_closing():
                raise ConnectionResetError("closed at once")
        except (OSError, ValueError, WireError) as error:
            if not isinstance(error, OSError) or isinstance(error, TimeoutError):
                # A refusal costs no waiting: the node may be back at once. One that cannot be
                # reached, or does not know its own key, is not asked again so soon.
                self._failures += 1
                self._not_before = loop.time() + min(_BACK_OFF * 2**self._failures, _MAX_BACK_OFF)
            self._counters["lost_no_link"] += len(self._waiting)
            self._waiting.clear()
            _log.info("no link to %s: %s", self._address, error)
            return
        finally:
            self._connecting = None
        self._failures = 0
        # The queue is written out before anything sent later.
        self._transport = transport
        while self._waiting:
            self._write_frame(transport, self._waiting.popleft())

    async def _shake_hands(self, transport: asyncio.Transport, key: bytes) -> None:
        """Open Noise on a new connection.

        Raises:
            WireError: the other end does not speak it, or holds another key.
            ValueError: *key* is none.
        """
        assert self._peers.private is not None
        loop = asyncio.get_running_loop()
        try:
            noise = NoiseLink.initiator(self._peers.private, key, urandom=os.urandom, now=loop.time())
            self._handshake = _Handshake(noise, loop.create_future())
            self._write_noise(transport, noise)
            await asyncio.wait_for(self._handshake.done, HANDSHAKE_TIMEOUT)
            self._write_noise(transport, noise)
        except BaseException as error:
            transport.abort()
            if not isinstance(error, TimeoutError | ValueError | WireError):
                raise
            self._counters["noise_failed"] += 1
            raise WireError(f"noise: {str(error) or 'no answer in time'}") from error
        finally:
            self._handshake = None
        self._noise = noise
        self._counters["noise_links_out"] += 1

    def data_received(self, data: bytes) -> None:
        # After the handshake nothing is expected, and what comes is not looked at.
        if self._handshake is not None:
            self._handshake.receive_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._handshake is not None:
            self._handshake.fail(WireError("closed by the other end"))
        self._transport = self._noise = None

    def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        if self._transport is not None:
            self._transport.close()
