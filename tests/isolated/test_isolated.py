"""Everything that patches, forks or ends a process, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.isolated

PROGRAMS = Path(__file__).parent / "programs"
ORDERS = ("plain", "late", "gevent-first", "smolmix-first")


def run(program: str, order: str = "plain", *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    result = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", str(PROGRAMS / program), *arguments],
        env={**environment, "ORDER": order},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    output = f"{program} {order}: exit {result.returncode}\n{result.stdout}\n{result.stderr}"
    assert result.returncode == 0, output
    assert "DONE" in result.stdout, output
    # A socket object of our own that nobody closed; the program's are its own affair.
    assert "<_socket.socket" not in result.stderr, output
    return result


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_libraries_work_unmodified_in_every_order_of_patching(order: str) -> None:
    run("libraries.py", order)


@pytest.mark.parametrize("order", ["plain", "gevent-first", "smolmix-first"])
def test_the_patch_is_undone_exactly(order: str) -> None:
    run("undone.py", order)


@pytest.mark.parametrize("order", ["plain", "gevent-first", "smolmix-first"])
def test_the_name_of_this_machine_can_be_kept_back(order: str) -> None:
    run("hostname.py", order)


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_a_forked_child_fails_closed_and_leaves_the_parent_alone(order: str) -> None:
    run("forks.py", order)


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_the_end_of_the_process_delivers_what_was_written(order: str) -> None:
    run("exits.py", order)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["plain", "gevent-first"])
@pytest.mark.parametrize(
    "connections", [1000, pytest.param(10_000, marks=pytest.mark.long)], ids=["thousand", "ten thousand"]
)
def test_many_sockets_leave_nothing_behind(connections: int, order: str) -> None:
    run("many.py", order, str(connections))


def test_loops_and_resolvers_in_c_that_are_loaded_make_nothing_new() -> None:
    assert "Exception ignored" not in run("loaded.py").stderr


@pytest.mark.parametrize("way", ["both", "word", "options", "environment", "unasked"])
def test_gevents_patch_brings_ours_along_where_asked(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "environment":
        monkeypatch.setenv("SMOLMIX_GEVENT", "1")
    run("gevent_plugin.py", "plain", way)


@pytest.mark.slow
def test_modules_that_are_needed_late_are_there_for_every_thread_of_gevents_pool() -> None:
    run("import_once.py")


@pytest.mark.slow
def test_tls_of_our_own_works_whenever_gevent_patched_the_stdlibs() -> None:
    for order in ("early", "late"):
        run("gevent_tls.py", "plain", order)


@pytest.mark.slow
def test_eventlet_is_carried() -> None:
    run("eventlets.py")


@pytest.mark.parametrize("order", ["plain", "late"])
@pytest.mark.parametrize("resolver", ["ares", "dnspython", "thread"])
def test_names_are_looked_up_in_the_tunnel_whatever_resolver_was_chosen(resolver: str, order: str) -> None:
    run("resolvers.py", order, resolver)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["plain", "gevent-first"])
def test_control_c_ends_every_call_that_waits(order: str) -> None:
    run("interrupted.py", order)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patched", "method"),
    [
        ("patched", "fork"),
        ("patched", "spawn"),
        ("patched", "forkserver"),
        ("plain", "fork"),
        ("plain", "spawn"),
    ],
)
def test_sockets_travel_to_other_processes(patched: str, method: str) -> None:
    run("sharing.py", "plain", patched, method)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "code", "order"),
    [("SIGTERM", -15, "plain"), ("SIGTERM", -15, "gevent-first"), ("exit", 3, "plain")],
)
def test_written_data_arrives_however_the_process_ends(way: str, code: int, order: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / "terminated.py"), way],
        env={**environment, "ORDER": order}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "ALL ARRIVED" in done.stdout, done.stderr


@pytest.mark.parametrize("order", ["plain", "gevent-first"])
def test_forked_children_die_of_sigterm_at_once(order: str) -> None:
    run("terminated_child.py", order)


def test_importing_the_package_loads_and_starts_nothing() -> None:
    run("imports.py")
