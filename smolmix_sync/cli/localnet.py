"""``smolmix-sync localnet``: the embedded network in the foreground."""

from __future__ import annotations

from smolmix_sync.localnet.__main__ import add_arguments, run

__all__ = ["add_arguments", "run"]
