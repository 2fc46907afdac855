"""A forked child dies of SIGTERM at once, also of one that came before it was set up."""

from __future__ import annotations

import os
import signal
import time
import warnings

import _order

warnings.simplefilter("ignore", DeprecationWarning)  # threads and fork
_order.network()

assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        time.sleep(30)
        os._exit(1)
    os.kill(pid, signal.SIGTERM)
    began = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
    assert time.monotonic() - began < 5, "it waited for something"
assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
_order.done()
