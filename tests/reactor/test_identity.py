from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolmix_sync.config import ConfigError, TunnelConfig
from smolmix_sync.errors import SmolmixError, WireError
from smolmix_sync.localnet import LocalNet
from smolmix_sync.reactor.identity import ClientIdentity, IdentityStore, Registration, storage_folder
from smolmix_sync.tunnel import Tunnel


def full() -> ClientIdentity:
    identity = ClientIdentity.generate()
    identity.gateway = os.urandom(32)
    identity.registrations[identity.gateway] = Registration(os.urandom(32), 1_800_000_000)
    return identity


def test_identity_is_read_as_it_was_written() -> None:
    identity = full()
    assert ClientIdentity.decode_untrusted(identity.encode()) == identity


def test_secrets_are_not_shown() -> None:
    identity = full()
    text = repr(identity) + repr(next(iter(identity.registrations.values())))
    assert repr(identity.keys.identity_seed) not in text
    assert "shared_key" not in text


@given(st.binary(max_size=200))
def test_garbage_raises_wire_error_only(data: bytes) -> None:
    with pytest.raises(WireError):
        ClientIdentity.decode_untrusted(data)


@given(st.integers(0, 500), st.integers(0, 255))
def test_damaged_file_is_read_or_refused(at: int, octet: int) -> None:
    data = bytearray(full().encode())
    data[at % len(data)] = octet
    try:
        ClientIdentity.decode_untrusted(bytes(data))
    except WireError:
        pass


def test_folder_and_files_are_ours_alone(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "me"
    store = IdentityStore(folder)
    store.save(full())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    store.close()
    store.close()


def test_second_user_of_an_identity_is_refused(tmp_path: Path) -> None:
    store = IdentityStore(tmp_path / "me")
    with pytest.raises(OSError) as caught:
        IdentityStore(tmp_path / "me")
    assert caught.value.errno == errno.EALREADY
    store.close()
    IdentityStore(tmp_path / "me").close()


def test_identity_that_cannot_be_read_is_set_aside(tmp_path: Path) -> None:
    store = IdentityStore(tmp_path)
    assert store.load() is None
    (tmp_path / "identity.json").write_bytes(b"{}")
    assert store.load() is None
    assert (tmp_path / "identity.broken").read_bytes() == b"{}"
    identity = full()
    store.save(identity)
    assert store.load() == identity
    store.close()


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "x" * 101, "a b"])
def test_name_must_be_a_folders(name: str) -> None:
    with pytest.raises(ConfigError):
        storage_folder(TunnelConfig(client_id=name or None))


@pytest.mark.interop
@pytest.mark.slow
def test_tunnel_with_a_client_id_is_the_same_client_again(tmp_path: Path) -> None:
    with LocalNet(set_default=False) as net:
        settings = {**net.client_settings(), "client_id": "me", "storage_path": tmp_path}
        with Tunnel(**settings) as tunnel:
            address = tunnel.nym_address
            with pytest.raises(SmolmixError) as caught:
                Tunnel(**settings)
            assert caught.value.errno == errno.EALREADY
        with Tunnel(**settings) as tunnel:
            assert tunnel.nym_address == address
            assert net.stats()["entry"]["registrations"] == 1
            tunnel.new_identity()
            other = tunnel.nym_address
            assert other != address
        with Tunnel(**settings) as tunnel:
            assert tunnel.nym_address == other
        with Tunnel(**settings, storage_passphrase="hush") as tunnel:
            assert tunnel.nym_address == other
        assert b"identity_seed" not in (tmp_path / "me" / "identity.json").read_bytes()
        for passphrase in ({"storage_passphrase": "another"}, {}):
            with pytest.raises(ConfigError, match="storage_passphrase"):
                Tunnel(**settings, **passphrase)
        with Tunnel(**settings, storage_passphrase="hush") as tunnel:
            assert tunnel.nym_address == other
