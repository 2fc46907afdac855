"""Socket options of flows: what is stored, what the stack acts on, what is refused.

Source: spec/sockets.md section 16.
"""

from __future__ import annotations

import _socket
import errno
import select
import struct
import sys
from typing import Any

from smolmix_sync.reactor._originals import CSocket, os_error, wait_fd
from smolmix_sync.reactor.flow import BLOCK, SO_COOKIE, Flow, FlowState, find, unpack_block

__all__ = ["getsockopt", "pending_error", "setsockopt"]

_SOL = int(_socket.SOL_SOCKET)
_IP = int(_socket.IPPROTO_IP)
_IPV6 = int(_socket.IPPROTO_IPV6)
_TCP = int(_socket.IPPROTO_TCP)

# Numbers from the kernel's uapi headers where _socket has no name for them on every build.
_SO_LINGER = (_SOL, 13)
_SO_ERROR = (_SOL, 4)
_SO_SNDBUF, _SO_RCVBUF = (_SOL, 7), (_SOL, 8)
_TCP_INFO = (_TCP, 11)
_TCP_CONGESTION = (_TCP, 13)

#: What the stack has (netstack.config); a program that asks for another gets ENOENT, as where a module is missing.
_CONGESTION = ("mix", "cubic", "none")
#: Longest name. Source: TCP_CA_NAME_MAX of include/net/tcp.h.
_NAME_SIZE = 16

#: Read as 0 or 1 whatever was set. Source: net/core/sock.c, net/ipv4/tcp.c.
_BOOLEAN = frozenset((_SOL, one) for one in (1, 2, 5, 6, 9, 10, 15)) | {(_TCP, 1), (_TCP, 3)}

#: Values that are accepted, EINVAL for others. Source: MAX_TCP_* of include/net/tcp.h; do_tcp_setsockopt.
_RANGES = {
    (_TCP, 4): (1, 32767),  # TCP_KEEPIDLE
    (_TCP, 5): (1, 32767),  # TCP_KEEPINTVL
    (_TCP, 6): (1, 127),  # TCP_KEEPCNT
    (_TCP, 7): (1, 127),  # TCP_SYNCNT
    (_TCP, 18): (0, 2**31 - 1),  # TCP_USER_TIMEOUT
}
_TCP_MAXSEG = (_TCP, 2)

_REFUSED = {
    (_SOL, 25): "SO_BINDTODEVICE",
    (_SOL, 36): "SO_MARK",
    (_SOL, 62): "SO_BINDTOIFINDEX",
    (_IP, 19): "IP_TRANSPARENT",
    (_IP, 15): "IP_FREEBIND",
    (_IPV6, 75): "IPV6_TRANSPARENT",
    (_IPV6, 78): "IPV6_FREEBIND",
}
"""They choose an interface or an address of the machine: EPERM."""

#: SO_RCVTIMEO, SO_SNDTIMEO in both widths, SO_COOKIE: the pair's own work as well.
_NATIVE = {(_SOL, 20), (_SOL, 21), (_SOL, 66), (_SOL, 67), (_SOL, SO_COOKIE)}

_READ_ONLY = {(_SOL, 3), (_SOL, 39), (_SOL, 38), (_SOL, 30), _SO_ERROR}

#: Stored options and what an untouched one reads as.
_DEFAULTS: dict[tuple[int, int], int] = {
    (_SOL, 1): 0,  # SO_DEBUG
    (_SOL, 2): 0,  # SO_REUSEADDR
    (_SOL, 5): 0,  # SO_DONTROUTE
    (_SOL, 6): 0,  # SO_BROADCAST
    (_SOL, 9): 0,  # SO_KEEPALIVE
    (_SOL, 10): 0,  # SO_OOBINLINE
    (_SOL, 12): 0,  # SO_PRIORITY
    (_SOL, 15): 0,  # SO_REUSEPORT
    (_SOL, 18): 1,  # SO_RCVLOWAT
    (_TCP, 1): 0,  # TCP_NODELAY
    (_TCP, 2): 1380,  # TCP_MAXSEG
    (_TCP, 3): 0,  # TCP_CORK
    (_TCP, 4): 7200,  # TCP_KEEPIDLE
    (_TCP, 5): 75,  # TCP_KEEPINTVL
    (_TCP, 6): 9,  # TCP_KEEPCNT
    (_TCP, 7): 6,  # TCP_SYNCNT
    (_TCP, 8): 60,  # TCP_LINGER2
    (_TCP, 9): 0,  # TCP_DEFER_ACCEPT
    (_TCP, 10): 0,  # TCP_WINDOW_CLAMP
    (_TCP, 12): 1,  # TCP_QUICKACK
    (_TCP, 18): 0,  # TCP_USER_TIMEOUT
    (_TCP, 25): 0,  # TCP_NOTSENT_LOWAT
    (_IP, 1): 0,  # IP_TOS
    (_IP, 2): 64,  # IP_TTL
    (_IP, 6): 0,  # IP_RECVOPTS
    (_IP, 8): 0,  # IP_PKTINFO
    (_IP, 10): 0,  # IP_MTU_DISCOVER
    (_IP, 11): 0,  # IP_RECVERR
    (_IP, 12): 0,  # IP_RECVTTL
    (_IP, 13): 0,  # IP_RECVTOS
    (_IP, 24): 0,  # IP_BIND_ADDRESS_NO_PORT
    (_IP, 33): 1,  # IP_MULTICAST_TTL
    (_IP, 34): 1,  # IP_MULTICAST_LOOP
    (_IPV6, 16): -1,  # IPV6_UNICAST_HOPS
    (_IPV6, 17): -1,  # IPV6_MULTICAST_IF
    (_IPV6, 18): 1,  # IPV6_MULTICAST_HOPS
    (_IPV6, 19): 1,  # IPV6_MULTICAST_LOOP
    (_IPV6, 23): 0,  # IPV6_MTU_DISCOVER
    (_IPV6, 26): 0,  # IPV6_V6ONLY
    (_IPV6, 49): 0,  # IPV6_RECVPKTINFO
    (_IPV6, 51): 0,  # IPV6_RECVHOPLIMIT
    (_IPV6, 66): 0,  # IPV6_RECVTCLASS
    (_IPV6, 67): 0,  # IPV6_TCLASS
}

_TCP_STATES = {
    FlowState.NEW: 7,
    FlowState.CONNECTING: 2,
    FlowState.ESTABLISHED: 1,
    FlowState.FAILED: 7,
    FlowState.LISTEN: 10,
    FlowState.DEAD: 7,
}

_TCP_INFO_SIZE = 232


def setsockopt(self: Any, level: int, option: int, *value: Any) -> None:
    """setsockopt(level, option, value: int), (level, option, value: buffer), (level, option, None, optlen: int)."""
    flow = find(self) if CSocket.family.__get__(self) in (_socket.AF_INET, _socket.AF_INET6) else None
    if flow is None:
        CSocket.setsockopt(self, level, option, *value)
        return
    if not 1 <= len(value) <= 2:
        raise TypeError(f"setsockopt() takes 3 or 4 arguments ({2 + len(value)} given)")
    key = (int(level), int(option))
    if key in _REFUSED:
        raise os_error(errno.EPERM, f"{_REFUSED[key]} is not available in the tunnel")
    if key in _NATIVE:
        CSocket.setsockopt(self, level, option, *value)
        return
    if key in _READ_ONLY:
        raise os_error(errno.ENOPROTOOPT)
    stored = _checked(key, value[0])
    if key[0] == _TCP and not flow.stream:
        raise os_error(errno.ENOPROTOOPT)
    flow.options[key] = stored
    pump, device = flow.pump, flow.device
    if pump is not None and device is not None and not device.closed:
        device.loop.post(pump.option_changed, key)


def _checked(key: tuple[int, int], value: Any) -> int | bytes:
    """Return *value* as it is stored.

    Raises:
        OSError, OverflowError: as from the kernel and from C.
    """
    if isinstance(value, int):
        if not -(2**31) <= value < 2**31:
            raise OverflowError("signed integer is greater than maximum")
        if key == _SO_LINGER:
            raise os_error(errno.EINVAL)
        checked: int | bytes = int(value)
    elif value is None:
        checked = b""
    else:
        checked = bytes(value)
        if key == _SO_LINGER:
            if len(checked) < 8:
                raise os_error(errno.EINVAL)
            return checked[:8]
    if key == _TCP_CONGESTION:
        name = checked.rstrip(b"\0").decode("latin-1") if isinstance(checked, bytes) else ""
        if name not in _CONGESTION:
            raise os_error(errno.ENOENT)
        return name.encode()
    if key not in _DEFAULTS and key not in (_SO_SNDBUF, _SO_RCVBUF) and key[0] not in (_IP, _IPV6):
        raise os_error(errno.ENOPROTOOPT)
    if key not in _DEFAULTS:
        return checked
    if isinstance(checked, bytes):
        if len(checked) < 4:
            # A null pointer of the right length, or too few octets (one is enough for options of IP).
            if value is None or key[0] != _IP or not checked:
                raise os_error(errno.EFAULT if value is None else errno.EINVAL)
            checked = checked[:1] + bytes(3) if sys.byteorder == "little" else bytes(3) + checked[:1]
        checked = int.from_bytes(checked[:4], sys.byteorder, signed=True)
    if key in _BOOLEAN:
        return int(checked != 0)
    low, high = _RANGES.get(key, (-(2**31), 2**31))
    if not low <= checked <= high or (key == _TCP_MAXSEG and checked and not 88 <= checked <= 32767):
        raise os_error(errno.EINVAL)
    return checked


def pending_error(self: Any) -> int:
    """Take the error datagram that is next to be read from a UDP socket; return its errno, 0 if there is none."""
    if not wait_fd(
        CSocket.fileno(self), select.POLLIN, 0
    ):  # with a timeout, recv would wait whatever its flags
        return 0
    flags = int(_socket.MSG_DONTWAIT)
    try:
        head = CSocket.recv(self, BLOCK.size, flags | _socket.MSG_PEEK)
        if len(head) < BLOCK.size:
            return 0
        kind, _, number = unpack_block(head)
        if kind:
            return 0
        CSocket.recv(self, BLOCK.size, flags)
        return number
    except (OSError, ValueError):
        return 0


def getsockopt(self: Any, level: int, option: int, buflen: int = 0) -> int | bytes:
    """getsockopt(level, option[, buffersize]) -> value."""
    flow = find(self) if CSocket.family.__get__(self) in (_socket.AF_INET, _socket.AF_INET6) else None
    key = (int(level), int(option))
    if flow is None or key in _NATIVE:
        return (
            CSocket.getsockopt(self, level, option, buflen)
            if buflen
            else CSocket.getsockopt(self, level, option)
        )
    if not 0 <= buflen <= 1024:
        raise OSError("getsockopt buflen out of range")
    value = _read(self, flow, key)
    if buflen:
        return (value if isinstance(value, bytes) else struct.pack("i", value))[:buflen]
    return int.from_bytes(value[:4], sys.byteorder) if isinstance(value, bytes) else value


def _read(self: Any, flow: Flow, key: tuple[int, int]) -> int | bytes:
    if key == _SO_ERROR:
        error = flow.take_error() if flow.stream else pending_error(self)
        return error or int(CSocket.getsockopt(self, *key))
    if key == (_SOL, 3):
        return flow.type
    if key == (_SOL, 39):
        return flow.family
    if key == (_SOL, 38):
        return flow.proto
    if key == (_SOL, 30):
        return int(flow.state is FlowState.LISTEN)
    if key == _SO_LINGER:
        return flow.options.get(key, bytes(8))
    if key in (_SO_SNDBUF, _SO_RCVBUF):
        stored = flow.options.get(key)
        return 2 * stored if isinstance(stored, int) else int(CSocket.getsockopt(self, *key))
    if key == _TCP_INFO and flow.stream:
        return _tcp_info(flow)
    if key == _TCP_CONGESTION and flow.stream:
        return _congestion(flow).encode().ljust(_NAME_SIZE, b"\0")
    if key in flow.options:
        return flow.options[key]
    if key in _DEFAULTS and (key[0] != _TCP or flow.stream):
        return _DEFAULTS[key]
    known = key[0] in (_SOL, _IP, _IPV6) or (key[0] == _TCP and flow.stream)
    raise os_error(errno.ENOPROTOOPT if known else errno.EOPNOTSUPP)


def _congestion(flow: Flow) -> str:
    """Return the name of the congestion control that *flow* has, or would have if it connected now."""
    stored = flow.options.get(_TCP_CONGESTION)
    if isinstance(stored, bytes):
        return stored.decode()
    stack = flow.device.stack if flow.device is not None else None
    return _CONGESTION[0] if stack is None else stack.config.congestion


def _tcp_info(flow: Flow) -> bytes:
    """Return struct tcp_info: the state and the figures the stack has; the rest is zero."""
    counters: dict[str, Any] = {}
    pump, device = flow.pump, flow.device
    read = getattr(pump, "info", None)
    if read is not None and device is not None and not device.closed:
        counters = device.loop.call(read)
    info = bytearray(_TCP_INFO_SIZE)
    info[0] = int(counters.get("state", 0)) or _TCP_STATES[flow.state]

    def put(offset: int, value: Any, scale: float = 1.0) -> None:
        if isinstance(value, (int, float)) and 0 <= value < float("inf"):
            struct.pack_into("I", info, offset, min(int(value * scale), 0xFFFFFFFF))

    mss = counters.get("snd_mss", 0)
    # Offsets of struct tcp_info, include/uapi/linux/tcp.h; times in microseconds, windows in segments.
    put(8, counters.get("rto", 0), 1e6)
    put(16, mss)
    put(20, counters.get("advmss", 0))
    put(60, counters.get("pmtu", 0))
    put(68, counters.get("srtt", 0) or 0, 1e6)
    put(72, counters.get("rttvar", 0) or 0, 1e6)
    if mss:
        put(24, counters.get("unacked", 0) / mss)
        put(76, counters.get("ssthresh", 0) / mss)
        put(80, counters.get("cwnd", 0) / mss)
    put(84, counters.get("advmss", 0))
    put(96, counters.get("rcv_space", 0))
    put(100, counters.get("retransmissions", 0))
    return bytes(info)
