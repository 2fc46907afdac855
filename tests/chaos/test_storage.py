"""A disk that takes no more, or nothing at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

#: Runs with a folder of 64 KiB of its own; nothing listens where it is told to look for the directory.
PROGRAM = """
import errno, subprocess, sys
from pathlib import Path
from smolmix_sync.errors import SmolmixError
from smolmix_sync.reactor.identity import ClientIdentity, IdentityStore
from smolmix_sync.tunnel import Tunnel

folder = Path(sys.argv[1])

def refused(*numbers):
    try:
        Tunnel(client_id="me", storage_path=folder, nym_api="http://127.0.0.1:1/", connect_timeout=5)
    except SmolmixError as problem:
        assert problem.errno in numbers, problem
        assert str(folder / "me") in str(problem), problem
    else:
        raise AssertionError("it started")

store = IdentityStore(folder / "me")
store.save(ClientIdentity.generate())
store.close()
kept = (folder / "me" / "identity.json").read_bytes()

with open(folder / "filling", "wb", buffering=0) as filling:
    try:
        while True:
            filling.write(bytes(4096))
    except OSError as full:
        assert full.errno == errno.ENOSPC
refused(errno.ENOSPC)
assert (folder / "me" / "identity.json").read_bytes() == kept
assert sorted(path.name for path in (folder / "me").iterdir()) == ["identity.json", "lock"]

subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
refused(errno.EROFS)
assert (folder / "me" / "identity.json").read_bytes() == kept

subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
(folder / "filling").unlink()
store = IdentityStore(folder / "me")
identity = store.load()
assert identity is not None and identity.encode() == kept
store.save(identity)
print("DONE")
"""


@pytest.mark.isolated
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare")
def test_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=64k,mode=700 none "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, "sh", str(tmp_path), sys.executable, PROGRAM],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "DONE" in done.stdout, done.stderr
