"""A general userspace TCP/IP stack, sans-IO: IP packets below, byte streams and datagrams above.

The owner pushes packets in with ``Stack.receive_data(packet, now)``, pulls packets
out with ``Stack.data_to_send(now, room)``, calls ``handle_deadline(now)`` when
``next_deadline()`` has come, and reads news from ``Stack.events()``. Nothing here
knows a clock, a thread or a mixnet.

Source: spec/netstack.md; conventions.md section 3.
"""

from __future__ import annotations

from smolmix_sync.netstack.config import StackConfig, TcpSettings
from smolmix_sync.netstack.connection import Conn
from smolmix_sync.netstack.events import CLOSED, CONNECTED, ERROR, HUP, INCOMING, READABLE, WRITABLE
from smolmix_sync.netstack.listener import Incoming, Listener, Refusal
from smolmix_sync.netstack.ping import EchoReply, Ping
from smolmix_sync.netstack.stack import Stack
from smolmix_sync.netstack.states import State
from smolmix_sync.netstack.udp import Datagram, Udp

__all__ = [
    "CLOSED",
    "CONNECTED",
    "ERROR",
    "HUP",
    "INCOMING",
    "READABLE",
    "WRITABLE",
    "Conn",
    "Datagram",
    "EchoReply",
    "Incoming",
    "Listener",
    "Ping",
    "Refusal",
    "Stack",
    "StackConfig",
    "State",
    "TcpSettings",
    "Udp",
]
