"""What a tunnel costs that nobody uses: CPU, packets and memory, with the default profile on localnet.

    python benchmarks/bench_idle.py [--seconds 20] [--json FILE]

The network runs in processes of its own, so the CPU counted is the client's: one Sphinx packet with its acknowledgement
built for each slot, and what comes back.
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import Any

from _report import add_output, environment, table, write

from smolmix_sync.localnet import LocalNet
from smolmix_sync.tunnel import Tunnel


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to look")
    add_output(parser)
    arguments = parser.parse_args()
    with LocalNet(set_default=False) as net:
        settings: dict[str, Any] = dict(net.client_settings())
        with Tunnel(**settings) as tunnel:
            time.sleep(3)  # the stock of SURBs at the exit is filled first
            before, used, began = tunnel.stats(), time.process_time(), time.monotonic()
            time.sleep(arguments.seconds)
            after = tunnel.stats()
            took, used = time.monotonic() - began, time.process_time() - used
    packets = after.packets_sent + after.cover_sent - before.packets_sent - before.cover_sent
    with open("/proc/self/statm") as statm:
        resident = int(statm.read().split()[1]) * resource.getpagesize()
    result = {
        "cpu_percent": 100 * used / took,
        "packets_per_second": packets / took,
        "cpu_ms_per_packet": 1000 * used / packets,
        "resident_MB": resident / 1e6,
    }
    print(environment())
    print(table(["", "value"], [[name, value] for name, value in result.items()]))
    write(arguments.json, result)


if __name__ == "__main__":
    main()
