"""Programs that know nothing of the package, through its fronts: git over HTTPS, OpenSSH, Chromium."""

from __future__ import annotations

import base64
import hashlib
import http.server
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from smolmix_sync.fronts import HttpProxy, SocksServer
from smolmix_sync.localnet import LocalNet
from smolmix_sync.localnet.ca import CertificateAuthority
from smolmix_sync.localnet.tls import server_context
from smolmix_sync.tunnel import Tunnel

pytestmark = [pytest.mark.interop, pytest.mark.slow]


def needs(*programs: str) -> pytest.MarkDecorator:
    path = os.environ.get("PATH", "") + ":/usr/sbin"
    missing = [name for name in programs if shutil.which(name, path=path) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def run(*command: str, timeout: float = 90, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return subprocess.run(
        command, env={**kept, **environment}, capture_output=True, text=True, timeout=timeout, check=False
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@dataclass
class World:
    """The embedded network with two services of this test behind it, and the two fronts."""

    net: LocalNet
    socks: SocksServer
    http: HttpProxy
    git_port: int
    ssh_port: int


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    git_port, ssh_port = free_port(), free_port()
    allow = {"git.localnet:443": git_port, "ssh.localnet:22": ssh_port}
    with (
        LocalNet(set_default=False, allow=allow) as net,
        Tunnel(**net.client_settings()) as tunnel,
        SocksServer(tunnel=tunnel) as socks,
        HttpProxy(tunnel=tunnel) as proxy,
    ):
        yield World(net, socks, proxy, git_port, ssh_port)


# --- git ----------------------------------------------------------------------------------------


class _GitHandler(http.server.BaseHTTPRequestHandler):
    """Git's own server behind HTTPS, as a web server runs it. Source: git-http-backend(1), RFC 3875."""

    root: Path
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._run(b"")

    def do_POST(self) -> None:
        self._run(self._body())

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _run(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        environment = {
            "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(self.root), "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": self.command, "REMOTE_USER": "tester",
            "CONTENT_TYPE": self.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""), "REMOTE_ADDR": "127.0.0.1",
        }  # fmt: skip
        done = subprocess.run(
            ["git", "http-backend"], input=body, env=environment, capture_output=True, timeout=60, check=False
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def git_server(world: World, tmp_path: Path) -> Iterator[Path]:
    """Serve a repository at https://git.localnet/project.git; the authority's file is returned."""
    project = tmp_path / "served" / "project.git"
    assert run("git", "init", "-q", "--bare", "-b", "main", str(project)).returncode == 0
    assert run("git", "-C", str(project), "config", "http.receivepack", "true").returncode == 0
    authority = CertificateAuthority()
    ca_file = tmp_path / "git-ca.pem"
    ca_file.write_text(authority.pem)
    handler = type("Handler", (_GitHandler,), {"root": project.parent})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", world.git_port), handler)
    server.daemon_threads, server.block_on_close = True, False
    context = server_context(authority.issue(["git.localnet"]))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield ca_file
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@needs("git")
@pytest.mark.parametrize("front", ["socks", "http"])
def test_git_clones_and_pushes_over_https(world: World, git_server: Path, tmp_path: Path, front: str) -> None:
    proxy = {
        "socks": f"socks5h://127.0.0.1:{world.socks.port}",
        "http": f"http://127.0.0.1:{world.http.port}",
    }[front]
    environment = {
        "HOME": str(tmp_path), "GIT_SSL_CAINFO": str(git_server), "https_proxy": proxy, "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1", "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.org",
        "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@example.org",
    }  # fmt: skip
    url = "https://git.localnet/project.git"

    def git(folder: Path, *words: str) -> str:
        done = run("git", "-C", str(folder), *words, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    git(tmp_path, "clone", "-q", url, "one")
    (tmp_path / "one" / "file").write_bytes(os.urandom(60_000))
    git(tmp_path / "one", "add", "file")
    git(tmp_path / "one", "commit", "-q", "-m", "a file")
    git(tmp_path / "one", "push", "-q", "origin", "HEAD:main")
    git(tmp_path, "clone", "-q", "-b", "main", url, "two")
    assert (tmp_path / "two" / "file").read_bytes() == (tmp_path / "one" / "file").read_bytes()


# --- OpenSSH ------------------------------------------------------------------------------------


@pytest.fixture
def ssh(world: World, tmp_path: Path) -> Iterator[list[str]]:
    """Run sshd as ssh.localnet; returns the client's command up to its ProxyCommand."""
    tmp_path.chmod(0o700)
    for name in ("host", "user"):
        assert run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)).returncode == 0
    (tmp_path / "authorized").write_text((tmp_path / "user.pub").read_text())
    (tmp_path / "known").write_text(f"ssh.localnet {(tmp_path / 'host.pub').read_text()}")
    (tmp_path / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{world.ssh_port}\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/authorized\n"
        f"PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin yes\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    sshd = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin") or "sshd"
    server = subprocess.Popen(
        [sshd, "-D", "-e", "-f", str(tmp_path / "sshd_config")], stderr=subprocess.DEVNULL
    )
    try:
        yield [
            "ssh", "-F", "none", "-T", "-i", str(tmp_path / "user"), "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes",
            "-o", f"UserKnownHostsFile={tmp_path}/known", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=60",
        ]  # fmt: skip
    finally:
        server.terminate()
        server.wait(10)


@needs("ssh", "ssh-keygen", "sshd", "nc")
def test_openssh_by_nc_and_the_socks_front(world: World, ssh: list[str]) -> None:
    proxy = f"nc -X 5 -x 127.0.0.1:{world.socks.port} %h %p"
    done = run(
        *ssh, "-o", f"ProxyCommand={proxy}", "ssh.localnet", "echo it works; seq 20000", HOME="/nonexistent"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "it works"
    assert done.stdout.splitlines()[-1] == "20000"


@needs("ssh", "ssh-keygen", "sshd")
def test_openssh_by_our_own_nc(world: World, ssh: list[str]) -> None:
    proxy = f"{sys.executable} -m smolmix_sync nc %h %p"
    done = run(
        *ssh,
        "-o",
        f"ProxyCommand={proxy}",
        "ssh.localnet",
        "exit 7",
        HOME="/nonexistent",
        **world.net.environment(),
    )
    assert done.returncode == 7, done.stderr


# --- Chromium -----------------------------------------------------------------------------------


def _key_of(world: World) -> str:
    """Return the hash of the web server's key, by which Chromium is told to take its certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(world.net.ca_path)
    with socket.create_connection(("127.0.0.1", world.net.services["https"]), 10) as sock:
        with context.wrap_socket(sock, server_hostname="www.localnet") as tls:
            certificate = x509.load_der_x509_certificate(tls.getpeercert(True) or b"")
    key = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return base64.b64encode(hashlib.sha256(key).digest()).decode()


@needs("chromium")
@pytest.mark.parametrize("front", ["socks", "http"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_chromium_loads_a_page(world: World, tmp_path: Path, front: str, scheme: str) -> None:
    port = {"socks": world.socks.port, "http": world.http.port}[front]
    kind = {"socks": "socks5", "http": "http"}[front]
    done = run(
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        f"--user-data-dir={tmp_path}", f"--proxy-server={kind}://127.0.0.1:{port}",
        f"--ignore-certificate-errors-spki-list={_key_of(world)}", "--dump-dom", f"{scheme}://www.localnet/",
        HOME=str(tmp_path),
    )  # fmt: skip
    assert "Hello from www.localnet, behind the exit." in done.stdout, done.stderr[-2000:]
    assert f"GET / {scheme}" in done.stdout
    assert "Chrome/" in done.stdout
