"""A program starts with the signal mask of the thread that starts it, whichever thread of ours does it for that one."""

from __future__ import annotations

import signal
import subprocess
import sys

import _order

MASK = [
    sys.executable, "-S", "-c", "import signal; print(sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))))",
]  # fmt: skip


def mask_of_child() -> str:
    return subprocess.run(MASK, capture_output=True, text=True, check=True).stdout.strip()


signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # as multiprocessing does for its helpers
assert mask_of_child() == f"[{int(signal.SIGTERM)}]", mask_of_child()
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
assert mask_of_child() == "[]", mask_of_child()
_order.done()
