"""A tunnel of the four cores and one websocket, driven by hand in one thread: nothing of the reactor."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import websocket

from smolmix_sync.address import Recipient
from smolmix_sync.ipr import IprClient
from smolmix_sync.ipr.events import Connected, ConnectRefused, ConnectTimedOut, PacketsReceived
from smolmix_sync.mixnet.client import ClientKeys, MessageReceived, MixnetCore
from smolmix_sync.mixnet.gateway import Authenticated, BandwidthChanged, GatewayClient, GatewayRefused, Pushed
from smolmix_sync.mixnet.settings import TrafficSettings
from smolmix_sync.mixnet.topology import Topology
from smolmix_sync.mixnet.topology.network_json import decode_network_untrusted
from smolmix_sync.netstack import Stack, StackConfig
from smolmix_sync.netstack.connection import Conn

__all__ = ["RawTunnel"]


class RawTunnel:
    """A client that sends as fast as it can, without cover: for tests of the network, not of clients.

    Args:
        network_json: the topology.
        gateway: the entry gateway's identity.
        exit_address: the exit's Nym address.
        version: of the IPR protocol.
    """

    def __init__(
        self,
        network_json: Path,
        gateway: bytes,
        exit_address: Recipient,
        *,
        version: int = 10,
        mtu: int = 1420,
    ) -> None:
        self.topology: Topology = decode_network_untrusted(network_json.read_bytes())
        keys = ClientKeys.generate(os.urandom)
        self.core = MixnetCore(keys, gateway, config=TrafficSettings(), urandom=os.urandom)
        self.core.set_topology(self.topology, time.monotonic())
        self.ipr = IprClient(version, urandom=os.urandom)
        self.exit_address = exit_address
        self.stack: Stack | None = None
        self.ipr_events: list[Any] = []
        self._mtu = mtu
        self._bandwidth = False
        node = self.topology.gateway(gateway)
        assert node is not None
        assert node.entry is not None
        self._session = GatewayClient(keys.identity_seed, gateway, urandom=os.urandom)
        url = f"ws://{node.entry.ip_addresses[0]}:{node.entry.clients_ws_port}/"
        self._websocket = websocket.create_connection(url, timeout=10)
        self._session.start(time.monotonic(), time.time())

    def __enter__(self) -> RawTunnel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._websocket.close()

    def run(self, until: Callable[[], object], timeout: float = 10.0) -> None:
        """Move everything until *until* is true.

        Raises:
            TimeoutError: it was not true in time.
        """
        deadline = time.monotonic() + timeout
        while not until():
            now = time.monotonic()
            if now > deadline:
                raise TimeoutError("the condition did not come true")
            self._step(now)
            if select.select([self._websocket.sock], [], [], 0.002)[0]:
                opcode, data = self._websocket.recv_data()
                text = opcode == websocket.ABNF.OPCODE_TEXT
                self._session.receive_data(data.decode() if text else data, time.monotonic())

    def connect(self, timeout: float = 10.0) -> Connected:
        """Register at the gateway, connect to the exit and set the stack up."""
        self.run(lambda: self._bandwidth, timeout)
        self.ipr.connect(time.monotonic(), time.time())
        self.run(lambda: self.ipr_events, timeout)
        event = self.ipr_events.pop(0)
        assert isinstance(event, Connected), event
        config = StackConfig(rx_mtu=event.mtu or self._mtu, tx_mtu=event.mtu or self._mtu)
        self.stack = Stack(event.ips.ipv4, event.ips.ipv6, config=config, urandom=os.urandom)
        return event

    def tcp(self, host: str, port: int, timeout: float = 10.0) -> Conn:
        """Open a connection; it is established when this returns.

        Raises:
            OSError: with the errno of the refusal.
        """
        assert self.stack is not None
        conn = self.stack.connect(host, port, time.monotonic())
        self.run(lambda: conn.error or conn.state.name == "ESTABLISHED", timeout)
        if conn.error:
            raise OSError(conn.error, os.strerror(conn.error))
        return conn

    def exchange(self, conn: Conn, request: bytes, timeout: float = 30.0) -> bytes:
        """Send *request* and return everything up to the peer's FIN."""
        left = memoryview(request)
        answer = bytearray()

        def done() -> bool:
            nonlocal left
            if left and not conn.error:
                left = left[conn.send(left) :]
            answer.extend(conn.recv(1 << 20))
            return conn.eof() or bool(conn.error)

        self.run(done, timeout)
        if conn.error:
            raise OSError(conn.error, os.strerror(conn.error))
        return bytes(answer)

    def _step(self, now: float) -> None:
        session, core, ipr, stack = self._session, self.core, self.ipr, self.stack
        for machine in (session, core, ipr, stack):
            if machine is not None:
                deadline = machine.next_deadline()
                if deadline is not None and deadline <= now:
                    machine.handle_deadline(now)
        while (event := session.next_event()) is not None:
            match event:
                case Pushed(payload):
                    core.receive_data(payload, now)
                case Authenticated():
                    session.claim_bandwidth(now)
                case BandwidthChanged():
                    self._bandwidth = True
                case GatewayRefused(reason):
                    raise ConnectionError(reason)
                case _:
                    pass
        while (received := core.next_event()) is not None:
            if isinstance(received, MessageReceived):
                ipr.receive_data(received.message, now)
        while (answer := ipr.next_event()) is not None:
            if isinstance(answer, PacketsReceived) and stack is not None:
                for packet in answer.packets:
                    stack.receive_data(packet, now)
            elif not isinstance(answer, PacketsReceived):
                self.ipr_events.append(answer)
                if isinstance(answer, ConnectRefused | ConnectTimedOut):
                    raise ConnectionError(str(answer))
        for message in ipr.data_to_send(now):
            core.send(self.exit_address, message, now, surbs=10)
        if stack is not None:
            for packet in stack.data_to_send(now):
                wanted = core.surbs_outstanding(self.exit_address, now) < 150
                core.send(self.exit_address, ipr.encode_data([packet], now), now, surbs=3 if wanted else 0)
            for _ in stack.events():
                pass
        while self._bandwidth and (mix_packet := core.next_packet(now)) is not None:
            if not session.forward(mix_packet, now):
                break
            self._write(now)
        self._write(now)

    def _write(self, now: float) -> None:
        for message in self._session.data_to_send(now):
            if isinstance(message, str):
                self._websocket.send(message)
            else:
                self._websocket.send_binary(message)
