"""One message client of ours inside the namespace of a network, told what to do line by line.

Reads one JSON object a line from stdin, ``{"step": NAME, ...}``, and answers each with one on stdout. The first
line of output is the set-up's. The command line's argument is the client's settings as JSON.
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

from smolmix_sync.client import MixnetClient

Json = dict[str, Any]


class Steps:
    """What can be asked for; each method is a step."""

    def __init__(self, client: MixnetClient) -> None:
        self.client = client

    def echoed(self, recipient: str, data: str) -> Json:
        """Send a message with SURBs and wait for the answer that comes by them."""
        self.client.send(recipient, bytes.fromhex(data), surbs=10)
        received = self.client.receive(timeout=90)
        return {"data": received.data.hex(), "is_reply": received.is_reply}

    def answer(self) -> Json:
        """Wait for a message and send it back by the SURBs that came with it."""
        received = self.client.receive(timeout=90)
        assert received.sender_tag is not None
        self.client.send_reply(received.sender_tag, received.data)
        return {"size": len(received.data), "sha256": hashlib.sha256(received.data).hexdigest()}


def say(told: Json) -> None:
    print(json.dumps(told), flush=True)


def main(settings: Json) -> None:
    with MixnetClient(**settings) as client:
        say({"address": str(client.nym_address)})
        steps = Steps(client)
        for line in sys.stdin:
            asked = json.loads(line)
            try:
                say(getattr(steps, asked.pop("step"))(**asked))
            except Exception as error:
                say({"failed": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
