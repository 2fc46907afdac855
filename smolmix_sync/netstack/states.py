"""The states of a TCP connection. Source: RFC 9293 section 3.3.2; numbers as in Linux's TCP_INFO."""

from __future__ import annotations

import enum

__all__ = ["State"]


class State(enum.Enum):
    """State of a connection; the value is the one ``tcpi_state`` uses."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RCVD = 3
    FIN_WAIT_1 = 4
    FIN_WAIT_2 = 5
    TIME_WAIT = 6
    CLOSED = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11
