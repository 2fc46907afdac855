"""TCP links between nodes: one direction each, frames without a preamble, nothing is ever answered.

Source: spec/sphinx.md sections 14 and 17.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.sphinx import FrameDecoder, MixFrame, NodeAddress, encode_frame

__all__ = ["LinkCapture", "MixListener", "MixSender"]

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


class MixListener:
    """Accepts links and hands every frame to *receive*."""

    def __init__(self, receive: Callable[[MixFrame], None], counters: Counter[str]) -> None:
        self._receive = receive
        self._counters = counters
        self._server: asyncio.Server | None = None

    async def listen(self, address: str, port: int) -> None:
        """Open the listener."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _IncomingLink(self._receive, self._counters),
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
    def __init__(self, receive: Callable[[MixFrame], None], counters: Counter[str]) -> None:
        self._receive = receive
        self._counters = counters
        self._decoder = FrameDecoder()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._counters["links_accepted"] += 1

    def data_received(self, data: bytes) -> None:
        self._counters["bytes_in"] += len(data)
        try:
            for frame in self._decoder.frames_untrusted(data):
                self._receive(frame)
        except WireError as error:
            # Only a broken frame closes the link; a packet that does not unwrap is its receiver's business.
            self._counters["broken_links"] += 1
            _log.info("closing a link: %s", error)
            assert self._transport is not None
            self._transport.abort()


class MixSender:
    """Sends packets to other nodes: one connection per address, opened by the first packet.

    Args:
        name: of this node, for captures.
        peers: names of the other nodes by ``ip:port``, for captures.
        counters: ``packets_out``, ``bytes_out`` and the losses are counted here.
        capture: where the octets sent are also written.
        frame_version: 7 or 8.
    """

    def __init__(
        self,
        name: str,
        peers: dict[str, str],
        counters: Counter[str],
        capture: LinkCapture,
        frame_version: int,
    ) -> None:
        self._name = name
        self._peers = peers
        self._counters = counters
        self._capture = capture
        self._frame_version = frame_version
        self._links: dict[NodeAddress, _OutgoingLink] = {}

    def send(self, address: NodeAddress, packet: bytes, key_rotation: int) -> None:
        """Queue *packet* for *address*; it is lost, and counted, if the link cannot take it."""
        link = self._links.get(address)
        if link is None:
            peer = self._peers.get(str(address), str(address))
            capture = f"{self._name}-to-{peer}"
            link = self._links[address] = _OutgoingLink(address, self._counters, self._capture, capture)
        link.send(encode_frame(packet, key_rotation, self._frame_version))

    def close(self) -> None:
        """Close every link."""
        for link in self._links.values():
            link.close()


class _OutgoingLink(asyncio.Protocol):
    """One connection, and the packets that wait for it."""

    def __init__(
        self, address: NodeAddress, counters: Counter[str], capture: LinkCapture, capture_name: str
    ) -> None:
        self._address = address
        self._counters = counters
        self._capture = capture
        self._capture_name = capture_name
        self._waiting: deque[bytes] = deque()
        self._transport: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._failures = 0
        self._not_before = 0.0

    def send(self, frame: bytes) -> None:
        transport = self._transport
        if transport is not None:
            if transport.get_write_buffer_size() > _MAX_UNSENT:
                self._counters["lost_queue_full"] += 1
                return
            self._write(transport, frame)
            return
        if len(self._waiting) >= _QUEUE:
            self._counters["lost_queue_full"] += 1
            return
        self._waiting.append(frame)
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def _write(self, transport: asyncio.Transport, frame: bytes) -> None:
        transport.write(frame)
        self._counters["packets_out"] += 1
        self._counters["bytes_out"] += len(frame)
        self._capture.write(self._capture_name, frame)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await asyncio.sleep(max(0.0, self._not_before - loop.time()))
            connecting = loop.create_connection(lambda: self, self._address.ip, self._address.port)
            transport, _ = await asyncio.wait_for(connecting, _CONNECT_TIMEOUT)
        except OSError as error:
            if isinstance(error, TimeoutError):
                # A refusal costs no waiting: the node may be back at once.
                self._not_before = loop.time() + min(_BACK_OFF * 2**self._failures, _MAX_BACK_OFF)
                self._failures += 1
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
            self._write(transport, self._waiting.popleft())

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None

    def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        if self._transport is not None:
            self._transport.close()
