"""Counters of a stack: what passed, and why what did not pass was dropped."""

from __future__ import annotations

__all__ = ["DROP_REASONS", "Counters"]

DROP_REASONS = (
    # IP
    "ip_short",
    "ip_version",
    "ip_length",
    "ip_checksum",
    "ip_header",
    "ip_not_for_us",
    "ip_source",
    "ip_spoofed_own_address",
    "ip_protocol",
    "ipv6_extension",
    "fragment_bad",
    "fragment_overlap",
    "fragment_limit",
    "fragment_timeout",
    # ICMP
    "icmp_short",
    "icmp_checksum",
    "icmp_type",
    "icmp_quote",
    "icmp_unmatched",
    "icmp_rate",
    # UDP
    "udp_short",
    "udp_length",
    "udp_checksum",
    "udp_no_port",
    "udp_queue_full",
    # TCP
    "tcp_short",
    "tcp_checksum",
    "tcp_header",
    "tcp_options",
    "tcp_no_connection",
    "tcp_backlog",
    "tcp_table_full",
    "tcp_unacceptable",
    "tcp_early",
    "tcp_paws",
    "tcp_ack_range",
    # ours
    "control_full",
    "loopback_full",
    "raw_queue_full",
    "too_big_for_room",
    "event_queue_full",
)


class Counters:
    """Plain integers; read them, or take ``snapshot()``."""

    __slots__ = ("drops", "octets_in", "octets_out", "packets_in", "packets_out", "resets_in", "resets_out")

    def __init__(self) -> None:
        self.packets_in = 0
        self.packets_out = 0
        self.octets_in = 0
        self.octets_out = 0
        self.resets_in = 0
        self.resets_out = 0
        self.drops: dict[str, int] = dict.fromkeys(DROP_REASONS, 0)

    def drop(self, reason: str) -> None:
        """Count one dropped packet; *reason* is one of DROP_REASONS."""
        self.drops[reason] += 1

    def snapshot(self) -> dict[str, int]:
        """Return every counter; drop reasons carry the prefix ``drop_``."""
        result = {
            name: getattr(self, name)
            for name in ("packets_in", "packets_out", "octets_in", "octets_out", "resets_in", "resets_out")
        }
        result.update({f"drop_{name}": count for name, count in self.drops.items()})
        return result
