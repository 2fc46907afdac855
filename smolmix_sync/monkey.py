"""Put mix sockets and in-tunnel names in the stdlib's place, and take them out again.

Classes are patched in place: the two Python classes that sit directly on the C socket type (the stdlib's
``socket.socket`` and gevent's ``_wrefsocket``) get the methods of ``_socket_core``. Libraries imported before the patch are
covered, ``ssl``, asyncio, PySocks and multiprocessing inherit it, and the order of gevent's patch and ours does not
matter. The name ``_socket.socket`` is bound to a subclass for fresh copies of the socket module.

Patching starts no tunnel: it comes up at the first call that needs it. Beside the patch stand more layers: an audit
hook (``_audit``) and programs started without network (``_children``) unless ``strict=False``, and with ``strict=True`` a
seccomp filter on the whole process (``_seccomp``).

Source: spec/sockets.md sections 0, 2, 8, 10 and 11; design.md decisions 11 and 11a.
"""

from __future__ import annotations

import _socket
import functools
import importlib
import importlib.util
import logging
import os
import socket as _stdlib_socket
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from smolmix_sync import _audit, _children, _seccomp, _socket_policy, _socket_share, dns
from smolmix_sync._process_end import handle_sigterm
from smolmix_sync._socket_core import METHODS, initialise
from smolmix_sync._socket_names import port_or_default
from smolmix_sync.errors import LeakBlocked
from smolmix_sync.reactor import provider
from smolmix_sync.reactor._originals import CSocket, original
from smolmix_sync.reactor.isolation import set_key_function
from smolmix_sync.reactor.provider import TunnelPort

__all__ = ["Patch", "get_original", "is_patched", "patch_all", "unpatch_all"]

_LOG = logging.getLogger("smolmix_sync.monkey")

Strict = Literal["auto"] | bool

_MISSING: Any = object()

_PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "ftp_proxy", "ws_proxy", "wss_proxy")

_RESOLVER_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "getaddrinfo": dns.raw_getaddrinfo,
    "gethostbyname": dns.gethostbyname,
    "gethostbyname_ex": dns.gethostbyname_ex,
    "gethostbyaddr": dns.gethostbyaddr,
    "getnameinfo": dns.getnameinfo,
}
"""In place of the C functions; ``socket.getaddrinfo`` and gevent's thread resolver look them up at every call."""

#: gevent, patching after us, saves our functions as its originals: these are the real ones.
_REAL: dict[Any, Any] = {
    function: original("_socket", name) for name, function in _RESOLVER_FUNCTIONS.items()
}
_REAL[dns.getfqdn] = original("socket", "getfqdn")
_REAL[dns.gethostname] = original("_socket", "gethostname")


# --- the classes ------------------------------------------------------------------------------


def _stdlib_init(self: Any, family: int = -1, type: int = -1, proto: int = -1, fileno: Any = None) -> None:
    initialise(self, family, type, proto, fileno)
    self._io_refs = 0
    self._closed = False


def _bare_init(self: Any, family: int = -1, type: int = -1, proto: int = -1, fileno: Any = None) -> None:
    initialise(self, family, type, proto, fileno)


class _CLike(type):
    """Lets the patched name ``_socket.socket`` still recognise sockets of the C type."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return type.__instancecheck__(cls, instance) or (cls is MixC and isinstance(instance, CSocket))

    def __subclasscheck__(cls, subclass: type) -> bool:
        return type.__subclasscheck__(cls, subclass) or (cls is MixC and issubclass(subclass, CSocket))


class MixC(CSocket, metaclass=_CLike):
    """What ``_socket.socket`` names while patched: fresh copies of the socket module build on it."""

    __slots__ = ()  # same layout as the C type, or its subclasses could not be re-based


MixC.__init__ = _bare_init  # type: ignore[method-assign]
for _name, _function in METHODS.items():
    setattr(MixC, _name, _function)
del _name, _function


# --- what was changed -------------------------------------------------------------------------


@dataclass(slots=True)
class _Change:
    owner: Any
    name: str
    before: Any
    value: Any


class _Changes:
    """Attributes that were replaced, to be put back in reverse order."""

    def __init__(self) -> None:
        self._changes: list[_Change] = []
        self._undo: list[Callable[[], object]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Replace an attribute of a class or a module."""
        self._changes.append(_Change(owner, name, vars(owner).get(name, _MISSING), value))
        setattr(owner, name, value)

    def on_undo(self, action: Callable[[], object]) -> None:
        """Call *action* when everything is put back."""
        self._undo.append(action)

    def before(self, owner: Any, name: str) -> Any:
        """Return what an attribute was first, or a marker if it was not changed."""
        for change in self._changes:
            if change.owner is owner and change.name == name:
                return change.before
        return _MISSING

    def undo(self) -> None:
        """Put everything back."""
        while self._undo:
            self._undo.pop()()
        while self._changes:
            change = self._changes.pop()
            if vars(change.owner).get(change.name) is not change.value:
                continue  # somebody (gevent) replaced it after us, and keeps it
            if change.before is _MISSING:
                delattr(change.owner, change.name)
            else:
                setattr(change.owner, change.name, change.before)


class Patch:
    """The patch of this process; as a context manager it is undone at the end of the block.

    Attributes:
        options: the arguments of ``patch_all``.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self._changes = _Changes()
        self._policy_before = _socket_policy.active

    def __enter__(self) -> Patch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if _active is self:
            unpatch_all()

    def __repr__(self) -> str:
        return f"<Patch {'active' if _active is self else 'undone'}>"

    def _apply(self, policy: _socket_policy.Policy) -> None:
        changes, options = self._changes, self.options
        if options["tunnel"] is not None:
            tunnel = options["tunnel"]
            before = provider.install(lambda: tunnel)
            changes.on_undo(lambda: provider.install(before))
        if options["isolate"] is not None:
            isolate = options["isolate"]
            key_before = set_key_function(isolate if callable(isolate) else lambda: str(isolate))
            changes.on_undo(lambda: set_key_function(key_before))
        self._policy_before = _socket_policy.set_active(policy)
        changes.on_undo(lambda: _socket_policy.set_active(self._policy_before))
        _patch_class(changes, original("socket", "socket"), _stdlib_init)
        if importlib.util.find_spec("gevent") is not None:
            # Before the name below changes: imported later, gevent's class would be built on ours and stay so.
            _patch_class(changes, importlib.import_module("gevent._socket3")._wrefsocket, _bare_init)
        changes.set(_socket, "socket", MixC)
        changes.set(_socket, "SocketType", MixC)
        changes.set(_stdlib_socket, "SocketType", MixC)
        if options["dns"]:
            _patch_names(changes)
        if options["hostname"] is not None:
            _patch_hostname(changes, options["hostname"])
        _patch_gevent(changes, names=options["dns"])
        _patch_reducers(changes)
        if options["strict"] is not False:
            _refuse_loaded(changes, options["allow"])
            changes.on_undo(_audit.disable)
            _audit.enable(
                names=options["dns"], strict=options["strict"] is True, allow=options["allow"],
                before_exec=None if options["children"] == "allow" else _children.before_exec,
                before_start=None if options["children"] == "allow" else _children.before_start,
            )  # fmt: skip
        if options["strict"] is True:
            _seccomp.seal()  # the last step: nothing takes it back
        _patch_children(changes, options)
        undo = handle_sigterm()
        if undo is not None:
            changes.on_undo(undo)

    def _revert(self) -> None:
        self._changes.undo()


_active: Patch | None = None


def _patch_class(changes: _Changes, cls: type, init: Callable[..., None]) -> None:
    changes.set(cls, "__init__", init)
    for name, function in METHODS.items():
        changes.set(cls, name, function)


#: What can still be refused of libraries that were imported before the patch: a class that must be made first.
_LOADED = (("uvloop", "Loop"), ("pycares", "Channel"))


def _refuse_loaded(changes: _Changes, allow: tuple[str, ...]) -> None:
    """Refuse new event loops of uvloop and resolvers of pycares (aiodns) where these are loaded already."""
    for module_name, class_name in _LOADED:
        cls = getattr(sys.modules.get(module_name), class_name, None)
        if cls is None or module_name in allow or "*" in allow:
            continue

        def refuse(
            kind: type, *args: Any, _name: str = f"{module_name}.{class_name}", **options: Any
        ) -> None:
            raise LeakBlocked(f"{_name} opens sockets in C, which patch_all() cannot carry")

        # The name, not the class: an instance that was never initialised would be finalised all the same.
        changes.set(sys.modules[module_name], class_name, type(class_name, (), {"__new__": refuse}))
        if module_name == "pycares":
            _patch_aiohttp(changes)


def _patch_aiohttp(changes: _Changes) -> None:
    """Have aiohttp that was imported with aiodns look names up as it does where there is no aiodns."""
    threaded = getattr(sys.modules.get("aiohttp.resolver"), "ThreadedResolver", None)
    for module_name in ("aiohttp", "aiohttp.resolver", "aiohttp.connector"):
        module = sys.modules.get(module_name)
        if threaded is not None and getattr(module, "DefaultResolver", threaded) is not threaded:
            changes.set(module, "DefaultResolver", threaded)


def _patch_children(changes: _Changes, options: dict[str, Any]) -> None:
    """Have the programs this process starts do without network, or patched."""
    if options["children"] == "allow":
        return
    variables: dict[str, str] = {}
    if options["children"] == "patch":
        given = _children.inherited()
        if given is not None:
            path = given["path"]
        elif options["tunnel"] is None and os.environ.get("SMOLMIX_DAEMON"):
            path = os.path.abspath(os.environ["SMOLMIX_DAEMON"])
        else:
            path = str(
                importlib.import_module("smolmix_sync.daemon.parent").serve_children(port_or_default())
            )
        kept = {name: options[name] for name in ("direct", "listen", "loopback", "dns", "allow", "hostname")}
        variables = _children.environment(path, kept)
        changes.on_undo(_children.set_environment(variables))
    for owner, name, function in list(_children.replacements(variables)):
        changes.set(owner, name, function)


def _gevent_replaced(name: str) -> bool:
    gevent_monkey = sys.modules.get("gevent.monkey")
    return gevent_monkey is not None and bool(gevent_monkey.is_object_patched("socket", name))


def _patch_names(changes: _Changes) -> None:
    for name, function in _RESOLVER_FUNCTIONS.items():
        changes.set(_socket, name, function)
        # The stdlib module has copies of all but getaddrinfo. gevent's end in its resolver, and so in _socket.
        if name != "getaddrinfo" and not _gevent_replaced(name):
            changes.set(_stdlib_socket, name, function)
    if not _gevent_replaced("getfqdn"):
        changes.set(_stdlib_socket, "getfqdn", dns.getfqdn)


def _patch_hostname(changes: _Changes, hostname: str) -> None:
    changes.on_undo(functools.partial(dns.set_hostname, dns.set_hostname(hostname)))
    # gevent's modules hold copies.
    for name in ("_socket", "socket", "gevent._socketcommon", "gevent._socket3", "gevent.socket"):
        module = sys.modules.get(name)
        for function in (dns.gethostname, dns.getfqdn):
            if hasattr(module, function.__name__):
                changes.set(module, function.__name__, function)


def _patch_gevent(changes: _Changes, *, names: bool) -> None:
    if "gevent" not in sys.modules:
        return
    if names:
        from gevent import config
        from gevent._hub_local import get_hub_if_exists
        from gevent.resolver.thread import Resolver

        # The others ask the network themselves: ares in C, dnspython by /etc/resolv.conf.
        configured = config.resolver
        config.resolver = Resolver
        changes.on_undo(lambda: setattr(config, "resolver", configured))
        hub: Any = get_hub_if_exists()
        if hub is not None and hub._resolver is not None and not isinstance(hub._resolver, Resolver):
            chosen = hub._resolver
            hub.resolver = Resolver(hub)
            changes.on_undo(lambda: setattr(hub, "resolver", chosen))

    from gevent import events

    def after_gevent(event: Any) -> None:
        # gevent replaces names, not the classes and not _socket's functions: ours are reached through its own.
        if isinstance(event, events.GeventDidPatchAllEvent):
            missing = [
                name for name in METHODS if vars(original("socket", "socket")).get(name) is not METHODS[name]
            ]
            if missing:
                raise LeakBlocked(f"gevent's patch has undone ours: {', '.join(missing)}")

    events.subscribers.append(after_gevent)
    changes.on_undo(lambda: events.subscribers.remove(after_gevent))


# --- sockets between processes ----------------------------------------------------------------


def _patch_reducers(changes: _Changes) -> None:
    """Have multiprocessing (and Celery's billiard) send what is known of a socket along with its descriptor."""
    importlib.import_module("multiprocessing.reduction")  # or a later import would not be seen
    for module in _socket_share.modules():
        reducers = module.ForkingPickler._extra_reducers
        cls = original("socket", "socket")
        before = reducers.get(cls, _MISSING)
        reducers[cls] = _socket_share.reducer(module)
        if before is _MISSING:
            changes.on_undo(lambda r=reducers, c=cls: r.pop(c, None))  # type: ignore[misc]
        else:
            changes.on_undo(lambda r=reducers, c=cls, b=before: r.__setitem__(c, b))  # type: ignore[misc]


# --- the environment --------------------------------------------------------------------------


def _loopback_proxies() -> list[str]:
    """Return the proxy variables that would send traffic to a proxy on this machine, past the tunnel."""
    from urllib.parse import urlsplit

    found = []
    for variable, value in os.environ.items():
        if variable.lower() not in _PROXY_VARIABLES:
            continue
        host = urlsplit(value if "//" in value else f"//{value}").hostname or ""
        try:
            local = _socket_policy.is_loopback(host)
        except ValueError:
            local = host == "localhost" or host.endswith(".localhost")
        if local:
            found.append(variable)
    return sorted(found)


def _kernel_sockets() -> int:
    """Count the internet sockets the program has already; they are not converted. The reactor's are not its."""
    count = 0
    # Not imported for this alone: a process without it has no reactor.
    real = sys.modules.get("smolmix_sync.reactor._real")
    ours = real.open_descriptors() if real is not None else ()
    try:
        descriptors = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return 0
    for fd in descriptors:
        if fd in ours:
            continue
        try:
            if not os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                continue
            probe = CSocket(fileno=os.dup(fd))
        except OSError:
            continue
        try:
            count += probe.family in (_socket.AF_INET, _socket.AF_INET6)
        finally:
            probe.close()
    return count


# --- the public functions ---------------------------------------------------------------------


def patch_all(
    *,
    tunnel: TunnelPort | None = None,
    direct: Iterable[str] = ("loopback",),
    listen: str = "loopback",
    loopback: Literal["bypass", "mix", "deny"] | None = None,
    dns: bool = True,
    strict: Strict = "auto",
    children: Literal["deny", "patch", "allow"] | None = None,
    allow: Iterable[str] = (),
    start: bool = False,
    isolate: str | Callable[[], str] | None = None,
    hostname: str | None = None,
) -> Patch:
    """Carry every socket this program makes from now on through the tunnel.

    Starts no thread (but with ``strict=True``) and no tunnel, so that it may stand at the top of a module a server
    imports before it forks.

    Args:
        tunnel: the tunnel to use; None: the default one, made at the first call that needs it.
        direct: what goes to the kernel: ``"loopback"``, and networks as ``cidr`` or ``cidr:port``. Ports 53, 853,
            5353 and 5355 never do.
        listen: what a listener on the wildcard address becomes: ``"loopback"`` (a kernel listener there), ``"mix"``
            (in the tunnel) or ``"deny"``.
        loopback: ``"bypass"`` (the kernel), ``"mix"`` (inside the tunnel's own stack, for tests) or ``"deny"``; None:
            the kernel if *direct* has ``"loopback"``, else denied but for the entries of *direct*.
        dns: resolve names in the tunnel; False leaves the resolver functions alone (the system's resolver asks in
            clear).
        strict: what is done about code that passes the patched classes by. ``"auto"``: an audit hook refuses kernel
            sockets and system look-ups made by Python code, and the import of C libraries with sockets of their own
            (imported already, they are refused here). True: a seccomp filter as well, which refuses internet
            sockets to everything but the reactor; it stays until the process ends. False: neither.
        children: programs that this process starts. ``"deny"`` (the default unless *strict* is False): they get no
            internet sockets. ``"patch"``: nor do these, but Python programs are patched and use this process' tunnel,
            which begins now. ``"allow"``: they use the network past the tunnel. Forked children are as this process.
        allow: names of C libraries that may be imported all the same, because you lead them through ``forward()``;
            ``"*"`` for all.
        start: begin the tunnel in the background now.
        isolate: a key, or a function that returns the key of the calling thread, greenlet or task: sockets and look-ups of
            different keys use different tunnels and identities (see ``smolmix_sync.isolate``, which goes before). None,
            or the key ``""``: one tunnel.
        hostname: what ``gethostname`` and ``getfqdn`` say instead of this machine's name, which smtplib and others
            send to whom they talk to: ``"localhost"`` or a name that ends in ``.localhost`` (no other is resolved
            without asking). ``os.uname`` and ``platform`` are left alone.

    Returns:
        The patch; a context manager that undoes it.

    Raises:
        ValueError: an argument makes no sense.
        LeakBlocked: a C library with sockets of its own is loaded already. (strict) The environment would lead traffic
            past the tunnel, or the filter cannot be had:
            another thread runs already, or the kernel refuses.
    """
    global _active
    options: dict[str, Any] = {
        "tunnel": tunnel, "direct": (direct,) if isinstance(direct, str) else tuple(direct), "listen": listen,
        "loopback": loopback, "dns": dns, "strict": strict,
        "children": children or ("allow" if strict is False else "deny"), "allow": tuple(allow), "isolate": isolate,
        "hostname": hostname,
    }  # fmt: skip
    if strict not in ("auto", True, False):
        raise ValueError(f"strict: {strict!r} is not 'auto', True or False")
    if options["children"] not in _children.MODES:
        raise ValueError(f"children: {children!r} is not {', '.join(_children.MODES)} or None")
    if isolate is not None and not callable(isolate) and not isinstance(isolate, str):
        raise ValueError(f"isolate: {isolate!r} is not a key, a function or None")
    if hostname is not None and hostname != "localhost" and not hostname.endswith(".localhost"):
        raise ValueError(f"hostname: {hostname!r} is not localhost, and does not end in .localhost")
    policy = _socket_policy.Policy.make(options["direct"], listen, loopback=loopback, strict=strict is True)
    if _active is not None:
        if options != _active.options:
            warnings.warn("patch_all() was called before with other arguments, which stay", RuntimeWarning, 2)
    else:
        _check_environment(strict)
        patch = Patch(options)
        try:
            patch._apply(policy)
        except BaseException:
            patch._revert()
            raise
        _active = patch
    if start:
        port_or_default()
    return _active


def _check_environment(strict: Strict) -> None:
    proxies = _loopback_proxies()
    if proxies:
        text = f"{', '.join(proxies)}: a proxy on this machine would carry traffic past the tunnel"
        if strict is True:
            raise LeakBlocked(text)
        warnings.warn(text, RuntimeWarning, 3)
    existing = _kernel_sockets()
    if existing:
        _LOG.warning(
            "%d internet sockets were there before patch_all() and stay outside the tunnel", existing
        )


def unpatch_all() -> None:
    """Undo ``patch_all`` exactly; sockets made meanwhile keep working where they are.

    Raises:
        LeakBlocked: the patch is strict: a seccomp filter cannot be taken off.
    """
    global _active
    if _active is not None and _active.options["strict"] is True:
        raise LeakBlocked(
            "patch_all(strict=True) cannot be undone: a seccomp filter stays until the process ends"
        )
    if _active is not None:
        _active._revert()
        _active = None


def is_patched() -> bool:
    """Tell whether ``patch_all`` is in force."""
    return _active is not None


def get_original(module: str, name: str) -> Any:
    """Return what *module*.*name* was before anybody patched it.

    ``("socket", "socket")`` is patched in place and has no original; a class with the kernel's methods is returned.

    Raises:
        AttributeError: there is no such name.
    """
    if module == "socket" and name == "socket":
        return _kernel_class()
    if module in ("_socket", "socket") and name in ("SocketType",):
        return CSocket
    if module == "_socket" and name == "socket":
        return CSocket
    owner = importlib.import_module(module)
    if _active is not None:
        before = _active._changes.before(owner, name)
        if before is not _MISSING:
            return before
    found = original(module, name)
    return _REAL.get(found, found) if callable(found) else found


_kernel: Any = None


def _kernel_class() -> Any:
    """Return a subclass of the stdlib's class that has the C methods back."""
    global _kernel
    if _kernel is None:

        def init(self: Any, family: int = -1, type: int = -1, proto: int = -1, fileno: Any = None) -> None:
            CSocket.__init__(self, family, type, proto, fileno)
            self._io_refs = 0
            self._closed = False

        namespace: dict[str, Any] = {name: getattr(CSocket, name) for name in METHODS}
        namespace.update(__slots__=(), __init__=init, __doc__="A kernel socket, also while patched.")
        _kernel = type("KernelSocket", (original("socket", "socket"),), namespace)
    return _kernel
