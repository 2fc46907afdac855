"""The tunnel a program holds: start, connect, state, stats, shutdown; and the one of the process.

Nothing here runs protocol code: a :class:`Tunnel` posts to the reactor and waits on descriptors of its
own, so that it blocks a thread under threads and only a greenlet under gevent.

Source: design.md sections 6 and 8a; spec/sockets.md section 14 for fork.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from smolmix_sync._tunnel_builder import TunnelBuilder
from smolmix_sync._tunnel_facts import TunnelFacts
from smolmix_sync._tunnel_traffic import TunnelTraffic, parse_address
from smolmix_sync.address import Recipient
from smolmix_sync.config import TunnelConfig
from smolmix_sync.errors import SmolmixError, TunnelClosed, TunnelFailed, TunnelNotReady
from smolmix_sync.reactor import _originals, provider
from smolmix_sync.reactor.isolation import TunnelPool, isolate, set_isolation_key
from smolmix_sync.reactor.log import set_debug
from smolmix_sync.reactor.loop import ReactorLoop, shared_loop
from smolmix_sync.reactor.report import Progress, TunnelState, TunnelStats
from smolmix_sync.reactor.session import IpPair, TunnelSession
from smolmix_sync.reactor.signals import Signal
from smolmix_sync.reactor.tap import PcapWriter

if TYPE_CHECKING:
    from smolmix_sync.client import IpMixStream, MixnetClient
    from smolmix_sync.reactor.device import Device

__all__ = [
    "IpPair",
    "Progress",
    "Tunnel",
    "TunnelBuilder",
    "TunnelState",
    "TunnelStats",
    "carrier",
    "connect",
    "current",
    "disconnect",
    "get_tunnel",
    "get_tunnel_state",
    "isolate",
    "mix_dns",
    "mix_resolve",
    "parse_address",
    "resolve",
    "set_debug",
    "set_isolation_key",
    "setup_mix_tunnel",
]

_LOG = logging.getLogger("smolmix_sync.tunnel")
_T = TypeVar("_T")


class Tunnel(TunnelFacts, TunnelTraffic):
    """A tunnel through the mixnet to one exit; a context manager that shuts it down.

    Every method may be called from any thread and from gevent greenlets. In a forked child every use
    raises ENETDOWN: the tunnel is the parent's.

    Args:
        config: complete settings; None merges :meth:`TunnelConfig.load` with *options*.
        wait: block until READY, at most ``connect_timeout``; False returns at once.
        on_progress: called with every :class:`Progress`, in a thread of the package.
        on_state: called with (state, reason) after every change, likewise.
        options: single settings, by field name.

    Raises:
        SmolmixError: (with *wait*) what failed, by stage: ``TopologyError``, ``GatewayError``,
            ``IprError``, ``SetupTimeout``.
    """

    def __init__(
        self,
        config: TunnelConfig | None = None,
        *,
        wait: bool = True,
        on_progress: Callable[[Progress], object] | None = None,
        on_state: Callable[[TunnelState, str], object] | None = None,
        **options: Any,
    ) -> None:
        if config is None:
            config = TunnelConfig.load(**options)
        elif options:
            config = config.replace(**options)
        self._begin(config, on_progress, on_state)
        self._start(wait)

    def _begin(
        self,
        config: TunnelConfig,
        on_progress: Callable[[Progress], object] | None = None,
        on_state: Callable[[TunnelState, str], object] | None = None,
        loop: ReactorLoop | None = None,
        **parts: Any,
    ) -> None:
        self._config = config
        self._pid = os.getpid()
        self._loop = loop or shared_loop()
        self._progress_callbacks = [on_progress] if on_progress else []
        self._state_callbacks = [on_state] if on_state else []
        self._changed = Signal()
        self._lender: MixnetClient | None = None
        self._lender_ends = False
        self._isolated: TunnelPool[Tunnel] | None = None
        self._parts = parts
        self._captures: list[PcapWriter] = []
        self._session = self._new_session()
        _tunnels.append(self)
        if config.debug:
            set_debug()
        if config.pcap is not None:
            self.pcap(config.pcap)

    def _new_session(self) -> TunnelSession:
        return self._loop.call(self._make_session)

    def _make_session(self) -> TunnelSession:
        session = TunnelSession(
            self._loop, self._config, on_state=self._on_state, on_progress=self._on_progress, **self._parts
        )
        session.tap.writers = self._captures
        return session

    def _start(self, wait: bool) -> None:
        self._loop.post(self._session.start)
        if not wait:
            return
        try:
            self.wait_ready(self._config.connect_timeout + 5.0)
        except BaseException:
            self.shutdown(0.5)
            raise

    # --- making one ---

    @classmethod
    def new(cls, **options: Any) -> Tunnel:
        """Return a READY tunnel (the seeds' name for the constructor)."""
        return cls(**options)

    @classmethod
    def new_with_ipr(cls, ipr_address: Recipient | str, **options: Any) -> Tunnel:
        """Return a READY tunnel to this exit."""
        return cls(ipr_address=str(ipr_address), **options)

    @classmethod
    def builder(cls) -> TunnelBuilder:
        """Return a builder: ``Tunnel.builder().profile("no-cover").build()``."""
        return TunnelBuilder(cls)

    @classmethod
    def from_env(cls, **kwargs: Any) -> Tunnel:
        """Return a tunnel with the settings of the environment."""
        return cls(TunnelConfig.from_env(), **kwargs)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], **kwargs: Any) -> Tunnel:
        """Return a tunnel with the settings of a TOML file (the environment wins over it)."""
        return cls(TunnelConfig.from_file(path), **kwargs)

    @classmethod
    def from_dict(cls, options: Mapping[str, object], **kwargs: Any) -> Tunnel:
        """Return a tunnel with *options* alone; the wasm client's camelCase names are accepted."""
        return cls(TunnelConfig.from_dict(options), **kwargs)

    @classmethod
    def from_client(cls, client: MixnetClient, *, wait: bool = True, **kwargs: Any) -> Tunnel:
        """Return a tunnel over a connected client, which keeps its settings and identity.

        The client belongs to the tunnel until the tunnel is shut down: its own messages stop. It is not
        disconnected then.
        """
        mix = client._lend()
        tunnel = cls.__new__(cls)
        tunnel._begin(client.config, loop=client._loop, mix=mix, **kwargs)
        tunnel._lender = client
        tunnel._start(wait)
        return tunnel

    @classmethod
    def from_stream(cls, stream: IpMixStream, *, wait: bool = True, **kwargs: Any) -> Tunnel:
        """Return a tunnel over a connected :class:`IpMixStream`, which belongs to it from now on.

        Raises:
            IprError: the stream is not connected.
        """
        client, bridge = stream._lend()
        tunnel = cls.__new__(cls)
        tunnel._begin(client.config, loop=client._loop, mix=client._lend(), bridge=bridge, **kwargs)
        tunnel._lender = client
        tunnel._lender_ends = stream._owned
        tunnel._start(wait)
        return tunnel

    # --- what the socket layer uses ---

    @property
    def config(self) -> TunnelConfig:
        """The settings in force."""
        return self._config

    @property
    def loop(self) -> ReactorLoop:
        """The reactor it runs in."""
        return self._loop

    @property
    def device(self) -> Device:
        """The network device its sockets are bound to."""
        return self._session.device

    def wait_ready(self, timeout: float | None = None, *, fail_fast: bool = False) -> None:
        """Block until READY.

        Args:
            timeout: seconds; None is ``connect_timeout``; 0 only looks.
            fail_fast: raise at once when the tunnel was READY and is down beyond its grace period,
                instead of waiting for it to come back.

        Raises:
            TunnelNotReady: the time is over.
            TunnelClosed: it was shut down, or belongs to the process before fork().
            SmolmixError: it FAILED; the error says in which stage.
        """
        self._check_process()
        limit = self._config.connect_timeout if timeout is None else timeout
        until = self._loop.now() + limit
        with self._changed.waiter() as waiter:
            while True:
                self._check_process()
                session = self._session
                state = session.state
                if state is TunnelState.READY:
                    return
                if state in (TunnelState.SHUTTING_DOWN, TunnelState.SHUTDOWN):
                    raise TunnelClosed("the tunnel was shut down")
                if state is TunnelState.FAILED or (
                    fail_fast and state is TunnelState.RECONNECTING and not session.device.up
                ):
                    error = session.error
                    raise TunnelFailed(session.reason) if error is None else _copy(error)
                left = until - self._loop.now()
                if left <= 0:
                    raise TunnelNotReady(f"not ready after {limit:g} s: {state.value}, {session.reason}")
                waiter.wait(left)

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise TunnelClosed("the tunnel belongs to the process before fork()")

    def _call(self, fn: Callable[..., _T], *args: Any) -> _T:
        self._check_process()
        return self._loop.call(fn, *args)

    # --- state ---

    @property
    def state(self) -> TunnelState:
        """Where it stands."""
        return self._session.state if self._pid == os.getpid() else TunnelState.SHUTDOWN

    @property
    def reason(self) -> str:
        """One sentence why it stands there."""
        return self._session.reason

    @property
    def error(self) -> SmolmixError | None:
        """The exception behind FAILED or a long loss, else None."""
        return self._session.error

    def on_state(self, callback: Callable[[TunnelState, str], object]) -> None:
        """Call *callback* with (state, reason) after every change, in a thread of the package."""
        self._state_callbacks.append(callback)

    def on_progress(self, callback: Callable[[Progress], object]) -> None:
        """Call *callback* with every step of the set-up, in a thread of the package."""
        self._progress_callbacks.append(callback)

    def _on_state(self) -> None:
        session = self._session
        state, reason = session.state, session.reason
        self._changed.set()
        self._loop.defer(_LOG.info, "tunnel %s: %s", state.value, reason)
        for callback in self._state_callbacks:
            self._loop.defer(callback, state, reason)

    def _on_progress(self, progress: Progress) -> None:
        self._loop.defer(_LOG.info, "%s: %s", progress.stage, progress.detail)
        for callback in self._progress_callbacks:
            self._loop.defer(callback, progress)

    # --- life ---

    def reconnect(self) -> None:
        """Drop the gateway's link and connect again, with the same identity; open sockets survive.

        A FAILED tunnel starts over.
        """
        self._check_process()
        if self.state is TunnelState.FAILED:
            self._session = self._new_session()
            self._changed.set()
            self._loop.post(self._session.start)
        else:
            self._loop.post(self._session.reconnect)

    def new_identity(self, timeout: float | None = None) -> None:
        """Become somebody else: new keys, new gateway registration, new exit session.

        Open sockets get ENETDOWN. Blocks until READY, as :meth:`wait_ready`.
        """
        self._check_process()
        if self._lender is not None:
            raise TunnelFailed("the identity belongs to the client the tunnel was made from")
        old = self._session
        self._parts["fresh_identity"] = True
        self._session = self._new_session()
        del self._parts["fresh_identity"]
        self._run_to_end(old.shutdown, 1.0)
        self._loop.post(self._session.start)
        self.wait_ready(timeout)

    def isolate(self, key: str) -> Tunnel:
        """Return a tunnel with the same settings and another identity, the same one for the same *key*.

        It is begun without waiting, belongs to this tunnel and ends with it, or when it had no socket for
        ``isolation_idle`` seconds; a kept identity (``client_id``) stays with this one. ``new_identity`` on it
        makes the key somebody else.

        Raises:
            OSError: ENOBUFS when ``isolated_tunnels`` of them are in use.
        """
        self._check_process()
        return self._call(self._pool).get(key)

    def _pool(self) -> TunnelPool[Tunnel]:
        if self._isolated is None:
            config = self._config.replace(client_id=None, pcap=None)
            self._isolated = TunnelPool(
                self._loop,
                lambda: Tunnel(config, wait=False),
                limit=config.isolated_tunnels,
                warm=config.warm_tunnels,
                idle=config.isolation_idle,
            )
        return self._isolated

    @property
    def isolated_count(self) -> int:
        """How many tunnels of isolation keys there are, warm ones included."""
        return len(self._isolated) if self._isolated is not None else 0

    def shutdown(self, timeout: float = 10.0) -> None:
        """End the tunnel: bring home what closed sockets still have to send, then disconnect.

        Every socket gets ENETDOWN. Any number of times; never raises for a tunnel that is down.

        Args:
            timeout: seconds for the data of closed sockets.
        """
        if self in _tunnels:
            _tunnels.remove(self)
        if self._pid != os.getpid() or not self._loop.running:
            return
        if self._isolated is not None:
            self._isolated.close(timeout)
        if self._session.state is TunnelState.READY and timeout > 0:
            self.device.flush(timeout)
        self._run_to_end(self._session.shutdown, timeout)
        for capture in self._captures:
            self._loop.defer(capture.close)
        if self._lender is not None:
            self._lender._take_back()
            if self._lender_ends:
                self._lender.disconnect(0.5)
            self._lender = None

    def _run_to_end(self, fn: Callable[[float], object], timeout: float) -> None:
        """Run *fn(timeout)* in a greenlet of the reactor and wait for it, a little longer than *timeout*."""
        with self._changed.waiter() as waiter:
            done: list[bool] = []

            def run() -> None:
                try:
                    fn(timeout)
                finally:
                    done.append(True)
                    waiter.set()

            self._loop.spawn(run)
            until = self._loop.now() + timeout + 3.0
            while not done and (left := until - self._loop.now()) > 0:
                waiter.wait(left)

    def __enter__(self) -> Tunnel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        return f"<Tunnel {self.state.value}>"


def _copy(error: SmolmixError) -> SmolmixError:
    """Return an equal exception: one instance raised in two threads would mix their tracebacks."""
    copy = type(error)(*error.args)
    copy.__cause__ = error.__cause__
    return copy


# --- the tunnel of the process -----------------------------------------------------------------

#: Tunnels that were not shut down; in a forked child they are kept, because nothing may finalise them.
_tunnels: list[Tunnel] = []
_abandoned: list[Tunnel] = []
_default: Tunnel | None = None
_default_config: TunnelConfig | None = None
_failed_at = 0.0
_denied = False
_lock = _originals.allocate_lock()
#: Where this process serves its children, and where it is served by its parent.
_handout_path = ""
_parent_path = ""
_attached: dict[str, provider.TunnelPort] = {}

#: Ours: a default tunnel that failed is not tried again within this time; programs retry in tight loops.
_RETRY_AFTER = 2.0


def current() -> Tunnel:
    """Return the tunnel of this process for a socket operation, starting one in the background if there is none.

    It may not be READY: the caller waits. A tunnel that FAILED is replaced, though not at once.

    Raises:
        OSError: ENETDOWN in a forked child when ``fork`` is "deny".
    """
    global _default, _failed_at
    with _lock:
        if _denied:
            raise TunnelClosed("the tunnel belongs to the process before fork(), and fork is set to deny")
        tunnel = _default
        if tunnel is not None and tunnel.state is TunnelState.FAILED:
            if _originals.monotonic() - _failed_at < _RETRY_AFTER:
                return tunnel
            tunnel = None
        if tunnel is None or tunnel.state is TunnelState.SHUTDOWN:
            tunnel = _default = Tunnel(_default_config or TunnelConfig.load(), wait=False)
            _failed_at = _originals.monotonic()
            _serve_children(tunnel)
        return tunnel


def provide() -> provider.TunnelPort:
    """Return what sockets without a tunnel of their own use (design.md decision 15a).

    The daemon of ``SMOLMIX_DAEMON``; in a forked child of a process with ``fork="parent"`` the parent's tunnel; else
    the tunnel of this process.
    """
    path = os.environ.get("SMOLMIX_DAEMON") or _parent_path
    if not path:
        return current()
    if path not in _attached:
        _attached[path] = importlib.import_module("smolmix_sync.daemon").attach(path)
    return _attached[path]


def carrier() -> Any:
    """Return what everything without a tunnel of its own uses: sockets, ``fetch``, adapters, fronts.

    The tunnel given to ``patch_all``, else what :func:`provide` finds; for the isolation key in force.

    Raises:
        OSError: as for :func:`smolmix_sync.reactor.provider.current`.
    """
    return provider.current()


def _serve_children(tunnel: Tunnel) -> None:
    """Open the hand-out channel for children, before there are any."""
    global _handout_path
    if tunnel.config.fork == "parent":
        parent = importlib.import_module("smolmix_sync.daemon.parent")
        _handout_path = str(parent.serve_children(tunnel))


def connect(config: TunnelConfig | None = None, **options: Any) -> Tunnel:
    """Make the tunnel of this process, wait until it is READY and return it.

    If there is one already it is returned as it is, once READY; *options* must not differ then. In a
    forked child it makes one of the child's own, whatever ``fork`` says: it was asked for.

    Raises:
        SmolmixError: what failed.
        ValueError: there is a tunnel with other settings.
    """
    global _default, _default_config, _denied
    with _lock:
        _denied = False
        tunnel = _default
        if tunnel is not None and tunnel.state not in (TunnelState.FAILED, TunnelState.SHUTDOWN):
            given = {n: v for n, v in options.items() if n not in ("on_progress", "on_state", "wait")}
            wanted = config or (TunnelConfig.load(**given) if given else tunnel.config)
            if wanted != tunnel.config:
                raise ValueError("this process has a tunnel with other settings: disconnect() first")
        else:
            wait = options.pop("wait", True)
            tunnel = _default = Tunnel(config, wait=False, **options)
            _default_config = tunnel.config
            _serve_children(tunnel)
            options["wait"] = wait
    if options.get("wait", True):
        tunnel.wait_ready(tunnel.config.connect_timeout + 5.0)
    return tunnel


setup_mix_tunnel = connect


def get_tunnel() -> Tunnel | None:
    """Return the tunnel of this process, None if none was started."""
    return _default


def get_tunnel_state() -> TunnelState | None:
    """Return its state, None if none was started."""
    return _default.state if _default is not None else None


def disconnect(timeout: float = 10.0) -> None:
    """Shut the tunnel of this process down; the next socket operation would start a new one."""
    global _default, _default_config
    with _lock:
        tunnel, _default = _default, None
        _default_config = None
    if tunnel is not None:
        tunnel.shutdown(timeout)


def resolve(host: str, family: int = 0) -> list[str]:
    """Return the addresses of *host*, asked through the tunnel of this process."""
    found: list[str] = carrier().device.resolver.lookup(host, family)
    return found


mix_resolve = mix_dns = resolve


def _after_fork_in_child() -> None:
    global _default, _lock, _denied, _parent_path, _handout_path
    _lock = _originals.allocate_lock()
    if _default is not None and _handout_path:
        _parent_path, _handout_path = _handout_path, ""
    if _default is not None and _default.config.fork == "deny":
        _denied = True
    _abandoned.extend(_tunnels)
    _tunnels.clear()
    _default = None


def _flush_at_exit() -> None:
    """Give the data of closed sockets its time, then disconnect."""
    for tunnel in list(_tunnels):
        try:
            tunnel.shutdown(tunnel.config.exit_flush)
        except Exception as error:  # the interpreter goes down: nobody can act on it
            _LOG.debug("shutdown at exit: %s", error)


_originals.run_in_child(_after_fork_in_child)
_originals.run_at_exit(_flush_at_exit)
provider.install_default(provide)
