"""``smolmix-sync identity``, without a network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smolmix_sync.cli import main
from smolmix_sync.reactor.identity import IdentityStore


@pytest.fixture(autouse=True)
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMOLMIX_STORAGE_PATH", str(tmp_path))
    for name in ("SMOLMIX_CLIENT_ID", "SMOLMIX_CONFIG", "SMOLMIX_STORAGE_PASSPHRASE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert main(["identity", "show", "--client-id", "me", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert isinstance(told, dict)
    return told


def test_new_makes_an_identity_that_show_prints(capsys: pytest.CaptureFixture[str], storage: Path) -> None:
    assert main(["identity", "new", "--client-id", "me"]) == 0
    printed = capsys.readouterr().out
    told = shown(capsys)
    assert told["identity"] in printed
    assert told["folder"] == str(storage / "me")
    assert (told["gateway"], told["registered_at"], told["sealed"]) == (None, [], False)


def test_new_replaces_the_identity_and_reset_deletes_it(capsys: pytest.CaptureFixture[str]) -> None:
    main(["identity", "new", "--client-id", "me"])
    capsys.readouterr()
    first = shown(capsys)
    main(["identity", "new", "--client-id", "me"])
    capsys.readouterr()
    assert shown(capsys)["identity"] != first["identity"]
    assert main(["identity", "reset", "--client-id", "me"]) == 0
    assert main(["identity", "show", "--client-id", "me"]) == 1
    assert main(["identity", "reset", "--client-id", "me"]) == 1
    assert "there was none" in capsys.readouterr().err


def test_show_makes_no_folder(capsys: pytest.CaptureFixture[str], storage: Path) -> None:
    assert main(["identity", "show", "--client-id", "me"]) == 1
    assert "there is none" in capsys.readouterr().err
    assert not (storage / "me").exists()


def test_name_is_needed_and_may_come_from_the_settings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["identity", "show"]) == 2
    assert "--client-id" in capsys.readouterr().err
    monkeypatch.setenv("SMOLMIX_CLIENT_ID", "me")
    assert main(["identity", "new"]) == 0


def test_secrets_are_not_printed(capsys: pytest.CaptureFixture[str], storage: Path) -> None:
    main(["identity", "new", "--client-id", "me"])
    main(["identity", "show", "--client-id", "me"])
    main(["identity", "show", "--client-id", "me", "--json"])
    printed = capsys.readouterr().out
    content = json.loads((storage / "me" / "identity.json").read_text())
    for name in ("identity_seed", "encryption_private", "ack_key"):
        assert content[name] not in printed
        assert name not in printed


def test_sealed_identity_needs_its_passphrase(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMOLMIX_STORAGE_PASSPHRASE", "open sesame")
    assert main(["identity", "new", "--client-id", "me"]) == 0
    capsys.readouterr()
    assert shown(capsys)["sealed"] is True
    monkeypatch.setenv("SMOLMIX_STORAGE_PASSPHRASE", "another")
    assert main(["identity", "show", "--client-id", "me"]) == 1
    assert "does not open" in capsys.readouterr().err
    monkeypatch.delenv("SMOLMIX_STORAGE_PASSPHRASE")
    assert main(["identity", "show", "--client-id", "me"]) == 1
    assert "needs its passphrase" in capsys.readouterr().err


def test_plain_identity_is_not_called_sealed_because_a_passphrase_is_set(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["identity", "new", "--client-id", "me"])
    capsys.readouterr()
    monkeypatch.setenv("SMOLMIX_STORAGE_PASSPHRASE", "open sesame")
    assert shown(capsys)["sealed"] is False


def test_identity_in_use_is_left_alone(capsys: pytest.CaptureFixture[str], storage: Path) -> None:
    store = IdentityStore(storage / "me")
    try:
        for action in ("show", "new", "reset"):
            assert main(["identity", action, "--client-id", "me"]) == 1
            assert "in use" in capsys.readouterr().err
    finally:
        store.close()
