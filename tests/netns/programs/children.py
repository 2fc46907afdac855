"""Children of every kind: forked ones that have the patch, programs that are started, and theirs."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import smolmix_sync

smolmix_sync.patch_all()

from attempts import try_all  # noqa: E402

CURL = ["curl", "--silent", "--max-time", "3"]
ALONE = "import sys; sys.path.insert(0, sys.argv[1]); from attempts import try_all; print(try_all(few=True)['web'])"


def forked() -> None:
    """Leave by os._exit, as children of fork do."""
    pid = os.fork()
    if pid == 0:
        try:
            try_all(few=True)
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def main() -> None:
    assert try_all()["web"] == "done"
    forked()
    for method in ("fork", "spawn", "forkserver"):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
            pool.submit(try_all, few=True).result(60)
    folder = str(Path(__file__).parent)
    for url in ("http://www.localnet/", "http://10.201.77.2:80/", "http://127.0.0.53:53/"):
        assert subprocess.run([*CURL, url], check=False).returncode in (6, 7), url
    assert os.system(f"{' '.join(CURL)} http://10.201.77.2:80/") != 0
    pid = os.posix_spawnp("curl", [*CURL, "http://10.201.77.2:80/"], os.environ)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    told = subprocess.run(
        [sys.executable, "-c", ALONE, folder], stdout=subprocess.PIPE, text=True, check=True
    )
    assert told.stdout.strip() != "done", told.stdout
    # A child's child, and a shell's.
    nested = f"import subprocess; raise SystemExit(subprocess.call({[*CURL, 'http://10.201.77.2:80/']!r}))"
    assert subprocess.run([sys.executable, "-c", nested], check=False).returncode == 7
    assert subprocess.run(["sh", "-c", "getent hosts www.example.com"], check=False).returncode != 0
    # exec in place of a forked child
    pid = os.fork()
    if pid == 0:
        os.execvp("curl", [*CURL, "http://10.201.77.2:80/"])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    print("DONE", flush=True)


if __name__ == "__main__":
    main()
