"""Keys, contents and destinations stay where they belong: not in logs, reprs, pickles, numbers, or files that others read.

And: what compares secrets takes the same time whatever they are, and what must be unpredictable comes from the kernel.
"""

from __future__ import annotations

import ast
import base64
import copy
import gc
import io
import json
import logging
import os
import pickle
import re
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

import smolmix_sync
from smolmix_sync import Tunnel, errors
from smolmix_sync.address import base58_encode
from smolmix_sync.config import TunnelConfig
from smolmix_sync.crypto import Secret
from smolmix_sync.daemon import DaemonServer, attach
from smolmix_sync.localnet import LocalNet
from smolmix_sync.mixnet.client import ClientKeys, MixnetCore
from smolmix_sync.mixnet.gateway import GatewayClient
from smolmix_sync.mixnet.gateway.handshake import ClientHandshake
from smolmix_sync.mixnet.settings import TrafficSettings
from smolmix_sync.reactor.identity import ClientIdentity, Registration
from smolmix_sync.reactor.log import printable

PACKAGE = Path(smolmix_sync.__file__).parent

PAYLOAD = b"PAYLOAD-of-a-program-7f3a9c"
MISSING = "nobody-7f3a9c.localnet"
REFUSED = "192.168.77.78"
#: The session goes here; none of it is anybody's business.
DESTINATIONS = ["www.localnet", "echo.localnet", MISSING, REFUSED, "198.51.100.10"]


@lru_cache(maxsize=4096)
def spellings(secret: bytes) -> list[str]:
    """Return the ways in which octets may stand in a text."""
    return [
        repr(secret)[2:-1], repr(bytearray(secret))[12:-2], secret.hex(), secret.hex().upper(), base58_encode(secret),
        base64.b64encode(secret).decode(), ", ".join(map(str, secret)), ",".join(map(str, secret)),
    ]  # fmt: skip


def found(text: str, secrets: dict[str, bytes]) -> list[str]:
    """Return the names of the secrets that a text has."""
    return [name for name, secret in secrets.items() if any(one in text for one in spellings(secret))]


def secrets_of(tunnel: Tunnel) -> dict[str, bytes]:
    """Return every key of a tunnel."""
    mix: Any = tunnel._session.mix
    keys = mix.identity.keys
    secrets = {
        "identity seed": keys.identity_seed,
        "encryption key": keys.encryption_private,
        "ack key": keys.ack_key,
    }
    for number, registration in enumerate(mix.identity.registrations.values()):
        secrets[f"shared key {number}"] = registration.shared_key
    for number, entry in enumerate(list(mix.core._reply_keys._keys.values())[:50]):
        secrets[f"reply key {number}"] = entry.key
    return secrets


class Session:
    """What a full session left behind."""

    def __init__(self) -> None:
        self.log = ""
        self.told = ""
        self.reprs = ""
        self.errors: list[BaseException] = []
        self.secrets: dict[str, bytes] = {}
        self.folder = Path()


def attempt(session: Session, action: Any) -> None:
    try:
        action()
    except OSError as error:
        session.errors.append(error)


def use(tunnel: Tunnel, session: Session, net: LocalNet) -> None:
    """Do everything that a tunnel can do."""
    answer = tunnel.fetch("https://www.localnet/", method="POST", body=PAYLOAD, timeout=30)
    assert answer.status < 600
    with tunnel.tcp_connect(("echo.localnet", 7), timeout=30) as sock:
        sock.sendall(PAYLOAD)
        got = b""
        while len(got) < len(PAYLOAD):
            got += sock.recv(100)
        session.reprs += repr(sock)
    with tunnel.udp_socket() as udp:
        udp.settimeout(10)
        udp.sendto(PAYLOAD, (tunnel.resolve("echo.localnet")[0], 7))
        attempt(session, lambda: udp.recvfrom(1000))
    with tunnel.listen(8077):
        pass
    attempt(session, lambda: tunnel.resolve(MISSING))
    attempt(session, lambda: tunnel.tcp_connect((REFUSED, 80), timeout=5))
    attempt(session, lambda: tunnel.tcp_connect(("198.51.100.10", 1), timeout=5))
    attempt(session, lambda: tunnel.ping("198.51.100.10"))


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    session = Session()
    session.folder = tmp_path_factory.mktemp("home")
    monkeypatch = pytest.MonkeyPatch()
    for name in (
        "HOME",
        "XDG_CACHE_HOME",
        "XDG_DATA_HOME",
        "XDG_STATE_HOME",
        "XDG_CONFIG_HOME",
        "XDG_RUNTIME_DIR",
    ):
        monkeypatch.setenv(name, str(session.folder / name.lower()))
        (session.folder / name.lower()).mkdir(mode=0o700)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s %(args)s %(exc_text)s"))
    root = logging.getLogger()
    level, disabled = root.level, logging.root.manager.disable
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    logging.disable(logging.NOTSET)
    try:
        with LocalNet(set_default=False) as net:
            monkeypatch.setenv("SSL_CERT_FILE", str(net.ca_path))
            progress: list[Any] = []
            settings: dict[str, Any] = {
                **net.client_settings(),
                "client_id": "secrets",
                "warn_plaintext": True,
            }
            with Tunnel(**settings, on_progress=progress.append) as tunnel:
                with tunnel.pcap(session.folder / "capture.pcap"):
                    use(tunnel, session, net)
                session.secrets.update(secrets_of(tunnel))
                before = tunnel.stats().reconnects
                tunnel.reconnect()
                until = time.monotonic() + 20
                while tunnel.stats().reconnects == before and time.monotonic() < until:
                    time.sleep(0.02)
                tunnel.wait_ready(20)
                with DaemonServer(session.folder / "daemon.sock", tunnel):
                    remote = attach(session.folder / "daemon.sock")
                    with remote.create_connection(("echo.localnet", 7), 20) as sock:
                        sock.sendall(PAYLOAD)
                        sock.recv(100)
                    attempt(session, lambda: remote.create_connection((REFUSED, 80), 5))
                    session.told += json.dumps(remote.status())
                    session.socket_mode = (session.folder / "daemon.sock").stat().st_mode  # type: ignore[attr-defined]
                session.secrets.update(secrets_of(tunnel))
                session.told += repr(tunnel.stats()) + repr(progress)
                metrics = pytest.importorskip("prometheus_client")
                from smolmix_sync.ext.metrics import collector_of

                registry = metrics.CollectorRegistry()
                registry.register(collector_of(tunnel))
                session.told += metrics.generate_latest(registry).decode()
                session.reprs += reprs()
            wrong = {**settings, "preferred_gateway": base58_encode(bytes(32)), "client_id": None}
            attempt(session, lambda: Tunnel(**wrong, connect_timeout=5.0).shutdown())
        yield session
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        logging.disable(disabled)
        monkeypatch.undo()
        session.log = stream.getvalue()


def reprs() -> str:
    """Return the reprs of all objects of the package that there are, and of what they hold."""
    parts = []
    for thing in gc.get_objects():
        kind = type(thing)
        if str(getattr(kind, "__module__", "")).startswith("smolmix_sync.") and not isinstance(thing, type):
            try:
                parts.append(f"{kind.__name__} {thing!r}")
            except Exception:
                continue  # a half of an object, seen in the middle of its making
    return "\n".join(parts)


def log_of(session: Session) -> str:
    for handler in logging.getLogger().handlers:
        stream = getattr(handler, "stream", None)
        if isinstance(stream, io.StringIO) and "smolmix_sync" in stream.getvalue():
            return stream.getvalue()
    return session.log


@pytest.mark.interop
@pytest.mark.slow
class TestSession:
    def test_every_logger_at_debug_tells_no_key_payload_or_destination(self, session: Session) -> None:
        text = log_of(session)
        assert "smolmix_sync.tunnel INFO" in text  # it did log
        assert found(text, session.secrets | {"payload": PAYLOAD}) == []
        assert [name for name in DESTINATIONS if name in text] == []

    def test_numbers_and_status_tell_no_key_payload_or_destination(self, session: Session) -> None:
        assert "packets_sent" in session.told
        assert found(session.told, session.secrets | {"payload": PAYLOAD}) == []
        assert [name for name in DESTINATIONS if name in session.told] == []

    def test_repr_of_no_object_has_a_key_or_a_payload(self, session: Session) -> None:
        lines = session.reprs.splitlines()
        assert len(lines) > 200
        assert found(session.reprs, session.secrets | {"payload": PAYLOAD}) == []

    def test_errors_and_their_pickles_and_traces_have_no_key_or_payload(self, session: Session) -> None:
        assert len(session.errors) >= 4
        for error in session.errors:
            told = repr(error) + str(error) + "".join(traceback.format_exception(error))
            told += repr(pickle.loads(pickle.dumps(error)))
            pickled = pickle.dumps(error)
            assert found(told, session.secrets | {"payload": PAYLOAD}) == []
            assert not any(secret in pickled for secret in (*session.secrets.values(), PAYLOAD))

    def test_every_file_that_is_written_is_its_owners_alone(self, session: Session) -> None:
        written = [
            path for path in session.folder.rglob("*") if path.parent != session.folder or path.is_file()
        ]
        names = {path.name for path in written}
        assert {"identity.json", "lock", "capture.pcap"} <= names
        for path in written:
            mode = stat.S_IMODE(path.lstat().st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600), path
        assert stat.S_IMODE(session.socket_mode) == 0o600  # type: ignore[attr-defined]


def objects_with_keys() -> list[Any]:
    keys = ClientKeys.generate(os.urandom)
    identity = ClientIdentity(keys)
    client = GatewayClient(keys.identity_seed, bytes(32), urandom=os.urandom, shared_key=bytes(range(32)))
    return [
        keys, identity, client, Registration(bytes(range(32))),
        MixnetCore(keys, bytes(32), config=TrafficSettings(), urandom=os.urandom),
        ClientHandshake(keys.identity_seed, bytes(32), os.urandom),
    ]  # fmt: skip


@pytest.mark.parametrize("thing", objects_with_keys(), ids=lambda thing: type(thing).__name__)
def test_what_holds_keys_is_not_pickled_or_copied(thing: Any) -> None:
    assert isinstance(thing, Secret)
    for action in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="holds keys"):
            action(thing)


def test_fields_named_as_keys_are_in_no_repr() -> None:
    """Every dataclass field whose name says that it is a secret is left out of the repr."""
    secret = re.compile(
        r"^(identity_seed|encryption_private|ack_key|shared_key|private|private_key|_?private|encryption_key|payload_keys?"
        r"|passphrase|password|token|key|reply_surb|enc_credential|seed|nonce_key|storage_passphrase)$"
    )
    bad = []
    for path, tree in trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ClassDef) or "dataclass" not in "".join(
                map(ast.dump, node.decorator_list)
            ):
                continue
            own_repr = any(isinstance(one, ast.FunctionDef) and one.name == "__repr__" for one in node.body)
            for item in node.body:
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    hidden = item.value is not None and "repr" in ast.dump(item.value)
                    if secret.match(item.target.id) and not hidden and not own_repr:
                        bad.append(f"{path}: {node.name}.{item.target.id}")
    # The setting is made by a function that hides it.
    assert bad == ["config.py: TunnelConfig.storage_passphrase"]
    assert "hunter2" not in repr(TunnelConfig(storage_passphrase="hunter2"))


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "WireError"])
def test_errors_travel_between_processes(name: str) -> None:
    kind = getattr(errors, name)
    if isinstance(kind, type) and issubclass(kind, Exception):
        again = pickle.loads(pickle.dumps(kind("words")))
        assert type(again) is kind
        assert "words" in str(again)


def test_words_of_strangers_are_one_short_line() -> None:
    told = printable("\x1b]0;owned\x07\r\nERROR forged line\u202e" + "x" * 10_000)
    assert told.isprintable()
    assert len(told) < 400


# --- the source ---


@lru_cache(maxsize=1)
def trees() -> list[tuple[str, ast.Module]]:
    paths = sorted(PACKAGE.rglob("*.py"))
    return [(str(path.relative_to(PACKAGE)), ast.parse(path.read_text())) for path in paths]


#: Comparisons of what sounds like a secret and is none.
NOT_SECRET = {
    ("mixnet/gateway/handshake.py", "data"): "a constant",
    ("mixnet/reply_controller.py", "key_rotation"): "a number of the network",
}
_SECRETS = re.compile(
    r"(^|_)(mac|hmac|gamma|digest|signature|password|passphrase|secret|token|shared_key|accept_key|checksum_key)$"
)


def named(node: ast.expr) -> str:
    """Return the last name of an expression: of a call that of the function."""
    while isinstance(node, ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def test_secrets_are_compared_in_constant_time() -> None:
    bad = []
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare) and any(isinstance(one, ast.Eq | ast.NotEq) for one in node.ops):
                sides = [node.left, *node.comparators]
                if any(isinstance(side, ast.Constant) for side in sides):
                    continue  # "is it empty", "is it of this kind"
                for side in sides:
                    if _SECRETS.search(named(side)) and (path, named(side)) not in NOT_SECRET:
                        bad.append(f"{path}:{node.lineno} {ast.unparse(node)}")
    assert bad == []


@pytest.mark.parametrize(
    "path", ["crypto.py", "reactor/wsupgrade.py", "fronts/socks5.py", "fronts/httpproxy.py"]
)
def test_comparison_of_secrets_is_that_of_hmac(path: str) -> None:
    assert "hmac.compare_digest(" in (PACKAGE / path).read_text()


def test_header_macs_are_compared_by_it() -> None:
    tree = ast.parse((PACKAGE / "crypto.py").read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    [name] = [one.name for one in functions if "compare_digest" in ast.unparse(one)]
    assert f"{name}(" in (PACKAGE / "mixnet" / "sphinx" / "unwrap.py").read_text()


#: Who may use another source of chance than os.urandom, and why.
ALLOWED_CHANCE = {
    "localnet/exit.py": "loses packets on purpose, as it is told",
    "localnet/sphinxnode.py": "loses packets on purpose, as it is told",
}


def test_randomness_is_the_kernels() -> None:
    bad = []
    for path, tree in trees():
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                if (
                    name.split(".")[0] in ("random", "secrets", "uuid", "numpy")
                    and path not in ALLOWED_CHANCE
                ):
                    bad.append(f"{path}: {name}")
    assert bad == []
    for path in ALLOWED_CHANCE:
        assert "import random" in (PACKAGE / path).read_text()


def test_cores_are_given_the_kernels_randomness() -> None:
    """Whoever hands a source of randomness to a core hands os.urandom, or what it was handed itself."""
    bad = []
    for path, tree in trees():
        if path.startswith("localnet/"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                for keyword in node.keywords:
                    if keyword.arg == "urandom" and ast.unparse(keyword.value) not in (
                        "os.urandom", "urandom", "self._urandom", "self.urandom",
                    ):  # fmt: skip
                        bad.append(f"{path}:{node.lineno} {ast.unparse(keyword.value)}")
    assert bad == []


# --- memory ---

DUMPS = """
import ctypes, resource
from smolmix_sync.cli.daemon import _keep_out_of_dumps
_keep_out_of_dumps()
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))
"""


def test_daemon_is_in_no_core_dump() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DUMPS], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "0 (0, 0)\n"
    assert (
        "_keep_out_of_dumps()\n        tunnel = open_tunnel(" in (PACKAGE / "cli" / "daemon.py").read_text()
    )
