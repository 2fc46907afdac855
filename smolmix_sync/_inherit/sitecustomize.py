"""Patches a Python program that was started by a process with ``patch_all(children="patch")``.

The folder of this file is first in PYTHONPATH. The machine's own ``sitecustomize``, if there is one, runs afterwards.
"""

from __future__ import annotations

import os
import sys

_here = os.path.dirname(os.path.abspath(__file__))


def _patch() -> None:
    try:
        from smolmix_sync._children import patch_inherited
    except ImportError as problem:
        # Another interpreter, without the package: it stays unpatched, and under the filter.
        print(f"smolmix_sync: this program has no network: {problem}", file=sys.stderr)
    else:
        patch_inherited()


def _run_next() -> None:
    for folder in sys.path:
        path = os.path.join(folder, "sitecustomize.py")
        if os.path.abspath(folder) != _here and os.path.isfile(path):
            with open(path, "rb") as file:
                code = compile(file.read(), path, "exec")
            exec(code, {"__name__": "sitecustomize", "__file__": path})
            return


_patch()
_run_next()
