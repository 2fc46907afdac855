"""Run one of the interpreter's own test files (or gevent's) over mix sockets, and say what became of every test.

usage: runner.py RESULT.json MODULE [--plain | --delay SECONDS] [--network] [--children]
           [--skip PATTERN]... [--only PATTERN]... [TEST_ID...]

Loopback is routed through the stack (``loopback="mix"``), so both ends of every test are mix sockets. ``--plain`` patches
nothing; ``--network`` is regrtest's resource of that name. ``--children``: what the tests start is patched, too.
With TEST_IDs only those tests run. Nothing of the tests is
kept here: they come from the interpreter's installation.
"""

from __future__ import annotations

import argparse
import faulthandler
import fnmatch
import importlib
import json
import os
import signal
import sys
import tempfile
import types
import unittest
from typing import Any


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("result")
    parser.add_argument("module")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--skip", action="append", default=[])
    parser.add_argument("--children", action="store_true")
    parser.add_argument("--network", action="store_true")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("ids", nargs="*")
    return parser.parse_intermixed_args()


def patch(delay: float, children: str) -> Any:
    """Patch this process; its tunnel is a stack that is its own network. Returns the device.

    With *children* "patch" both forked and started Python children use the same stack, over AF_UNIX.
    """
    import smolmix_sync
    from smolmix_sync import _children
    from smolmix_sync.netstack import Stack
    from smolmix_sync.reactor import provider
    from smolmix_sync.reactor.device import Device
    from smolmix_sync.reactor.loop import shared_loop
    from smolmix_sync.reactor.resolver import ResolverConfig

    stack = Stack("198.51.100.2", "2001:db8:100::2", urandom=os.urandom, loopback=True, loopback_delay=delay)
    device = Device(shared_loop(), stack, resolver=ResolverConfig(timeout=0.5))
    port = provider.DevicePort(device)
    owner = os.getpid()

    def find() -> Any:
        inherited = _children.inherited()
        return port if os.getpid() == owner or inherited is None else smolmix_sync.attach(inherited["path"])

    provider.install(find)
    smolmix_sync.patch_all(loopback="mix", listen="mix", children=children)
    return device


class Result(unittest.TestResult):
    """Keeps the outcome of every test by its id, the worst where there are several."""

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: dict[str, str] = {}
        self.texts: dict[str, str] = {}

    def _bad(self, test: Any, kind: str, error: Any) -> None:
        # setUpClass failures and subtests come as objects that are not tests.
        case = getattr(test, "test_case", test)
        self.outcomes[case.id()] = kind
        self.texts.setdefault(case.id(), self._exc_info_to_string(error, test))  # type: ignore[attr-defined]

    def startTest(self, test: Any) -> None:
        super().startTest(test)
        if "-v" in os.environ.get("RUNNER", ""):
            print(test.id(), file=sys.stderr, flush=True)

    def addSuccess(self, test: Any) -> None:
        self.outcomes.setdefault(test.id(), "ok")

    def addError(self, test: Any, err: Any) -> None:
        self._bad(test, "error", err)

    def addFailure(self, test: Any, err: Any) -> None:
        self._bad(test, "fail", err)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self._bad(test, "fail", err)

    def addSkip(self, test: Any, reason: str) -> None:
        self.outcomes.setdefault(test.id(), "skip")

    def addExpectedFailure(self, test: Any, err: Any) -> None:
        self.outcomes.setdefault(test.id(), "ok")

    def addUnexpectedSuccess(self, test: Any) -> None:
        self.outcomes.setdefault(test.id(), "ok")


def flatten(suite: unittest.TestSuite) -> list[Any]:
    tests: list[Any] = []
    for one in suite:
        tests.extend(flatten(one) if isinstance(one, unittest.TestSuite) else [one])
    return tests


def main() -> None:
    options = arguments()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    device = None if options.plain else patch(options.delay, "patch" if options.children else "deny")
    from test import support

    # As regrtest without -u, but for the two that cost only time.
    support.use_resources = ["cpu", "walltime", *(["network"] if options.network else [])]  # type: ignore[attr-defined]
    support.verbose = 0  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        loader = unittest.TestLoader()
        module, _, method = options.module.partition(":")
        if (
            method
        ):  # what test_multiprocessing_fork and its like consist of; not every installation has these files
            import multiprocessing

            multiprocessing.set_start_method(method, force=True)
            made = types.ModuleType(f"{module}:{method}")
            importlib.import_module(module).install_tests_in_module_dict(vars(made), method)
            sys.modules[made.__name__] = made
            suite = loader.loadTestsFromModule(made)
        else:
            suite = loader.loadTestsFromName(module)
        tests = [
            test for test in flatten(suite)
            if not any(fnmatch.fnmatchcase(test.id(), pattern) for pattern in options.skip)
            and (not options.only or any(fnmatch.fnmatchcase(test.id(), one) for one in options.only))
            and (not options.ids or test.id() in options.ids)
        ]  # fmt: skip
        result = Result()
        # A suite of the original order keeps setUpClass and setUpModule.
        unittest.TestSuite(tests).run(result)
        os.chdir("/")
    report = {
        "run": result.testsRun,
        # How many packets the stack has carried: zero would mean that the kernel did the work.
        "packets": 0 if device is None or device.stack is None else device.stack.counters.packets_in,
        "outcomes": result.outcomes,
        "texts": result.texts,
        "load_errors": [str(one) for one in loader.errors],
    }
    with open(options.result, "w", encoding="utf-8") as file:
        json.dump(report, file)
    sys.stdout.flush()
    os._exit(0)  # what the tests left behind (threads, children) is not what is tested


if __name__ == "__main__":
    main()
