"""Server certificates as the node processes get them."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field

__all__ = ["Leaf", "server_context"]


@dataclass(frozen=True)
class Leaf:
    """A certificate chain and its private key, both PEM text."""

    chain: str
    key: str = field(repr=False)


def server_context(leaf: Leaf) -> ssl.SSLContext:
    """Return a server's TLS context for *leaf*; OpenSSL reads the key from an anonymous file, never from a disk."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    descriptor = os.memfd_create("leaf", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, (leaf.key + leaf.chain).encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context
