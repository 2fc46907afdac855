"""What can be tuned in the stack, and the limits on everything a peer can grow.

Source: spec/netstack.md section 4 (values measured on the mixnet model).
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["StackConfig", "TcpSettings"]


@dataclass(slots=True)
class TcpSettings:
    """Options of one connection; a listener's are copied to what it accepts.

    After changing one on a live connection call ``Conn.settings_changed()``.
    """

    nodelay: bool = False
    """TCP_NODELAY: send small segments while earlier ones are unacknowledged."""
    cork: bool = False
    """TCP_CORK: hold a partial segment back until this is cleared, or FIN."""
    quickack: bool = False
    """TCP_QUICKACK: acknowledge every segment at once."""
    keepalive: bool = False
    """SO_KEEPALIVE."""
    keep_idle: float = 7200.0
    """TCP_KEEPIDLE: seconds of silence before the first probe."""
    keep_interval: float = 75.0
    """TCP_KEEPINTVL: seconds between probes."""
    keep_count: int = 9
    """TCP_KEEPCNT: unanswered probes before ETIMEDOUT."""
    user_timeout: float = 120.0
    """TCP_USER_TIMEOUT: seconds data may stay unacknowledged before ETIMEDOUT (RFC 1122 R2); 0: the default."""
    syn_retries: int = 6
    """TCP_SYNCNT: SYN retransmissions before ETIMEDOUT."""
    linger_reset: bool = False
    """SO_LINGER with l_onoff=1, l_linger=0: ``close`` sends RST and discards."""
    sndbuf: int = 256 * 1024
    """Send buffer in octets; also the congestion window's ceiling. Unpaced tunnels want 1 MiB."""
    rcvbuf: int = 1 << 20
    """Receive buffer in octets; before the handshake it takes part in choosing the window scale."""
    rcvbuf_max: int = 4 << 20
    """The receive buffer grows up to this while the reader keeps up (equal to rcvbuf: fixed)."""
    congestion: str | None = None
    """Congestion control: "mix", "cubic" or "none"; None takes ``StackConfig.congestion``. Before connect only."""
    max_segment: int | None = None
    """TCP_MAXSEG: upper bound on the segment size, both directions; before connect only."""

    def __copy__(self) -> TcpSettings:
        """Return a copy: one is made for every connection, and copy's generic way takes ten times as long."""
        new = object.__new__(TcpSettings)
        for name in TcpSettings.__slots__:
            setattr(new, name, getattr(self, name))
        return new


@dataclass(frozen=True, slots=True)
class StackConfig:
    """Settings of a whole stack."""

    tcp: TcpSettings = field(default_factory=TcpSettings)
    """Settings every new connection starts from (copied)."""

    rx_mtu: int = 1420
    """Largest packet the far side can bring to us; the MSS we advertise is this less the headers (1380/1360)."""
    tx_mtu: int = 1500
    """Largest packet we make, until ICMP says less."""
    datagram_mtu: int = 1498
    """Largest packet of a datagram: unlike a segment it is not cut to the room of a 1500-octet bundle,
    which it shares with its 2-octet length."""
    loopback_mtu: int = 65535
    """Largest packet between two sockets of this stack (``loopback=True``)."""

    timestamps: bool = True
    """Offer RFC 7323 timestamps."""
    sack: bool = True
    """Offer selective acknowledgements, both ways."""
    window_scale: bool = True
    """Offer window scaling."""

    initial_window: int = 10
    """Segments sent before the first acknowledgement (RFC 6928)."""
    congestion: str = "mix"
    """Congestion control of new connections: "mix", "cubic" or "none" (``TcpSettings.congestion`` overrides)."""
    reo_srtt: float = 1.0
    """Share of SRTT a segment may be overtaken by before it counts as lost."""
    reo_rttvar: float = 1.0
    """Share of RTTVAR added to that."""
    reo_adaptive: bool = False
    """Use the window of RFC 8985 instead: a quarter of the shortest round trip, more after each mistake."""
    tail_probe: bool = True
    """Probe for the loss of the last segments before the retransmission timeout (RFC 8985 section 7)."""
    tail_probe_min: float = 0.5
    """Least wait before such a probe."""

    rto_initial: float = 1.0
    """Retransmission timeout of a SYN; more when earlier handshakes took longer."""
    rto_min: float = 1.0
    """Least retransmission timeout."""
    rto_max: float = 60.0
    """Greatest retransmission timeout; back-off stops there."""
    persist_min: float = 0.5
    """Least wait before a closed window is probed."""
    persist_max: float = 60.0
    """Greatest wait between two probes."""

    ack_every: int = 16
    """Segments after which an acknowledgement no longer waits."""
    ack_delay: float = 0.020
    """How long in-order data may wait for its acknowledgement."""
    ooo_ack_delay: float = 0.020
    """The same for data that arrived out of order: on a mixnet most does."""
    ack_starve: float = 0.050
    """A bare acknowledgement waiting longer than this goes before new data."""

    time_wait: float = 10.0
    """How long a closed pair of ports is kept, shortened from 2 MSL."""
    fin_wait_2: float = 60.0
    """How long a closed connection waits for the peer's FIN."""
    paws_slack: float = 60.0
    """How far back a timestamp may lie before the segment is dropped: reordering is not old age."""

    port_min: int = 49152
    """First ephemeral port."""
    port_max: int = 65535
    """Last ephemeral port."""

    max_connections: int = 4096
    """Connections in the table, TIME-WAIT included."""
    max_incoming: int = 256
    """``any_address``: connection requests waiting for accept or refuse."""
    incoming_timeout: float = 75.0
    """``any_address``: how long a connection request waits for its owner."""
    max_datagrams: int = 1024
    """``any_address``: datagrams waiting for the owner."""
    max_control: int = 512
    """RST, ICMP and probe packets waiting to leave; the newest are dropped beyond that."""
    udp_sndbuf: int = 212992
    """Octets a UDP socket may have waiting to be sent."""
    udp_rcvbuf: int = 212992
    """Octets a UDP socket may have waiting to be read."""

    reassembly_datagrams: int = 16
    """Datagrams whose fragments are collected at a time."""
    reassembly_timeout: float = 15.0
    """Seconds from the first fragment until the others are given up."""
    reassembly_octets: int = 65535
    """Size of one reassembled datagram."""

    pmtu_lifetime: float = 600.0
    """Seconds a path MTU learned from ICMP is believed."""
    pmtu_entries: int = 1024
    """Destinations with a path MTU of their own."""

    echo_rate: float = 10.0
    """ICMP echo replies per second."""
    icmp_rate: float = 10.0
    """ICMP errors sent per second."""
    challenge_rate: float = 10.0
    """Challenge ACKs per second and connection (RFC 5961)."""
    port_unreachable: bool = False
    """Answer datagrams to closed UDP ports with ICMP; off because it tells the far side and costs a packet."""
    parameter_problem: bool = False
    """Answer IPv6 packets of an unknown protocol with ICMPv6 (RFC 8200 section 4); off for the same reason."""
