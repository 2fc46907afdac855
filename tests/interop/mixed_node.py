"""One node of ours inside the namespace of a network, told what to do line by line.

Reads one JSON object a line from stdin, ``{"step": "stats"}`` or ``{"step": "restart"}``, and answers each with the
node's counters on stdout. The first line of output is what the directory has to be told. The command line's arguments
are the node's role and its other settings as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from smolmix_sync.localnet import LocalNode
from smolmix_sync.localnet.plan import NodeKeys


def main(role: str, settings: dict[str, Any]) -> None:
    keys = NodeKeys.generate()
    node = LocalNode(role, keys=keys, **settings).start()
    try:
        facts = node.facts()
        print(json.dumps(facts), flush=True)
        ports = {name: facts[name] for name in ("mix_port", "ws_port") if facts[name] is not None}
        for line in sys.stdin:
            if json.loads(line)["step"] == "restart":
                node.stop()
                node = LocalNode(role, keys=keys, **settings, **ports).start()
            print(json.dumps(node.stats()), flush=True)
    finally:
        node.stop()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
