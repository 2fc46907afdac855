"""Programs that a patched process starts: without network, or patched as well.

A forked child is a copy of its parent, patch included. A program that is started (exec) begins anew, and would use the
kernel's network. It gets the seccomp filter of :mod:`smolmix_sync._seccomp` instead: a filter is inherited from the
thread that starts the program, so programs are started by a thread of ours that has it, and the process itself
keeps its kernel sockets (loopback, a tunnel of its own after fork). Under ``patch_all(strict=True)`` the whole
process has the filter and nothing is needed here.

With ``children="patch"`` Python programs find a ``sitecustomize`` that patches them, too, and reach the tunnel of this
process over AF_UNIX; the filter stays on them, and on all others.

Not covered: code in C that calls fork and exec itself, and references to ``_posixsubprocess.fork_exec`` that were taken
before the patch.

Source: design.md decision 11; spec/sockets.md section 10.
"""

from __future__ import annotations

import _posixsubprocess
import json
import os
import posix
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from smolmix_sync import _seccomp
from smolmix_sync.errors import LeakBlocked
from smolmix_sync.reactor import _originals

__all__ = ["MODES", "before_exec", "before_start", "environment", "inherited", "replacements"]

MODES = ("deny", "patch", "allow")

#: What a child with ``children="patch"`` learns from its parent, as JSON, and where its ``sitecustomize`` lies.
VARIABLE = "SMOLMIX_INHERIT"
_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_inherit")

#: Modules between a program and the function that starts another: not who asked.
_MACHINERY = ("subprocess", "os", "multiprocessing", "concurrent", "asyncio", "gevent", "billiard")
_LAYERS = (__name__, "smolmix_sync._audit")

#: Threads (by ``get_ident``) of ours that start programs and have the filter.
_starting: set[int] = set()


class _Launcher:
    """A native thread under the filter that makes calls for others."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._wake = _originals.allocate_lock()
        self._wake.acquire()
        self._state = _originals.allocate_lock()
        self._started = False
        self._problem: OSError | None = None

    def call(self, fn: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Run ``fn(*args, **keywords)`` under the filter; return or raise what it does.

        Raises:
            LeakBlocked: the filter cannot be had, so that nothing may be started.
        """
        done = _originals.allocate_lock()
        done.acquire()
        outcome: list[Any] = []
        # A program inherits the mask of the thread that starts it: the caller's, not the launcher's.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())

        def run() -> None:
            try:
                if self._problem is not None:
                    raise LeakBlocked(f"no program can be started without network: {self._problem}")
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                outcome.extend((True, fn(*args, **keywords)))
            except BaseException as problem:
                outcome.extend((False, problem))
            finally:
                signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
                done.release()

        with self._state:
            self._calls.append(run)
            if not self._started:
                self._started = True
                _originals.start_new_thread(self._run, ())
            if self._wake.locked():
                self._wake.release()
        done.acquire()
        good, value = outcome
        outcome.clear()
        if good:
            return value
        try:
            raise value.with_traceback(None)
        finally:
            del value

    def _run(self) -> None:
        # Signals are for the program's threads: one taken here would not interrupt what the main thread waits in.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            _seccomp.seal_thread()
            _starting.add(_originals.get_ident())
        except OSError as problem:
            self._problem = problem
        while True:
            self._wake.acquire()
            while self._calls:
                self._calls.popleft()()


_launcher = _Launcher()


def _after_fork_in_child() -> None:
    global _launcher
    _launcher = _Launcher()
    _starting.clear()


_originals.run_in_child(_after_fork_in_child)


def before_start(what: str) -> None:
    """Refuse a function that starts programs and was taken before the patch; its replacement would have been used.

    Raises:
        LeakBlocked: the calling thread has no filter.
    """
    if not (_seccomp.sealed() or _originals.get_ident() in _starting or _asked_by_us()):
        raise LeakBlocked(f"{what} of before patch_all() would start a program with network past the tunnel")


def _asked_by_us() -> bool:
    """Tell whether this package starts the program (a daemon, a localnet): it needs its network."""
    frame = sys._getframe(2)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name.partition(".")[0] not in _MACHINERY and name not in _LAYERS:
            return name.startswith("smolmix_sync.")
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _sealed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return *function* as done by the thread under the filter."""

    def start(*args: Any, **keywords: Any) -> Any:
        if _seccomp.sealed() or _asked_by_us():
            return function(*args, **keywords)
        return _launcher.call(function, args, keywords)

    start.__name__ = start.__qualname__ = function.__name__
    start.__doc__ = function.__doc__
    return start


def replacements(inherit: Mapping[str, str]) -> Iterator[tuple[Any, str, Any]]:
    """Yield (module, name, function) for every way to start a program.

    Args:
        inherit: variables that every program started has in its environment.
    """
    fork_exec = _sealed(_with_variables(_posixsubprocess.fork_exec, 5, inherit))
    yield _posixsubprocess, "fork_exec", fork_exec
    if hasattr(subprocess, "_fork_exec"):  # before 3.14 a name of its own
        yield subprocess, "_fork_exec", fork_exec
    for name in ("posix_spawn", "posix_spawnp"):
        function = _sealed(_with_variables(getattr(posix, name), 2, inherit))
        yield posix, name, function
        yield os, name, function
    # It lasts as long as the program: others must be able to start theirs meanwhile.
    system = _sealed_system(posix.system)
    yield posix, "system", system
    yield os, "system", system


def _sealed_system(function: Callable[..., Any]) -> Callable[..., Any]:
    def system(command: Any) -> Any:
        if _seccomp.sealed() or _asked_by_us():
            return function(command)
        return _once(function, command)

    system.__doc__ = function.__doc__
    return system


def _once(function: Callable[..., Any], argument: Any) -> Any:
    """Call in a thread under the filter that ends afterwards."""
    done = _originals.allocate_lock()
    done.acquire()
    outcome: list[Any] = []

    def run() -> None:
        try:
            _seccomp.seal_thread()
            _starting.add(_originals.get_ident())
            outcome.extend((True, function(argument)))
        except BaseException as problem:
            outcome.extend((False, problem))
        finally:
            _starting.discard(_originals.get_ident())
            done.release()

    _originals.start_new_thread(run, ())
    done.acquire()
    good, value = outcome
    if not good:
        raise value
    return value


def _with_variables(
    function: Callable[..., Any], place: int, variables: Mapping[str, str]
) -> Callable[..., Any]:
    """Return *function* with *variables* added to the environment that is its argument number *place*."""
    if not variables:
        return function

    def start(*args: Any, **keywords: Any) -> Any:
        given = args[place] if len(args) > place else None
        if isinstance(given, Mapping):
            kept = {os.fsdecode(key): value for key, value in given.items()}
            changed: Any = {**kept, **_joined(variables, kept)}
        elif given is not None:
            pairs = dict(os.fsdecode(one).split("=", 1) for one in given)
            changed = [
                os.fsencode(f"{key}={value}") for key, value in {**pairs, **_joined(variables, pairs)}.items()
            ]
        else:
            return function(*args, **keywords)  # it has ours
        return function(*args[:place], changed, *args[place + 1 :], **keywords)

    start.__name__ = function.__name__
    return start


def _joined(variables: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, str]:
    """Return *variables* as they are to be set where *given* are set already."""
    changed = dict(variables)
    if "PYTHONPATH" in changed and given.get("PYTHONPATH"):
        path = os.fsdecode(given["PYTHONPATH"])
        folders = path.split(os.pathsep)
        changed["PYTHONPATH"] = path if _FOLDER in folders else os.pathsep.join((_FOLDER, *folders))
    return changed


def environment(path: str, options: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables that make a Python program patch itself and use the tunnel served at *path*."""
    return {VARIABLE: json.dumps({"path": path, **options}), "PYTHONPATH": _FOLDER}


def set_environment(variables: Mapping[str, str]) -> Callable[[], None]:
    """Put *variables* into the environment of this process; return what takes them out again."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(_joined(variables, os.environ))

    def undo() -> None:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    return undo


def inherited() -> dict[str, Any] | None:
    """Return what this process has inherited from one with ``children="patch"``, None if it has none."""
    text = os.environ.get(VARIABLE)
    if not text:
        return None
    found: dict[str, Any] = json.loads(text)
    return found


def patch_inherited() -> bool:
    """Patch this process as its parent is, with the parent's tunnel; tell whether there was one.

    Called by ``_inherit/sitecustomize.py`` at the start of the interpreter.
    """
    found = inherited()
    if found is None:
        return False
    import smolmix_sync

    os.environ["SMOLMIX_DAEMON"] = found["path"]
    smolmix_sync.patch_all(
        direct=tuple(found["direct"]), listen=found["listen"], loopback=found["loopback"], dns=found["dns"],
        allow=tuple(found["allow"]), hostname=found["hostname"], children="patch",
    )  # fmt: skip
    return True


def before_exec(path: Any) -> None:
    """Put the filter on the calling thread: the program that follows has it.

    A program that is not there makes no difference: execvp() tries one folder after another.
    """
    if _seccomp.sealed() or not os.access(path, os.X_OK):
        return
    try:
        _seccomp.seal_thread()
    except OSError as problem:
        raise LeakBlocked(f"no program can be started without network: {problem}") from problem
