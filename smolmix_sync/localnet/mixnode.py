"""A mix node: takes packets from the layer before, holds each for its own delay, passes it on.

It knows neither sender nor recipient nor content; what it sends looks like nothing it received.
Everything it does is in `SphinxProgram`. Run: ``python -m smolmix_sync.localnet.mixnode``.
"""

from __future__ import annotations

from smolmix_sync.localnet.process import main
from smolmix_sync.localnet.sphinxnode import SphinxProgram

__all__ = ["MixNode"]


class MixNode(SphinxProgram):
    """A node in a mixing layer; a packet that would end here is dropped."""

    forwards = True


if __name__ == "__main__":
    main(MixNode)
