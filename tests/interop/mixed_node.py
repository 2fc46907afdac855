"""One node of ours inside the namespace of a network, told what to do line by line.

Reads one JSON object a line from stdin, ``{"step": "stats"}``, and answers each with the node's counters on stdout.
The first line of output is what the directory has to be told. The command line's arguments are the node's role and
its other settings as JSON.
"""

from __future__ import annotations

import json
import sys

from smolmix_sync.localnet import LocalNode

if __name__ == "__main__":
    with LocalNode(sys.argv[1], **json.loads(sys.argv[2])) as node:
        print(json.dumps(node.facts()), flush=True)
        for _ in sys.stdin:
            print(json.dumps(node.stats()), flush=True)
