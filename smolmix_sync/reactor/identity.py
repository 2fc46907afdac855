"""Who we are: the keys of a client and its registrations, in memory or kept in a folder.

The folder is 0700, the file 0600 and replaced in one step; a lock file lets one process at a time be this
identity, because two users of one identity disconnect each other. With a passphrase the file is a box sealed
under a key that Argon2id makes of it: see :class:`PassphraseSeal`.

Source: design.md decision 10; spec/gateway.md section 10.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import fcntl
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smolmix_sync.address import Recipient, base58_decode, base58_encode
from smolmix_sync.config import ConfigError, TunnelConfig
from smolmix_sync.crypto import (
    Secret,
    argon2id,
    ed25519_public_from_seed,
    secretbox_open_untrusted,
    secretbox_seal,
    x25519_base,
)
from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.client import ClientKeys
from smolmix_sync.reactor._originals import posix_close
from smolmix_sync.reactor.log import ReactorLogger

__all__ = ["ClientIdentity", "IdentityStore", "PassphraseSeal", "Registration", "storage_folder"]

_LOG = ReactorLogger("reactor.identity")

_FORMAT = 1
_MAX_FILE = 1 << 20

_SEALED = "sealed-1"
# From the specification (RFC 9106 section 4, second recommendation): three passes over 64 MiB.
_OPERATIONS = 3
_MEMORY = 64 << 20
# Ours: what a file may ask of us at most, so that a bad one cannot take the machine's memory.
_MAX_OPERATIONS = 16
_MAX_MEMORY = 1 << 30


@dataclass(slots=True)
class Registration(Secret):
    """What one gateway agreed with us.

    Attributes:
        shared_key: the key of the registration.
        last_auth: newest Unix second signed for it; the next must be greater.
    """

    shared_key: bytes = field(repr=False)
    last_auth: int = 0


@dataclass(slots=True)
class ClientIdentity(Secret):
    """Keys, and what gateways agreed with us.

    Attributes:
        keys: the client's secrets.
        gateway: the gateway in use, None before the first registration.
        registrations: by gateway identity.
    """

    keys: ClientKeys = field(repr=False)
    gateway: bytes | None = None
    registrations: dict[bytes, Registration] = field(default_factory=dict, repr=False)

    @classmethod
    def generate(cls, urandom: Callable[[int], bytes] = os.urandom) -> ClientIdentity:
        """Return a new identity."""
        return cls(ClientKeys.generate(urandom))

    def public(self) -> dict[str, Any]:
        """Return what others may know: public keys and gateways, in base58, and the Nym address."""
        identity = ed25519_public_from_seed(self.keys.identity_seed)
        encryption = x25519_base(self.keys.encryption_private)
        gateway = self.gateway
        return {
            "identity": base58_encode(identity),
            "encryption": base58_encode(encryption),
            "gateway": None if gateway is None else base58_encode(gateway),
            "address": None if gateway is None else str(Recipient(identity, encryption, gateway)),
            "registered_at": [base58_encode(name) for name in self.registrations],
        }

    def encode(self) -> bytes:
        """Return the content of the file."""
        keys = self.keys
        content = {
            "format": _FORMAT,
            "identity_seed": _text(keys.identity_seed),
            "encryption_private": _text(keys.encryption_private),
            "ack_key": _text(keys.ack_key),
            "gateway": base58_encode(self.gateway) if self.gateway is not None else None,
            "gateways": {
                base58_encode(gateway): {"shared_key": _text(entry.shared_key), "last_auth": entry.last_auth}
                for gateway, entry in self.registrations.items()
            },
        }
        return json.dumps(content, indent=1).encode()

    @classmethod
    def decode_untrusted(cls, data: bytes) -> ClientIdentity:
        """Read the content of the file.

        Raises:
            WireError: it is not what :meth:`encode` writes.
        """
        try:
            content = json.loads(data)
            if content["format"] != _FORMAT:
                raise WireError("an identity of another format")
            keys = ClientKeys(
                _octets(content["identity_seed"], 32),
                _octets(content["encryption_private"], 32),
                _octets(content["ack_key"], 16),
            )
            gateway = content["gateway"]
            registrations = {
                base58_decode(name): Registration(_octets(entry["shared_key"], 32), int(entry["last_auth"]))
                for name, entry in content["gateways"].items()
            }
            return cls(keys, None if gateway is None else base58_decode(gateway), registrations)
        except WireError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise WireError(f"an identity that cannot be read: {type(error).__name__}") from None


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _octets(value: Any, size: int) -> bytes:
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise WireError("a key that is no base64") from None
    if len(data) != size:
        raise WireError("a key of the wrong size")
    return data


def storage_folder(config: TunnelConfig) -> Path:
    """Return the folder of the identity ``client_id``.

    Raises:
        ConfigError: the name cannot be a folder's.
    """
    name = config.client_id or ""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ConfigError("client_id: letters, digits, dot, dash and underscore only")
    if config.storage_path is not None:
        return config.storage_path / name
    base = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return Path(base) / "smolmix_sync" / name


class PassphraseSeal:
    """Seals the identity with a passphrase: secretbox under an Argon2id key.

    The key of one salt is made once and kept, because the file is written at every authentication.

    Args:
        passphrase: what a person typed.
        urandom: the source of salts and nonces.
    """

    def __init__(self, passphrase: str, urandom: Callable[[int], bytes] = os.urandom) -> None:
        if not passphrase:
            raise ConfigError("storage_passphrase: it is empty")
        self._passphrase = passphrase.encode()
        self._urandom = urandom
        self._salt = b""
        self._key = b""

    def _derive(self, salt: bytes, operations: int, memory: int) -> bytes:
        return argon2id(self._passphrase, salt, operations=operations, memory=memory)

    def seal(self, data: bytes) -> bytes:
        """Return the content of a file that holds *data* sealed."""
        if not self._key:
            self._salt = self._urandom(16)
            self._key = self._derive(self._salt, _OPERATIONS, _MEMORY)
        nonce = self._urandom(24)
        content = {
            "format": _SEALED,
            "kdf": "argon2id",
            "operations": _OPERATIONS,
            "memory": _MEMORY,
            "salt": _text(self._salt),
            "nonce": _text(nonce),
            "box": _text(secretbox_seal(self._key, nonce, data)),
        }
        return json.dumps(content, indent=1).encode()

    def open_untrusted(self, data: bytes) -> bytes:
        """Return what :meth:`seal` was given.

        Raises:
            WireError: *data* is no sealed file.
            ConfigError: the passphrase is another one, or the box is damaged: the two look the same.
        """
        try:
            content = json.loads(data)
            if content["format"] != _SEALED or content["kdf"] != "argon2id":
                raise WireError("a sealed identity of another format")
            operations, memory = int(content["operations"]), int(content["memory"])
            salt, nonce = _octets(content["salt"], 16), _octets(content["nonce"], 24)
            box = base64.b64decode(content["box"], validate=True)
            if not 1 <= operations <= _MAX_OPERATIONS or not 8192 <= memory <= _MAX_MEMORY:
                raise WireError("a sealed identity that asks for too much work")
            key = self._derive(salt, operations, memory)
        except WireError:
            raise
        except (ValueError, OverflowError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise WireError(f"a sealed identity that cannot be read: {type(error).__name__}") from None
        try:
            opened = secretbox_open_untrusted(key, nonce, box)
        except WireError:
            raise ConfigError("storage_passphrase: it does not open the kept identity") from None
        if (operations, memory) == (_OPERATIONS, _MEMORY):
            self._salt, self._key = salt, key
        return opened


def _is_sealed(data: bytes) -> bool:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("format") == _SEALED


class IdentityStore:
    """One identity on disk, locked for this process while open.

    Args:
        folder: made if it does not exist.
        passphrase: seals the file; a plain one is sealed when it is next saved.

    Attributes:
        lock_fd: the descriptor that holds the lock.
        sealed: whether the file that was read or written last is sealed.

    Raises:
        OSError: EALREADY when another process (or tunnel) is this identity; the kernel's otherwise.
        ConfigError: the passphrase is empty.
    """

    def __init__(self, folder: Path, passphrase: str | None = None) -> None:
        self._seal = None if passphrase is None else PassphraseSeal(passphrase)
        self.sealed = False
        # The mode is for the last one alone: the folder of all identities is made first.
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        os.chmod(folder, 0o700)
        self._path = folder / "identity.json"
        self.lock_fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            posix_close(self.lock_fd)
            raise OSError(errno.EALREADY, "the identity is in use") from None

    def load(self) -> ClientIdentity | None:
        """Return the identity; None if there is none yet, or one that cannot be read, which is set aside.

        Raises:
            ConfigError: the file is sealed, and the passphrase is missing or another one. The file stays.
        """
        try:
            with self._path.open("rb") as file:
                return self._read(file.read(_MAX_FILE))
        except FileNotFoundError:
            return None
        except WireError as error:
            # A bad identity that stays makes every start fail: it is kept for a look, and replaced.
            aside = self._path.with_suffix(".broken")
            self._path.replace(aside)
            _LOG.warning("%s: %s; set aside as %s", self._path, error, aside.name)
            return None

    def _read(self, data: bytes) -> ClientIdentity:
        self.sealed = _is_sealed(data)
        if self.sealed:
            if self._seal is None:
                raise ConfigError("storage_passphrase: the kept identity is sealed, it needs its passphrase")
            data = self._seal.open_untrusted(data)
        return ClientIdentity.decode_untrusted(data)

    def save(self, identity: ClientIdentity) -> None:
        """Replace the file in one step."""
        content = identity.encode()
        if self._seal is not None:
            content = self._seal.seal(content)
        temporary = self._path.with_suffix(".new")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o600)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError:  # a full disk: what was kept stays, and half a file does not
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        self.sealed = self._seal is not None

    def remove(self) -> bool:
        """Forget the identity; return whether there was one. Its lock stays with us until :meth:`close`."""
        there = self._path.exists()
        for path in (self._path, self._path.with_suffix(".new"), self._path.with_suffix(".broken")):
            path.unlink(missing_ok=True)
        return there

    def close(self) -> None:
        """Let others be this identity; any number of times."""
        if self.lock_fd >= 0:
            posix_close(self.lock_fd)
            self.lock_fd = -1
