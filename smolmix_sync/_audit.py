"""Layer 2 of failing closed: an audit hook refuses the kernel sockets and names that Python code makes past the patch.

It sees what the patched classes cannot: the C type captured before the patch (``from _socket import socket``), captured
resolver functions, copies of the socket module made earlier. It does not see C libraries that call ``socket(2)``
themselves; known ones are named when they are imported, and :mod:`smolmix_sync._seccomp` stops them.

A hook can never be removed from a process, so it is behind a switch.

Source: spec/sockets.md section 10, layer 2; design.md decision 11.
"""

from __future__ import annotations

import _socket
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from smolmix_sync.errors import LeakBlocked
from smolmix_sync.reactor import _originals

__all__ = ["C_LIBRARIES", "disable", "enable"]

#: Modules whose C code opens its own sockets or asks its own resolver, with what to use in their place.
C_LIBRARIES: dict[str, str] = {
    "MySQLdb": "PyMySQL",
    "aiodns": "aiohttp's threaded resolver",
    "confluent_kafka": "kafka-python",
    "gevent.resolver.ares": "gevent's thread resolver",
    "grpc": "smolmix_sync.forward()",
    "psycopg": "pg8000, or smolmix_sync.forward()",
    "psycopg2": "pg8000, or smolmix_sync.forward()",
    "pycares": "the socket module's functions",
    "pycurl": "urllib3 or httpx",
    "pymssql": "python-tds",
    "pynng": "smolmix_sync.forward()",
    "uvloop": "asyncio's own event loop",
    "zmq": "smolmix_sync.forward()",
}

#: Programs try these and do without: the refusal must look like a missing module (its cause is LeakBlocked).
_OPTIONAL = frozenset({"aiodns", "gevent.resolver.ares", "pycares", "uvloop"})

_INTERNET = frozenset({-1, int(_socket.AF_INET), int(_socket.AF_INET6), 17})  # 17: AF_PACKET
_FORWARD = frozenset({"socket.getaddrinfo", "socket.gethostbyname"})
_REVERSE = frozenset({"socket.gethostbyaddr", "socket.getnameinfo"})

_installed = False
_on = False
_names = True
_allowed: frozenset[str] = frozenset()
_before_exec: Callable[[Any], None] | None = None
_before_start: Callable[[str], None] | None = None
_named: set[str] = set()


def enable(
    *,
    names: bool,
    strict: bool,
    allow: Iterable[str] = (),
    before_exec: Callable[[Any], None] | None = None,
    before_start: Callable[[str], None] | None = None,
) -> None:
    """Switch the hook on; it is added to the process the first time.

    Args:
        names: refuse the system's resolver too.
        strict: what is loaded already is refused too where only its use could be refused (uvloop, aiodns).
        allow: such libraries that may be imported; ``"*"`` is all of them.
        before_exec: called with the path of a program that is to replace this process.
        before_start: called with the name of a function that is to start one beside it.

    Raises:
        LeakBlocked: a C library with sockets of its own is loaded already: the program may have its functions.
    """
    global _installed, _on, _names, _allowed, _before_exec, _before_start
    allowed = frozenset(allow)
    for module in C_LIBRARIES:
        if module in sys.modules and not allowed & {module, "*"}:
            if strict or module not in _OPTIONAL:
                raise LeakBlocked(
                    f"imported already: {_text(module)} (patch_all(allow=({module!r},)) lets it be)"
                )
            if module not in _named:
                _named.add(module)
                warnings.warn(f"imported already: {_text(module)}", RuntimeWarning, 4)
    _names, _allowed, _before_exec, _before_start = names, allowed, before_exec, before_start
    if not _installed:
        sys.addaudithook(_hook)
        _installed = True
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    _on = True


def disable() -> None:
    """Switch the hook off."""
    global _on
    _on = False
    _named.clear()
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


def _text(module: str) -> str:
    return f"{module} opens sockets in C, which patch_all() cannot carry; in its place: {C_LIBRARIES[module]}"


def _refuse_library(module: str) -> None:
    if module in _OPTIONAL:
        raise ImportError(_text(module), name=module) from LeakBlocked(_text(module))
    raise LeakBlocked(f"{_text(module)} (patch_all(allow=({module!r},)) lets it be imported)")


#: Searches under way, by thread: the finder below is asked by them too.
_searching: set[tuple[int, str]] = set()


def _is_installed(module: str) -> bool:
    # The event comes before the search: `try: import pycurl` must fail as ever where there is none.
    search = (_originals.get_ident(), module)
    _searching.add(search)
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
    finally:
        _searching.discard(search)


def _check_import(name: str) -> None:
    if name in C_LIBRARIES and not _allowed & {name, "*"} and _is_installed(name):
        _refuse_library(name)


class _Finder:
    """Finds nothing, and refuses the same libraries: ``importlib.import_module`` raises no audit event."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """Refuse *name*, or leave it to others."""
        if _on and (_originals.get_ident(), name) not in _searching:
            _check_import(name)


_finder: Any = _Finder()


def _ours() -> bool:
    """Tell whether the function that raised the event was called by this package, or in the reactor's thread."""
    caller = sys._getframe(2)  # 0 is this function, 1 the hook
    if str(caller.f_globals.get("__name__", "")).startswith("smolmix_sync."):
        return True
    return _originals.get_ident() in _originals.reactor_idents


def _numeric(host: Any) -> bool:
    if host is None:
        return True
    if isinstance(host, (bytes, bytearray)):
        host = bytes(host).decode("latin-1")
    if not isinstance(host, str):
        return False
    if not host:
        return True
    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, host.partition("%")[0])
        except (OSError, ValueError):
            continue
        return True
    return False


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if not _on:
        return
    if event == "socket.__new__":
        # -1 is AF_INET, or "look at the descriptor", and the event does not say which.
        if args[1] in _INTERNET and not _ours():
            raise LeakBlocked(
                f"a kernel socket of {type(args[0]).__module__}.{type(args[0]).__name__} would leave the tunnel "
                "(made from a class that was captured before patch_all())"
            )
    elif event in _FORWARD:
        if _names and not _numeric(args[0]) and not _ours():
            raise LeakBlocked(f"{event}({args[0]!r}) would ask the system's resolver, outside the tunnel")
    elif event in _REVERSE:
        if _names and not _ours():
            raise LeakBlocked(f"{event}({args[0]!r}) would ask the system's resolver, outside the tunnel")
    elif event == "import":
        _check_import(args[0])
    elif event == "os.exec" and _before_exec is not None:
        _before_exec(args[0])
    elif event in ("os.system", "os.posix_spawn") and _before_start is not None:
        _before_start(event)
