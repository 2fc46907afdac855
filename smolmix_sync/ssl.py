"""A drop-in for the stdlib's ``ssl`` module: TLS over mix sockets.

A MixSocket is a descriptor, so the stdlib's ``SSLContext.wrap_socket`` carries data over it; the classes here also give
the wrapped socket the right names, errors and ``connect``. After ``patch_all()`` the stdlib's own do all that.

Source: spec/sockets.md section 2.
"""

from __future__ import annotations

import builtins
import socket as _stdlib_socket
import ssl as _stdlib
import sys
import types
from typing import TYPE_CHECKING, Any

from smolmix_sync.reactor._originals import original
from smolmix_sync.socket import MixSocket, create_connection


def _unpatched() -> Any:
    """Return the stdlib's module with its own classes.

    gevent puts its own in their place, which the originals then find under their names (and recurse for ever), or
    builds upon if gevent's patch was before the first import. A second copy of the module knows nothing of gevent.
    """
    socket, context = original("socket", "socket"), original("ssl", "SSLContext")
    if _stdlib.SSLContext is context and issubclass(_stdlib.SSLSocket, socket):
        return _stdlib
    spec = _stdlib.__spec__
    assert spec is not None
    code = spec.loader.get_code(spec.name)  # type: ignore[union-attr]
    unpatched = types.ModuleType("socket")
    unpatched.__dict__.update({name: original("socket", name) for name in dir(_stdlib_socket)})

    def importer(name: str, *args: Any) -> Any:
        return unpatched if name == "socket" else builtins.__import__(name, *args)

    copy = types.ModuleType(f"{__name__}._unpatched")
    sys.modules[copy.__name__] = copy  # its enumerations put their members there
    copy.__dict__["__builtins__"] = {**vars(builtins), "__import__": importer}
    exec(code, copy.__dict__)
    return copy


_own = _unpatched()

if TYPE_CHECKING:
    from ssl import SSLContext as _ContextBase
    from ssl import SSLSocket as _SocketBase
else:
    _SocketBase, _ContextBase = _own.SSLSocket, _own.SSLContext

__all__ = [
    *(name for name in dir(_stdlib) if not name.startswith("_")),
    "SSLContext",
    "SSLSocket",
    "create_default_context",
    "get_server_certificate",
    "wrap_socket",
]


class SSLSocket(_SocketBase, MixSocket):
    """``ssl.SSLSocket`` over a mix socket; made by :meth:`SSLContext.wrap_socket`."""


class SSLContext(_ContextBase):
    """``ssl.SSLContext`` whose sockets are mix sockets."""

    sslsocket_class = SSLSocket


def _mixed(context: Any) -> Any:
    context.sslsocket_class = SSLSocket
    return context


def create_default_context(purpose: Any = _stdlib.Purpose.SERVER_AUTH, **options: Any) -> Any:
    """Return a context with the stdlib's default settings, as ``ssl.create_default_context``."""
    return _mixed(_own.create_default_context(_own.Purpose[purpose.name], **options))


def _create_unverified_context(*args: Any, **options: Any) -> Any:
    return _mixed(_own._create_unverified_context(*args, **options))


def wrap_socket(
    sock: MixSocket, *, server_hostname: str | None = None, context: Any = None, **options: Any
) -> Any:
    """Wrap a connected socket in TLS with certificate checks.

    Args:
        sock: the socket; it is detached.
        server_hostname: sent as SNI and checked against the certificate.
        context: None makes a default one.
        options: further arguments of ``SSLContext.wrap_socket``.
    """
    if context is None:
        context = create_default_context()
        if server_hostname is None:
            raise ValueError("server_hostname is needed to check the certificate")
    return _mixed(context).wrap_socket(sock, server_hostname=server_hostname, **options)


def get_server_certificate(
    addr: tuple[str, int],
    ssl_version: int = _stdlib.PROTOCOL_TLS_CLIENT,
    ca_certs: str | None = None,
    timeout: Any = None,
) -> str:
    """Return the certificate of a server in PEM form, as ``ssl.get_server_certificate``."""
    context = SSLContext(ssl_version)
    context.check_hostname = False
    context.verify_mode = _stdlib.CERT_NONE if ca_certs is None else _stdlib.CERT_REQUIRED
    if ca_certs is not None:
        context.load_verify_locations(ca_certs)
    with (
        create_connection(addr, timeout) as sock,
        context.wrap_socket(sock, server_hostname=addr[0]) as wrapped,
    ):
        return _stdlib.DER_cert_to_PEM_cert(wrapped.getpeercert(True) or b"")


def __getattr__(name: str) -> Any:
    if name == "_create_default_https_context":
        return create_default_context
    return getattr(_stdlib, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(_stdlib)})
