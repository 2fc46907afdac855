"""``smolmix-sync doctor``: everything a tunnel needs, checked in the order in which it is needed.

Each check prints one line, and one more that says what to do if it failed. After a failure the checks that rest on it are
left out: their failures would say nothing new.
"""

from __future__ import annotations

import argparse
import dataclasses
import email.utils
import importlib.metadata
import json
import re
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smolmix_sync.cli._common import add_tunnel_options, network, tunnel_config
from smolmix_sync.config import TunnelConfig
from smolmix_sync.errors import (
    ExitPolicyError,
    GatewayBandwidthError,
    GatewayError,
    IprDenied,
    NoExit,
    SmolmixError,
    TopologyError,
)

if TYPE_CHECKING:
    from smolmix_sync.tunnel import Tunnel

__all__ = ["add_arguments", "run"]

#: Ours: seconds that the clock may differ from nym-api's; gateways refuse requests signed much earlier or later.
_CLOCK_SLACK = 60.0
#: Ours: octets of bandwidth below which a tunnel claims more. Source: spec/gateway.md section 7.
_LITTLE_BANDWIDTH = 40 << 20
_STEP_TIMEOUT = 30.0
#: Octets of one Sphinx packet in its frame. Source: spec/sphinx.md (2413 and the gateway's header).
_PACKET_ON_THE_LINE = 2450


@dataclass(frozen=True)
class Check:
    """One line of the report: *result* is ``ok``, ``warn`` or ``FAIL``."""

    name: str
    result: str
    detail: str
    advice: str = ""


class _Failed(Exception):
    """A check failed; its arguments are detail and advice."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_tunnel_options(parser, json_option=False)
    parser.add_argument(
        "--host", metavar="NAME", help="web server to try through the tunnel (default: nymtech.net)"
    )
    parser.add_argument(
        "--import", dest="modules", action="append", default=[], metavar="MODULE",
        help="a module of your program: tells what it imports too early, or cannot have (repeatable)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(arguments: argparse.Namespace) -> int:
    """Run the checks; 0 if none failed."""
    failed = False
    with network(arguments):
        for check in _checks(arguments):
            failed = failed or check.result == "FAIL"
            if arguments.json:
                print(json.dumps(dataclasses.asdict(check)), flush=True)
                continue
            print(f"{check.result:<4}  {check.name:<10} {check.detail}", flush=True)
            if check.advice:
                print(f"      {'':<10} -> {check.advice}", flush=True)
    return 1 if failed else 0


def _checks(arguments: argparse.Namespace) -> Iterator[Check]:
    yield _checked("versions", _versions)
    yield _checked("imports", lambda: _imports(arguments.modules))
    try:
        config = tunnel_config(arguments)
    except SmolmixError as error:
        yield Check("settings", "FAIL", str(error), "correct the option, the variable or the file it names")
        return
    answer: dict[str, Any] = {}
    directory = _checked("nym-api", lambda: _nym_api(config, answer))
    yield directory
    if directory.result == "FAIL":
        return
    yield _checked("clock", lambda: _clock(answer))
    yield Check("in clear", "ok", _in_clear(config))
    yield Check("traffic", "ok", _traffic(config))
    yield from _through_tunnel(
        config, arguments.host or ("www.localnet" if arguments.localnet else "nymtech.net")
    )


def _checked(name: str, check: Callable[[], str | tuple[str, str]]) -> Check:
    """Run one check; it returns its detail, with advice for a warning, or raises :class:`_Failed`."""
    try:
        told = check()
    except _Failed as failure:
        return Check(name, "FAIL", *failure.args)
    return Check(name, "ok", told) if isinstance(told, str) else Check(name, "warn", *told)


# --- this machine -------------------------------------------------------------------------------


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _versions() -> str:
    from smolmix_sync import __version__

    if not sys.platform.startswith("linux"):
        raise _Failed(
            f"this is {sys.platform}", "smolmix_sync needs Linux (a container or a virtual machine will do)"
        )
    told = [f"smolmix-sync {__version__}", f"Python {sys.version.split()[0]}"]
    try:
        required = importlib.metadata.requires("smolmix-sync") or []
    except importlib.metadata.PackageNotFoundError:
        raise _Failed(
            "the package is not installed", "pip install smolmix-sync, or pip install . in its folder"
        ) from None
    for line in required:
        wanted = re.match(r"([A-Za-z0-9_.-]+)\s*>=\s*([\d.]+)$", line)
        if wanted is None:
            continue  # an extra
        name, least = wanted.groups()
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise _Failed(f"{name} is missing", f"pip install '{name}>={least}'") from None
        if _numbers(found) < _numbers(least):
            raise _Failed(f"{name} is {found}", f"pip install '{name}>={least}'")
        told.append(f"{name} {found}")
    return ", ".join(told)


#: Runs in a process of its own: imports the modules as the program would, looks for what was taken before the patch.
_IMPORTS = """
import _socket, importlib, json, sys, warnings
before = {getattr(_socket, n): n for n in ("gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo")}
for module in sys.argv[1:]:
    importlib.import_module(module)
taken = []
for name, module in sorted(sys.modules.items()):
    if name.partition(".")[0] in ("socket", "_socket", "smolmix_sync", "gevent"):
        continue
    for attribute, value in list(vars(module).items()) if hasattr(module, "__dict__") else []:
        try:
            if value in before:
                taken.append(f"{name}.{attribute}")
        except TypeError:
            pass
import smolmix_sync
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    try:
        smolmix_sync.patch_all()
    except smolmix_sync.LeakBlocked as refused:
        warnings.warn(str(refused), RuntimeWarning)
    told = [str(one.message) for one in caught if issubclass(one.category, RuntimeWarning)]
print(json.dumps({"taken": taken, "told": told}))
"""


def _imports(modules: list[str]) -> str | tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTS, *modules], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        reason = (
            done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
        )
        raise _Failed(
            f"importing {', '.join(modules) or 'nothing'} failed: {reason}", "try it in plain Python first"
        )
    found = json.loads(done.stdout.splitlines()[-1])
    if found["told"]:
        return found["told"][0], "use what it names, or lead the library through smolmix_sync.forward()"
    if found["taken"]:
        return (
            f"imported too early: {', '.join(found['taken'][:5])} would ask the system's resolver, and is refused",
            "call patch_all() before these imports, or start the program with smolmix-sync run",
        )
    if modules:
        return f"{', '.join(modules)} can be carried"
    return "nothing of the interpreter's start-up is in the way"


# --- the directory ------------------------------------------------------------------------------


def _nym_api(config: TunnelConfig, answer: dict[str, Any]) -> str | tuple[str, str]:
    import ssl

    context = ssl.create_default_context(
        cafile=str(config.bootstrap_ca_file) if config.bootstrap_ca_file else None
    )
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    failures = []
    for base in config.nym_api:
        url = base.rstrip("/") + "/v1/epoch/key-rotation-info"
        began = time.monotonic()
        try:
            with opener.open(url, timeout=config.nym_api_timeout) as reply:
                json.load(reply)
                answer["date"], answer["at"] = reply.headers.get("Date"), time.time()
        except (OSError, ValueError) as error:
            failures.append(f"{base}: {error}")
            continue
        told = f"{base} answers in {time.monotonic() - began:.2f} s"
        if failures:
            return (
                f"{told}; not {'; '.join(failures)}",
                "works, but every start waits for the first URL: reorder nym_api",
            )
        return told
    raise _Failed(
        "; ".join(failures),
        "check the network and the name server of this machine; SMOLMIX_NYM_API or --nym-api names another nym-api",
    )


def _clock(answer: dict[str, Any]) -> str | tuple[str, str]:
    if not answer.get("date"):
        return "nym-api does not say what time it is", "compare the output of date -u with another clock"
    off = answer["at"] - email.utils.parsedate_to_datetime(answer["date"]).timestamp()
    if abs(off) > _CLOCK_SLACK:
        raise _Failed(
            f"{abs(off):.0f} s {'fast' if off > 0 else 'slow'}",
            "set the clock: gateways refuse old signatures (NTP)",
        )
    return "within a second of nym-api's" if abs(off) < 2 else f"{off:+.0f} s against nym-api's"


def _in_clear(config: TunnelConfig) -> str:
    """Name everything that leaves this machine outside the tunnel."""
    hosts = ", ".join(dict.fromkeys(urllib.parse.urlsplit(base).netloc for base in config.nym_api))
    lookups = (
        "no look-ups" if config.bootstrap_addresses else "look-ups of these names by this machine's resolver"
    )
    return f"outside the tunnel go: HTTPS to {hosts}, one websocket to the entry gateway, {lookups}"


def _traffic(config: TunnelConfig) -> str:
    """Estimate what an idle tunnel costs."""
    traffic = config.traffic
    rate = (1 / traffic.sending_delay if traffic.poisson else 0.0) + (
        1 / traffic.cover_delay if traffic.cover else 0.0
    )
    if not rate:
        return f"profile {config.profile}: an idle tunnel is silent, and an observer sees when it is not"
    octets = rate * _PACKET_ON_THE_LINE
    return (
        f"profile {config.profile}: about {rate:.0f} packets a second, {octets / 1000:.0f} kB/s each way "
        f"({octets * 86400 / 1e9:.0f} GB a day), for as long as the tunnel is up"
    )


# --- the tunnel ---------------------------------------------------------------------------------

_ADVICE: tuple[tuple[type[BaseException], str, str], ...] = (
    (
        TopologyError,
        "topology",
        "nym-api answers, but its directory cannot be used: try another with --nym-api",
    ),
    (GatewayBandwidthError, "gateway", "this gateway wants tickets: choose another with --gateway, or none"),
    (
        GatewayError,
        "gateway",
        "try another entry with --gateway; a firewall may forbid ports 9000 and 9001: SMOLMIX_FORCE_TLS=1",
    ),
    (IprDenied, "exit", "the exit refuses: choose another with --ipr, see smolmix-sync exits --probe"),
    (NoExit, "exit", "no exit works: smolmix-sync exits --probe shows which do; do not pin one with --ipr"),
)


def _through_tunnel(config: TunnelConfig, host: str) -> Iterator[Check]:
    import smolmix_sync

    stages: list[tuple[str, str]] = []
    began = time.monotonic()
    try:
        tunnel = smolmix_sync.Tunnel(
            config, on_progress=lambda step: stages.append((step.stage, step.detail))
        )
    except OSError as error:
        for kind, name, advice in _ADVICE:
            if isinstance(error, kind):
                yield Check(name, "FAIL", str(error), advice)
                return
        stage = stages[-1][0] if stages else "topology"
        advice = {"gateway": _ADVICE[2][2], "exit": _ADVICE[3][2], "probe": _ADVICE[4][2]}.get(
            stage, _ADVICE[0][2]
        )
        yield Check(stage, "FAIL", str(error), advice)
        return
    try:
        yield Check("gateway", "ok", tunnel.gateway)
        yield Check(
            "exit",
            "ok",
            f"{tunnel.exit} answered after {time.monotonic() - began:.2f} s, addresses {tunnel.allocated_ips}",
        )
        yield _checked("bandwidth", lambda: _bandwidth(tunnel))
        addresses: list[str] = []
        names = _checked("DNS", lambda: _name(tunnel, host, addresses))
        yield names
        if names.result == "FAIL":
            return
        sockets: list[socket.socket] = []
        try:
            tcp = _checked("TCP", lambda: _tcp(tunnel, addresses[0], sockets))
            yield tcp
            if tcp.result == "ok":
                yield _checked("TLS", lambda: _tls(sockets[0], host, config))
        finally:
            for sock in sockets:
                sock.close()
    finally:
        tunnel.shutdown(1.0)


def _bandwidth(tunnel: Tunnel) -> str | tuple[str, str]:
    left = tunnel.stats().bandwidth
    if left is None:
        return "the gateway does not say", "nothing to do: it has let us send so far"
    told = f"{left / (1 << 20):.0f} MiB left today"
    if left < _LITTLE_BANDWIDTH:
        return told, "the tunnel claims more by itself; if that fails, another gateway has its own allowance"
    return told


def _name(tunnel: Tunnel, host: str, addresses: list[str]) -> str:
    began = time.monotonic()
    try:
        addresses += tunnel.resolve(host, 0, _STEP_TIMEOUT)
    except OSError as error:
        raise _Failed(
            f"{host}: {error}",
            "another resolver (SMOLMIX_PRIMARY_DNS) or another exit; --host tries another name",
        ) from None
    return f"{host} is {addresses[0]}, {time.monotonic() - began:.2f} s"


def _tcp(tunnel: Tunnel, address: str, sockets: list[socket.socket]) -> str:
    began = time.monotonic()
    try:
        sockets.append(tunnel.tcp_connect((address, 443), _STEP_TIMEOUT))
    except ExitPolicyError as error:
        raise _Failed(str(error), "this exit forbids port 443: choose another with --ipr") from None
    except OSError as error:
        raise _Failed(
            f"{address} port 443: {error}", "another exit (--ipr), or the server is down: --host"
        ) from None
    return f"{address} port 443 connected in {time.monotonic() - began:.2f} s"


def _tls(sock: socket.socket, host: str, config: TunnelConfig) -> str:
    import ssl

    from smolmix_sync.http import create_ssl_context

    context = create_ssl_context()
    if config.bootstrap_ca_file is not None and Path(config.bootstrap_ca_file).exists():
        context.load_verify_locations(str(config.bootstrap_ca_file))
    began = time.monotonic()
    try:
        with context.wrap_socket(sock, server_hostname=host) as tls:
            return f"{tls.version()} with {host}, {time.monotonic() - began:.2f} s"
    except ssl.SSLCertVerificationError as error:
        raise _Failed(
            f"{host}: {error.verify_message}",
            "do NOT go on: the exit or somebody behind it answers in the server's place, or this machine's authorities "
            "are out of date (ca-certificates)",
        ) from None
    except OSError as error:
        raise _Failed(
            f"{host}: {error}", "another exit (--ipr): this one changes or cuts what passes"
        ) from None
