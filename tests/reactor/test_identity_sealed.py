"""An identity on disk that only its passphrase opens."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolmix_sync.config import ConfigError
from smolmix_sync.crypto import argon2id, secretbox_open_untrusted, secretbox_seal
from smolmix_sync.errors import WireError
from smolmix_sync.reactor.identity import ClientIdentity, IdentityStore, PassphraseSeal, Registration


def full() -> ClientIdentity:
    identity = ClientIdentity.generate()
    identity.gateway = os.urandom(32)
    identity.registrations[identity.gateway] = Registration(os.urandom(32), 1_800_000_000)
    return identity


def keep(folder: Path, identity: ClientIdentity, passphrase: str | None) -> bytes:
    store = IdentityStore(folder, passphrase)
    store.save(identity)
    store.close()
    return (folder / "identity.json").read_bytes()


def kept(folder: Path, passphrase: str | None) -> ClientIdentity | None:
    store = IdentityStore(folder, passphrase)
    try:
        return store.load()
    finally:
        store.close()


def test_argon2id_gives_what_openssl_gives() -> None:
    # cryptography's Argon2id (OpenSSL), lanes=1, iterations=2, memory_cost=65536, made this key.
    expected = "28349495e647feebde5a649e7e1e27840c4021c381cc1d54580097df5a52b532"
    assert argon2id(b"password", b"somesalt16octets", operations=2, memory=64 << 20).hex() == expected


def test_argon2id_refuses_a_salt_of_another_size() -> None:
    with pytest.raises(ValueError, match="Argon2id"):
        argon2id(b"password", b"short", operations=1, memory=8192)


def test_secretbox_opens_what_it_sealed_and_nothing_else() -> None:
    box = secretbox_seal(bytes(32), bytes(24), b"hello")
    assert secretbox_open_untrusted(bytes(32), bytes(24), box) == b"hello"
    for data in (b"", box[:-1], bytes([box[0] ^ 1]) + box[1:]):
        with pytest.raises(WireError):
            secretbox_open_untrusted(bytes(32), bytes(24), data)


def test_passphrase_opens_what_it_sealed(tmp_path: Path) -> None:
    identity = full()
    content = keep(tmp_path, identity, "open sesame")
    assert kept(tmp_path, "open sesame") == identity
    for secret in (identity.encode(), b"identity_seed", b"gateways"):
        assert secret not in content


def test_file_of_a_sealed_identity_is_ours_alone_and_replaced_in_one_step(tmp_path: Path) -> None:
    folder = tmp_path / "me"
    old = os.umask(0)
    try:
        keep(folder, full(), "x")
        first = (folder / "identity.json").stat().st_ino
        keep(folder, full(), "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name for path in folder.iterdir()} == {"identity.json", "lock"}
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert (folder / "identity.json").stat().st_ino != first


@pytest.mark.parametrize("passphrase", ["another", None])
def test_wrong_or_missing_passphrase_is_told_and_the_file_stays(
    tmp_path: Path, passphrase: str | None
) -> None:
    identity = full()
    content = keep(tmp_path, identity, "open sesame")
    with pytest.raises(ConfigError, match=r"storage_passphrase: .*kept identity") as caught:
        kept(tmp_path, passphrase)
    assert "another" not in str(caught.value)
    assert (tmp_path / "identity.json").read_bytes() == content
    assert kept(tmp_path, "open sesame") == identity


def test_empty_passphrase_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="empty"):
        IdentityStore(tmp_path, "")


def test_plain_identity_is_sealed_when_it_is_saved_with_a_passphrase(tmp_path: Path) -> None:
    identity = full()
    assert b"identity_seed" in keep(tmp_path, identity, None)
    assert kept(tmp_path, "hush") == identity
    assert b"identity_seed" not in keep(tmp_path, identity, "hush")
    assert kept(tmp_path, "hush") == identity


def test_every_save_has_its_own_nonce(tmp_path: Path) -> None:
    store = IdentityStore(tmp_path, "x")
    nonces = set()
    for _ in range(3):
        store.save(full())
        nonces.add(json.loads((tmp_path / "identity.json").read_bytes())["nonce"])
    store.close()
    assert len(nonces) == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("memory", 1 << 40),
        ("memory", 1),
        ("memory", "much"),
        ("operations", 0),
        ("operations", 1 << 40),
        ("kdf", "md5"),
        ("salt", "AAAA"),
        ("box", 7),
    ],
)
def test_sealed_file_that_is_damaged_is_set_aside(tmp_path: Path, name: str, value: Any) -> None:
    content = json.loads(keep(tmp_path, full(), "x"))
    content[name] = value
    (tmp_path / "identity.json").write_text(json.dumps(content))
    assert kept(tmp_path, "x") is None
    assert json.loads((tmp_path / "identity.broken").read_text())[name] == value


@given(st.binary(max_size=200))
def test_garbage_raises_wire_error_only(data: bytes) -> None:
    with pytest.raises(WireError):
        PassphraseSeal("x").open_untrusted(data)


def test_removed_identity_leaves_nothing_but_the_lock(tmp_path: Path) -> None:
    store = IdentityStore(tmp_path, "x")
    assert not store.remove()
    store.save(full())
    assert store.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    assert store.load() is None
    store.close()
