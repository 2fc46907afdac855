"""Fuzz every decoder of octets from outside: WireError is the only exception they may raise.

    pip install atheris
    python fuzz/fuzz_decoders.py [--runs 1000000] [--corpus FOLDER] [NAME ...]

Runs each target (those whose name contains one of NAME, else all; tests/support/decoders.py) in a process of its
own, from the octets of the vectors, and prints executions per second. The first find ends the run; libFuzzer's file
``crash-...`` is the input. A find becomes a case in the tests of its decoder.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

#: Marks the process that fuzzes one target.
_CHILD = "--target"


def fuzz(name: str, arguments: list[str]) -> None:
    """Fuzz one target in this process."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["smolmix_sync"]):
        decoders: Any = importlib.import_module("support.decoders")
    target, one = decoders.TARGETS[name], decoders.one
    atheris.Setup([sys.argv[0], *arguments], lambda data: one(target, data))
    atheris.Fuzz()


def main() -> int:
    """Run the targets one after the other."""
    if sys.argv[1:2] == [_CHILD]:
        fuzz(sys.argv[2], sys.argv[3:])
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs for each target")
    parser.add_argument(
        "--corpus", type=Path, help="keep what was found interesting, a folder for each target"
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    try:
        importlib.import_module("atheris")
    except ImportError:
        print("skipped: atheris is not installed (tests/test_decoders.py runs mutated vectors without it)")
        return 0
    decoders: Any = importlib.import_module("support.decoders")
    wanted = arguments.names
    chosen = [name for name in decoders.TARGETS if not wanted or any(part in name for part in wanted)]
    with tempfile.TemporaryDirectory() as scratch:
        initial = Path(scratch, "seeds")
        initial.mkdir()
        for index, seed in enumerate(decoders.seeds()):
            (initial / str(index)).write_bytes(seed)
        for name in chosen:
            corpus = (arguments.corpus or Path(scratch)) / name.replace(":", "-")
            corpus.mkdir(parents=True, exist_ok=True)
            began = time.monotonic()
            done = subprocess.run(
                [sys.executable, __file__, _CHILD, name, f"-runs={arguments.runs}", "-max_len=20000", "-timeout=10",
                 "-rss_limit_mb=2048", "-verbosity=0", str(corpus), str(initial)],
                check=False, capture_output=True, text=True,
            )  # fmt: skip
            rate = arguments.runs / (time.monotonic() - began)
            print(f"{name}: {'ok' if done.returncode == 0 else 'FOUND'} ({rate:.0f}/s)", flush=True)
            if done.returncode:
                print(done.stderr[-5000:])
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
