"""Celery workers over the tunnel: ``install(app)`` beside the app, and tasks' sockets go through the mixnet.

Only workers are patched, when they start; the program that sends tasks is not. The broker and the result backend
stay direct. The tunnel is never started before Celery's forks, but in ``mode="parent"``.

======== ================================================= ==========================================
mode     tunnel                                            for
======== ================================================= ==========================================
daemon   one for the host, in a process of its own         prefork, several workers on one host
own      one for each process, each with its own identity  threads, gevent, solo; a few prefork children
parent   one for each worker, in the prefork parent        prefork without another process
======== ================================================= ==========================================

Time limits and revokes interrupt blocked sockets as they do with the kernel's. A child that is killed (hard time limit,
SIGKILL) leaves its connections to be reset; the daemon sees to that.

Source: design.md decisions 11a, 15a and 16; spec/sockets.md section 15.
"""

from __future__ import annotations

import contextlib
import importlib
import ipaddress
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import smolmix_sync
from smolmix_sync.daemon import AttachedTunnel, DaemonServer, attach, default_path
from smolmix_sync.daemon.launch import answers, ensure_daemon, hold
from smolmix_sync.errors import SmolmixError, TunnelError
from smolmix_sync.tunnel import set_isolation_key

__all__ = ["RETRY_FOR", "Installed", "install"]

_LOG = logging.getLogger("smolmix_sync.celery")

Mode = Literal["daemon", "own", "parent"]

#: Ours: seconds for what closed sockets have still to send when a process with a tunnel of its own ends.
_FLUSH = 10.0
#: Ours: seconds that a task waits for a daemon that has to be started again.
_RESTART = 30.0

#: Libraries whose exceptions hide ours: module and classes, taken only if the library is loaded.
_WRAPPERS = {
    "requests.exceptions": ("ConnectionError", "Timeout", "ChunkedEncodingError"),
    "urllib3.exceptions": ("ProtocolError", "NewConnectionError", "TimeoutError", "MaxRetryError"),
    "httpx": ("TransportError",),
    "urllib.error": ("URLError",),
    "http.client": ("IncompleteRead", "RemoteDisconnected"),
}


def retry_for() -> tuple[type[Exception], ...]:
    """Return the exceptions after which a task over the tunnel is worth another try.

    Those of the tunnel, of connections, names and time-outs, and what the HTTP libraries installed here make of
    them. For ``autoretry_for``; :data:`RETRY_FOR` is the same as a name.
    """
    found: list[type[Exception]] = [TunnelError, ConnectionError, TimeoutError, socket.gaierror]
    for module, names in _WRAPPERS.items():
        try:
            loaded = importlib.import_module(module)
        except ImportError:
            continue
        found += [getattr(loaded, name) for name in names if hasattr(loaded, name)]
    return tuple(found)


def __getattr__(name: str) -> Any:
    if name == "RETRY_FOR":
        return retry_for()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


RETRY_FOR: tuple[type[Exception], ...]


class _Choice:
    """The tunnel that sockets of a worker use; which one is settled when the worker starts."""

    def __init__(self) -> None:
        self.attached: AttachedTunnel | None = None

    def _port(self) -> Any:
        return self.attached or importlib.import_module("smolmix_sync.tunnel").current()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._port(), name)  # what fetch and the adapters ask of a tunnel

    @property
    def device(self) -> Any:
        """What sockets are bound to."""
        return self._port().device

    def wait_ready(self, timeout: float | None = None, *, fail_fast: bool = False) -> None:
        """Block until the tunnel is READY."""
        self._port().wait_ready(timeout, fail_fast=fail_fast)


class Installed:
    """What :func:`install` has set up for an app.

    Attributes:
        mode: the mode asked for.
        patch: the patch of this process, None where no worker runs.
    """

    def __init__(
        self,
        app: Any,
        mode: Mode,
        *,
        path: Path,
        isolate: str | None,
        direct: tuple[str, ...],
        resolve_broker: bool,
        start_timeout: float,
        daemon_arguments: tuple[str, ...],
        options: dict[str, Any],
    ) -> None:
        self.app = app
        self.mode = mode
        self.patch: smolmix_sync.Patch | None = None
        self._path = path
        self._isolate = isolate
        self._direct = direct
        self._resolve_broker = resolve_broker
        self._start_timeout = start_timeout
        self._daemon_arguments = daemon_arguments
        self._options = options
        self._choice = _Choice()
        self._pid = 0
        self._pool = ""
        self._held: Any = None
        self._server: DaemonServer | None = None
        self._tunnel: smolmix_sync.Tunnel | None = None
        self._folder: str | None = None

    # --- signals of Celery ---

    def connect_signals(self) -> None:
        """Be told of the worker's life."""
        from celery import signals

        for name, receiver in (
            ("worker_init", self._on_worker_init),
            ("worker_process_init", self._on_process_init),
            ("worker_process_shutdown", self._on_process_shutdown),
            ("worker_shutdown", self._on_shutdown),
            ("task_prerun", self._on_task),
            ("task_postrun", self._on_task_end),
        ):
            getattr(signals, name).connect(
                receiver, weak=False, dispatch_uid=f"smolmix_sync.{name}.{id(self)}"
            )

    def _on_worker_init(self, sender: Any = None, **_: Any) -> None:
        if getattr(sender, "app", self.app) is not self.app:
            return
        try:
            self.start(getattr(sender, "pool_cls", None))
        except (Exception, SystemExit) as problem:
            # Celery logs what a receiver raises and goes on, which would be a worker outside the tunnel.
            raise SystemExit(f"smolmix_sync: the worker is not started: {problem}") from problem

    def start(self, pool: Any) -> None:
        """Patch this process and settle its tunnel, for a worker with *pool* (a class or a name).

        Raises:
            ValueError: the pool, or where the broker is, cannot be combined with the tunnel.
        """
        self._pool = _pool_name(pool)
        if self._pool == "eventlet":
            raise ValueError("eventlet's pool is not supported: use -P gevent or -P threads")
        self._pid = os.getpid()
        direct = [*self._direct, *self._broker_addresses()]
        self.patch = smolmix_sync.patch_all(
            # Workers start children with tunnels of their own, and a daemon: no filter unless asked for.
            tunnel=self._choice,
            direct=("loopback", *direct),
            **{"strict": False, **self._options},
        )
        mode: Mode = self.mode
        if mode == "parent" and self._pool != "prefork":
            mode = "own"  # the worker's only process is the parent
        if mode == "daemon":
            self._choice.attached = attach(self._path)
            self._start_daemon(self._start_timeout)
        elif mode == "parent":
            self._serve_children()
        elif self._pool != "prefork":
            smolmix_sync.connect(wait=False)
        else:
            # What a child needs is loaded before the fork; it reports to Celery within 4 seconds.
            importlib.import_module("smolmix_sync.tunnel")
        _LOG.info("tasks go through the tunnel: mode %s, pool %s", mode, self._pool)

    def _start_daemon(self, timeout: float) -> None:
        try:
            ensure_daemon(self._path, timeout=timeout, arguments=self._daemon_arguments)
        except SmolmixError as problem:
            # Nothing leaks: tasks get ENETDOWN until there is a tunnel, and each of them looks again.
            _LOG.error("no daemon: %s", problem)
        with contextlib.suppress(OSError):
            held, self._held = self._held, hold(self._path)
            if held is not None:
                held.close()  # what it held is gone

    def _serve_children(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="smolmix-celery-")
        path = Path(self._folder, "tunnel.sock")
        self._tunnel = smolmix_sync.Tunnel(wait=False)
        self._server = DaemonServer(path, self._tunnel).start()
        self._choice.attached = attach(path)

    def _on_process_init(self, **_: Any) -> None:
        if os.getpid() == self._pid or not self._pid:
            return
        held, self._held = self._held, None
        if held is not None:
            held.close()  # the parent's: it must end with the parent
        if self.mode == "own":
            smolmix_sync.connect(wait=False)

    def _on_process_shutdown(self, **_: Any) -> None:
        # Children end by os._exit: nothing else gives their data its time. The daemon's has it anyway.
        if self.mode == "own" and self._pid and os.getpid() != self._pid:
            smolmix_sync.disconnect(_FLUSH)

    def _on_shutdown(self, **_: Any) -> None:
        if os.getpid() != self._pid:
            return
        held, self._held = self._held, None
        if held is not None:
            held.close()
        server, self._server = self._server, None
        tunnel, self._tunnel = self._tunnel, None
        if server is not None and tunnel is not None:
            tunnel.device.flush(_FLUSH)
            server.stop()
            tunnel.shutdown(1.0)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._choice.attached is None:
            smolmix_sync.disconnect(_FLUSH)

    def _on_task(self, task_id: str = "", **_: Any) -> None:
        if self._isolate == "task":
            set_isolation_key(task_id)
        if self._choice.attached is None:
            return
        if self.mode == "daemon" and not answers(self._path):
            _LOG.warning("the daemon is gone: starting another")
            self._start_daemon(_RESTART)

    def _on_task_end(self, **_: Any) -> None:
        set_isolation_key("")

    # --- what stays direct ---

    def _broker_addresses(self) -> list[str]:
        """Return the broker's and the result backend's addresses as patch_all's ``direct`` takes them.

        Raises:
            ValueError: one of them is known by a name only.
        """
        from kombu.utils.url import parse_url

        conf = self.app.conf
        found: list[str] = []
        for setting in ("broker_url", "broker_read_url", "broker_write_url", "result_backend"):
            value = conf.get(setting)
            urls = value.split(";") if isinstance(value, str) else list(value or ())
            for at, url in enumerate(urls):
                if (
                    "://" not in url
                    or "+socket:" in url
                    or url.startswith(("memory:", "filesystem:", "sqla+", "db+sqlite"))
                ):
                    continue
                parts = parse_url(url)
                host, port = parts.get("hostname"), parts.get("port")
                if not host or host == "localhost":
                    continue
                address = self._address(setting, host)
                if address != host:
                    urls[at] = (
                        url.replace(f"{host}", address, 1)
                        if "@" not in url
                        else _replace_host(url, host, address)
                    )
                    conf[setting] = ";".join(urls)
                text = f"[{address}]" if ":" in address else address
                found.append(f"{text}:{port or _PORTS.get(str(parts.get('transport')), 0)}")
        return [one for one in found if not _is_loopback(one)]

    def _address(self, setting: str, host: str) -> str:
        try:
            return str(ipaddress.ip_address(host))
        except ValueError:
            pass
        if not self._resolve_broker:
            raise ValueError(
                f"{setting}: {host} is a name, and names are asked in the tunnel. Give its address, or say "
                "install(..., resolve_broker=True) to have the system's resolver asked when the worker starts"
            )
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])


_PORTS = {"redis": 6379, "rediss": 6379, "amqp": 5672, "pyamqp": 5672, "amqps": 5671, "sentinel": 26379}


def _replace_host(url: str, host: str, address: str) -> str:
    head, at, tail = url.rpartition("@")
    return head + at + tail.replace(host, f"[{address}]" if ":" in address else address, 1)


def _is_loopback(entry: str) -> bool:
    host = entry.rpartition(":")[0].strip("[]")
    return ipaddress.ip_address(host).is_loopback


def _pool_name(pool: Any) -> str:
    """Return prefork, threads, gevent, solo or eventlet for a pool class or name."""
    text = pool if isinstance(pool, str) else getattr(pool, "__module__", "prefork")
    word = str(text).rpartition(".")[2].partition(":")[0]
    return {"thread": "threads", "processes": "prefork", "None": "prefork"}.get(word, word)


def install(
    app: Any,
    mode: Mode = "daemon",
    *,
    path: str | os.PathLike[str] | None = None,
    isolate: Literal["task"] | None = None,
    direct: Iterable[str] = (),
    resolve_broker: bool = False,
    start_timeout: float = 60.0,
    daemon_arguments: Sequence[str] = (),
    **options: Any,
) -> Installed:
    """Send the traffic of *app*'s tasks through the tunnel, in every worker of the app.

    Call it where the app is made. Nothing happens in processes that are not workers.

    Args:
        app: the Celery app.
        mode: where the tunnel is: "daemon" (started when none answers), "own" or "parent".
        path: of the daemon's socket; None is ``SMOLMIX_DAEMON`` or the user's default.
        isolate: "task" gives every task a Nym identity of its own from a bounded pool; setting
            one up takes seconds.
        direct: further networks that stay outside the tunnel, as for ``patch_all``. Broker and result backend are
            added by themselves.
        resolve_broker: ask the system's resolver, in clear, for a broker or backend given by name.
        start_timeout: seconds that a starting worker waits for the daemon's tunnel. Without it the worker starts
            all the same, and its tasks fail with ENETDOWN.
        daemon_arguments: arguments of ``smolmix-sync daemon``, should it be started.
        options: for ``patch_all``; ``strict`` is False unless given.

    Returns:
        The installation.

    Raises:
        ValueError: the arguments do not fit together.
    """
    if mode not in ("daemon", "own", "parent"):
        raise ValueError(f"mode: {mode!r} is not 'daemon', 'own' or 'parent'")
    if isolate not in (None, "task"):
        raise ValueError(f"isolate: {isolate!r} is not None or 'task'")
    installed = Installed(
        app,
        mode,
        path=Path(path) if path is not None else default_path(),
        isolate=isolate,
        direct=(direct,) if isinstance(direct, str) else tuple(direct),
        resolve_broker=resolve_broker,
        start_timeout=start_timeout,
        daemon_arguments=tuple(daemon_arguments),
        options=options,
    )
    installed.connect_signals()
    return installed
