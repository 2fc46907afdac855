"""The TLS settings of our own helpers: authenticated encryption and forward secrecy, or nothing."""

from __future__ import annotations

import os
import ssl as _stdlib
import threading
from typing import Any

from smolmix_sync import ssl

__all__ = ["create_ssl_context", "shared_context"]

#: TLS 1.2: ephemeral ECDH with AES-GCM or ChaCha20-Poly1305; every TLS 1.3 suite is of that kind.
#: Source: research/peers.md row 45 (the seeds' rule).
_TLS12_SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL:!PSK"

_lock = threading.Lock()
_contexts: dict[tuple[str | None, str | None], Any] = {}


def create_ssl_context(cafile: str | os.PathLike[str] | None = None) -> Any:
    """Return a client context: TLS 1.2 or newer, AEAD with forward secrecy, certificates and names checked.

    Args:
        cafile: PEM file of the authorities to trust; None: those of the system, or of ``SSL_CERT_FILE``
            and ``SSL_CERT_DIR`` where they are set.
    """
    context = ssl.SSLContext(_stdlib.PROTOCOL_TLS_CLIENT)
    context.minimum_version = _stdlib.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS12_SUITES)
    context.options |= _stdlib.OP_NO_COMPRESSION
    if cafile is not None:
        context.load_verify_locations(cafile)
    else:
        context.load_default_certs()
    return context


def shared_context() -> Any:
    """Return a context that lasts; it follows ``SSL_CERT_FILE`` when that changes."""
    key = (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    with _lock:
        context = _contexts.get(key)
        if context is None:
            context = create_ssl_context()
            context.set_alpn_protocols(["http/1.1"])
            _contexts[key] = context
        return context
