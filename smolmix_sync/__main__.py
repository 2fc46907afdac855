"""``python -m smolmix_sync``: the same commands as ``smolmix-sync``."""

from smolmix_sync.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
