"""Socket options that the stack acts on.

Source: spec/sockets.md section 16; spec/netstack.md section 3.4.
"""

from __future__ import annotations

import _socket
import struct
from collections.abc import Callable, Mapping

from smolmix_sync.netstack import TcpSettings

__all__ = ["SO_LINGER", "apply_option", "apply_options"]

_SOL = int(_socket.SOL_SOCKET)
_TCP = int(_socket.IPPROTO_TCP)
SO_LINGER = (_SOL, int(_socket.SO_LINGER))
# include/uapi/linux/tcp.h; _socket lacks the name before 3.13 on some builds.
_TCP_USER_TIMEOUT = 18
_TCP_CONGESTION = 13

#: What a TCP buffer may be set to, in octets: below, a segment would not fit; above, tcp_mem's scale.
_BUFFER_MIN, _BUFFER_MAX = 4096, 64 << 20


def _buffer(value: int) -> int:
    # The kernel doubles what it is given; so does getsockopt here.
    return max(_BUFFER_MIN, min(2 * value, _BUFFER_MAX))


def _linger(settings: TcpSettings, value: int | bytes) -> None:
    if isinstance(value, bytes) and len(value) == 8:
        on, seconds = struct.unpack("ii", value)
        settings.linger_reset = bool(on) and seconds == 0


def _rcvbuf(settings: TcpSettings, value: int) -> None:
    settings.rcvbuf = settings.rcvbuf_max = _buffer(value)


_INTEGER: Mapping[tuple[int, int], Callable[[TcpSettings, int], None]] = {
    (_TCP, int(_socket.TCP_NODELAY)): lambda s, v: setattr(s, "nodelay", bool(v)),
    (_TCP, int(_socket.TCP_CORK)): lambda s, v: setattr(s, "cork", bool(v)),
    (_TCP, int(_socket.TCP_QUICKACK)): lambda s, v: setattr(s, "quickack", bool(v)),
    (_TCP, int(_socket.TCP_KEEPIDLE)): lambda s, v: setattr(s, "keep_idle", float(v)),
    (_TCP, int(_socket.TCP_KEEPINTVL)): lambda s, v: setattr(s, "keep_interval", float(v)),
    (_TCP, int(_socket.TCP_KEEPCNT)): lambda s, v: setattr(s, "keep_count", v),
    (_TCP, int(_socket.TCP_SYNCNT)): lambda s, v: setattr(s, "syn_retries", v),
    (_TCP, int(_socket.TCP_MAXSEG)): lambda s, v: setattr(s, "max_segment", v or None),
    (_TCP, _TCP_USER_TIMEOUT): lambda s, v: setattr(s, "user_timeout", v / 1000 if v else 120.0),
    (_SOL, int(_socket.SO_KEEPALIVE)): lambda s, v: setattr(s, "keepalive", bool(v)),
    (_SOL, int(_socket.SO_SNDBUF)): lambda s, v: setattr(s, "sndbuf", _buffer(v)),
    (_SOL, int(_socket.SO_RCVBUF)): _rcvbuf,
}


def _congestion(settings: TcpSettings, value: int | bytes) -> None:
    if isinstance(value, bytes):
        settings.congestion = value.decode()


_OTHERS: Mapping[tuple[int, int], Callable[[TcpSettings, int | bytes], None]] = {
    SO_LINGER: _linger,
    (_TCP, _TCP_CONGESTION): _congestion,
}


def apply_option(settings: TcpSettings, key: tuple[int, int], value: int | bytes) -> bool:
    """Change *settings* by one option; tell whether the stack knows it."""
    other = _OTHERS.get(key)
    if other is not None:
        other(settings, value)
        return True
    change = _INTEGER.get(key)
    if change is None:
        return False
    change(settings, value if isinstance(value, int) else int.from_bytes(value[:4], "little"))
    return True


def apply_options(settings: TcpSettings, options: Mapping[tuple[int, int], int | bytes]) -> TcpSettings:
    """Change *settings* by every stored option and return it."""
    for key, value in options.items():
        apply_option(settings, key, value)
    return settings
