"""Chromium, headless, driven by the DevTools protocol; and the packages of the browser client, by npm.

The browser knows two names, both of the localnet under test, and resolves no others: see `Browser`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import websocket

__all__ = ["NYM_API_HOST", "Browser", "Page", "PeerError", "install", "missing", "version"]

HERE = Path(__file__).parent
#: The directory that the client's packages ask, whatever the options.
NYM_API_HOST = "validator.nymtech.net"
_START_TIMEOUT = 60.0
Told = dict[str, Any]


class PeerError(RuntimeError):
    """The browser did not do what it was told to."""


def missing() -> str | None:
    """Return what this machine lacks to run the browser client, or None."""
    for program, why in (
        ("chromium", "the client's browser"),
        ("npm", "the source of the client's packages"),
    ):
        if shutil.which(program) is None:
            return f"{program} is not installed: {why}"
    return None


def version(package: str) -> str:
    """Return the version of one of the client's packages, ``mix-tunnel`` for example."""
    lock = json.loads((HERE / "package-lock.json").read_text())
    return str(lock["packages"][f"node_modules/@nymproject/{package}"]["version"])


def install() -> Path:
    """Return the folder with ``node_modules``; npm fills it once for each content of the lock file.

    The lock file has the packages' digests, so what runs is what its authors published.
    """
    digest = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "smolmix-sync-tests" / f"browser-{digest}"
    complete = folder / "complete"
    if not complete.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(HERE / name, folder / name)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, check=True, timeout=300)
        complete.touch()
    return folder


class _PageServer:
    """Serves the page and the packages on loopback: a secure context for the browser."""

    def __init__(self, packages: Path) -> None:
        handler = functools.partial(_Handler, packages)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1})
        self._thread.start()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(5)
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, packages: Path, *arguments: Any) -> None:
        self._packages = packages
        super().__init__(*arguments)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/":
            self._answer(200, "text/html; charset=utf-8", (HERE / "page.html").read_bytes())
        elif path.startswith("/node_modules/@nymproject/") and path.endswith(".js") and ".." not in path:
            self._answer(200, "text/javascript", (self._packages / path.lstrip("/")).read_bytes())
        else:
            self._answer(404, "text/plain", b"")

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


class Browser:
    """A headless Chromium with a profile of its own, as a context manager.

    Args:
        packages: what `install` returned.
        nym_api: loopback port that answers as the directory's host.
        hostname: of the gateways' wss listeners, which are on loopback.
    """

    def __init__(self, packages: Path, nym_api: int, hostname: str) -> None:
        self._rules = (
            f"MAP {NYM_API_HOST}:443 127.0.0.1:{nym_api}, MAP {hostname} 127.0.0.1, "
            "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        )
        self._packages = packages
        self._number = 0
        self._messages: list[Told] = []

    def __enter__(self) -> Browser:
        self._stack = contextlib.ExitStack()
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self) -> None:
        server = _PageServer(self._packages)
        self._stack.callback(server.close)
        self.origin = server.origin
        profile = self._stack.enter_context(
            tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        )
        command = [
            "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-default-apps", "--disable-extensions", "--mute-audio", "--password-store=basic",
            f"--user-data-dir={profile}", "--remote-debugging-port=0", "--ignore-certificate-errors",
            f"--host-resolver-rules={self._rules}", "about:blank",
        ]  # fmt: skip
        log = self._stack.enter_context((Path(profile) / "stderr.log").open("wb"))
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        self._stack.callback(_end, process)
        self._socket = websocket.create_connection(
            _devtools_url(Path(profile), process),
            timeout=10,
            suppress_origin=True,
            http_no_proxy=["127.0.0.1"],
        )
        self._stack.callback(self._socket.close)

    def call(self, method: str, session: str | None = None, timeout: float = 20, **parameters: Any) -> Told:
        """Send one command and return its result.

        Raises:
            PeerError: it was refused, or not answered in time.
        """
        self._number += 1
        message: Told = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        self._socket.send(json.dumps(message))
        deadline = time.monotonic() + timeout
        while True:
            answer = self._receive(deadline, method)
            if answer.get("id") != self._number:
                continue
            if "error" in answer:
                raise PeerError(f"{method}: {answer['error']}")
            result: Told = answer["result"]
            return result

    def _receive(self, deadline: float, waiting_for: str) -> Told:
        self._socket.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            message: Told = json.loads(self._socket.recv())
        except websocket.WebSocketTimeoutException:
            raise PeerError(f"{waiting_for}: no answer in time") from None
        if message.get("method") == "Runtime.consoleAPICalled":
            arguments = message["params"]["args"]
            print("console:", *(argument.get("value", argument.get("description")) for argument in arguments))
        return message

    def page(self) -> Page:
        """Open the page in a browser context of its own, with nothing stored; close it with the block."""
        return Page(self, self.call("Target.createBrowserContext")["browserContextId"])


class Page:
    """One copy of the page. A context's storage lasts until its last page is closed."""

    def __init__(self, browser: Browser, context: str) -> None:
        self._browser, self._context = browser, context
        self._open()

    def _open(self) -> None:
        browser = self._browser
        target = browser.call(
            "Target.createTarget", url=f"{browser.origin}/", browserContextId=self._context, timeout=60
        )
        self._target = target["targetId"]
        attached = browser.call("Target.attachToTarget", targetId=self._target, flatten=True)
        self._session: str = attached["sessionId"]
        browser.call("Runtime.enable", self._session)
        deadline = time.monotonic() + _START_TIMEOUT
        while self.evaluate("document.title") != "loaded":
            if time.monotonic() > deadline:
                raise PeerError("the page did not load the client's packages")
            time.sleep(0.05)

    def reload(self) -> None:
        """Replace the page by a new one that finds what the old one stored."""
        old = self._target
        self._open()
        self._browser.call("Target.closeTarget", targetId=old)

    def evaluate(self, expression: str, timeout: float = 60) -> Any:
        """Return the value of an expression, awaited if it is a promise."""
        result = self._browser.call(
            "Runtime.evaluate", self._session, timeout,
            expression=expression, awaitPromise=True, returnByValue=True,
        )  # fmt: skip
        if "exceptionDetails" in result:
            raise PeerError(json.dumps(result["exceptionDetails"]))
        return result["result"].get("value")

    def ask(self, step: str, *arguments: Any, timeout: float = 60) -> Told:
        """Run one of the page's steps; ``error`` in its answer is what the client said."""
        call = f"peer.{step}({', '.join(json.dumps(argument) for argument in arguments)})"
        told: Told = self.evaluate(call, timeout)
        print(call, {key: value for key, value in told.items() if key != "text"})
        return told

    def __enter__(self) -> Page:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(PeerError, OSError, websocket.WebSocketException):
            self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)


def _devtools_url(profile: Path, process: subprocess.Popen[bytes]) -> str:
    """Wait for the file in which Chromium says where it listens."""
    path = profile / "DevToolsActivePort"
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline:
        lines = path.read_text().split() if path.exists() else []
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        if process.poll() is not None:
            raise PeerError(f"chromium ended: {(profile / 'stderr.log').read_text()[-2000:]}")
        time.sleep(0.05)
    raise PeerError("chromium did not start")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the browser and what it started, which are a process group."""
    for number, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
