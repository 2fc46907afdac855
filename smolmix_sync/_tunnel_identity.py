"""The identity that ``client_id`` keeps between runs, for a person who asks without opening a tunnel.

Source: design.md decision 10.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smolmix_sync.config import TunnelConfig
from smolmix_sync.reactor.identity import ClientIdentity, IdentityStore, storage_folder

__all__ = ["delete_identity", "replace_identity", "show_identity"]


def show_identity(config: TunnelConfig) -> dict[str, Any] | None:
    """Return the public part of the identity ``config.client_id``; None if there is none.

    Raises:
        ConfigError: it is sealed, and the passphrase is missing or another one.
        OSError: EALREADY while a tunnel is this identity.
    """
    folder = storage_folder(config)
    if not folder.is_dir():
        return None
    store = IdentityStore(folder, config.storage_passphrase)
    try:
        identity = store.load()
    finally:
        store.close()
    return None if identity is None else _public(folder, store, identity)


def replace_identity(config: TunnelConfig) -> dict[str, Any]:
    """Keep a new identity as ``config.client_id``, whatever was there; return its public part.

    Raises:
        OSError: EALREADY while a tunnel is this identity.
    """
    folder = storage_folder(config)
    store = IdentityStore(folder, config.storage_passphrase)
    try:
        identity = ClientIdentity.generate()
        store.save(identity)
    finally:
        store.close()
    return _public(folder, store, identity)


def delete_identity(config: TunnelConfig) -> bool:
    """Delete the identity ``config.client_id``, sealed or not; return whether there was one.

    Raises:
        OSError: EALREADY while a tunnel is this identity.
    """
    folder = storage_folder(config)
    if not folder.is_dir():
        return False
    store = IdentityStore(folder)
    try:
        return store.remove()
    finally:
        store.close()


def _public(folder: Path, store: IdentityStore, identity: ClientIdentity) -> dict[str, Any]:
    return {"folder": str(folder), "sealed": store.sealed, **identity.public()}
