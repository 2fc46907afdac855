"""``smolmix-sync doctor``: each thing that can be broken is broken here, and named with what to do about it."""

from __future__ import annotations

import email.utils
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from smolmix_sync.cli import doctor
from smolmix_sync.config import TunnelConfig
from smolmix_sync.localnet import LocalNet

slow = [pytest.mark.interop, pytest.mark.slow]


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNet]:
    with LocalNet(set_default=False) as net:
        yield net


def run_doctor(net: LocalNet, *words: str, **environment: str) -> tuple[int, dict[str, doctor.Check]]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SMOLMIX_")}
    done = subprocess.run(
        [sys.executable, "-m", "smolmix_sync", "doctor", "--json", "--host", "www.localnet", *words],
        env={**clean, **net.environment(), **environment}, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    checks = [doctor.Check(**json.loads(line)) for line in done.stdout.splitlines()]
    assert done.stderr == ""
    return done.returncode, {check.name: check for check in checks}


class TestWhole:
    pytestmark = slow

    def test_everything_is_well_on_a_network_that_works(self, net: LocalNet) -> None:
        code, checks = run_doctor(net)
        assert list(checks) == [
            "versions", "imports", "nym-api", "clock", "in clear", "traffic", "gateway", "exit",
            "bandwidth", "DNS", "TCP", "TLS",
        ]  # fmt: skip
        assert {check.result for check in checks.values()} == {"ok"}, checks
        assert code == 0
        assert "MiB left" in checks["bandwidth"].detail
        assert "TLSv1." in checks["TLS"].detail

    def test_nym_api_that_is_not_there(self, net: LocalNet) -> None:
        code, checks = run_doctor(net, "--nym-api", "http://127.0.0.1:9/")
        assert (code, checks["nym-api"].result) == (1, "FAIL")
        assert "--nym-api" in checks["nym-api"].advice
        assert "gateway" not in checks

    def test_certificate_that_is_not_the_servers(self, net: LocalNet) -> None:
        code, checks = run_doctor(net, "--host", "wrong.localnet")
        assert (code, checks["TLS"].result) == (1, "FAIL")
        assert "do NOT go on" in checks["TLS"].advice

    def test_name_that_does_not_exist_and_port_that_is_closed(self, net: LocalNet) -> None:
        code, checks = run_doctor(net, "--host", "no-such.localnet")
        assert (code, checks["DNS"].result) == (1, "FAIL")
        assert "TCP" not in checks
        code, checks = run_doctor(net, "--host", "closed.localnet")
        assert (code, checks["TCP"].result) == (1, "FAIL")
        assert "TLS" not in checks

    def test_exit_that_is_dead_and_gateway_that_is_unknown(self, net: LocalNet) -> None:
        net.node("exit").set(silent=True)
        try:
            code, checks = run_doctor(net, SMOLMIX_IPR_TIMEOUT="3", SMOLMIX_CONNECT_TIMEOUT="8")
        finally:
            net.node("exit").set(silent=False)
        assert (code, checks["exit"].result) == (1, "FAIL")
        assert "exits --probe" in checks["exit"].advice
        code, checks = run_doctor(net, "--gateway", "3" * 43)
        failed = [check for check in checks.values() if check.result == "FAIL"]
        assert code == 1
        assert len(failed) == 1
        assert "3" * 43 in failed[0].detail

    def test_setting_that_makes_no_sense(self, net: LocalNet) -> None:
        code, checks = run_doctor(net, SMOLMIX_MTU="12")
        assert (code, checks["settings"].result) == (1, "FAIL")
        assert "SMOLMIX_MTU" in checks["settings"].detail


def test_modules_that_take_names_before_the_patch_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "early_bird.py").write_text("from socket import gethostbyname\n")
    (tmp_path / "pycurl.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    told = doctor._imports(["early_bird"])
    assert "early_bird.gethostbyname" in told[0]
    assert "patch_all()" in told[1]
    told = doctor._imports(["pycurl"])
    assert told[0].startswith("imported already: pycurl")
    assert isinstance(doctor._imports(["json"]), str)
    with pytest.raises(doctor._Failed, match="no_such_module"):
        doctor._imports(["no_such_module"])


def test_clock_is_compared_with_nym_apis() -> None:
    now = float(int(time.time()))
    assert doctor._clock({"date": email.utils.formatdate(now), "at": now}) == "within a second of nym-api's"
    assert doctor._clock({"date": email.utils.formatdate(now), "at": now + 10}) == "+10 s against nym-api's"
    with pytest.raises(doctor._Failed, match="90 s slow"):
        doctor._clock({"date": email.utils.formatdate(now + 90), "at": now})
    assert "does not say" in doctor._clock({"date": None, "at": now})[0]


def test_what_goes_in_clear_and_what_an_idle_tunnel_costs_is_told() -> None:
    told = doctor._in_clear(TunnelConfig())
    assert "validator.nymtech.net" in told
    assert "look-ups of these names" in told
    assert "no look-ups" in doctor._in_clear(
        TunnelConfig(bootstrap_addresses={"validator.nymtech.net": "192.0.2.1"})
    )
    assert "about 55 packets a second, 135 kB/s" in doctor._traffic(TunnelConfig())
    assert "about 250 packets a second" in doctor._traffic(TunnelConfig(profile="high-traffic"))
    assert "silent" in doctor._traffic(TunnelConfig(profile="no-cover"))


def test_versions_too_old_and_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "gevent" in doctor._versions()
    known = doctor.importlib.metadata.version
    monkeypatch.setattr(
        doctor.importlib.metadata, "version", lambda name: "1.0.1" if name == "gevent" else known(name)
    )
    with pytest.raises(doctor._Failed, match=r"gevent is 1\.0\.1"):
        doctor._versions()

    def missing(name: str) -> str:
        raise doctor.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", missing)
    with pytest.raises(doctor._Failed, match="is missing"):
        doctor._versions()
