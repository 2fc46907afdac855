"""Threads of gevent's pool that need the same modules at once all get them, after gevent's patch."""

# ruff: noqa: E402 - gevent's patch comes first
from __future__ import annotations

import faulthandler
import os
import sys
import tempfile

sys.setswitchinterval(1e-5)
faulthandler.dump_traceback_later(30, exit=True)
from gevent import monkey

monkey.patch_all()

import gevent

from smolmix_sync.reactor._originals import import_once

with tempfile.TemporaryDirectory() as folder:
    sys.path.insert(0, folder)
    names = [f"late_module_{number}" for number in range(300)]
    for name in names:
        with open(os.path.join(folder, f"{name}.py"), "w") as file:
            file.write("rows = [row for row in range(20000)]\nDONE = True\n")
    pool = gevent.get_hub().threadpool
    for start in range(0, len(names), 3):
        tasks = [pool.spawn(import_once, *names[start : start + 3]) for _ in range(8)]
        gevent.joinall(tasks, raise_error=True)
    assert all(sys.modules[name].DONE for name in names)
print("DONE", flush=True)
