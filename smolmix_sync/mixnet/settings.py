"""What can be tuned in the message layer, with the defaults of the real client.

Source: spec/message-layer.md section 14; common/client-core/config-types/src/lib.rs.
"""

from __future__ import annotations

from dataclasses import dataclass

from smolmix_sync.mixnet.sphinx import PacketSize

__all__ = ["TrafficSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSettings:
    """Settings of one :class:`~smolmix_sync.mixnet.client.MixnetCore`; times in seconds, sizes in octets."""

    # -- the mixnet ------------------------------------------------------------------------------------------
    #: Mean of the exponential delay at each hop of data packets and of reply SURBs.
    average_packet_delay: float = 0.015
    #: Mean of the exponential delay at each hop of SURB-acks.
    average_ack_delay: float = 0.015
    #: Packet size of every message, unless the secondary one needs fewer packets.
    primary_packet_size: PacketSize = PacketSize.REGULAR
    #: A larger size, used when it needs strictly fewer packets. None: primary only.
    secondary_packet_size: PacketSize | None = None
    #: Share of loop cover packets in the primary size when there is a secondary one.
    cover_primary_size_ratio: float = 0.70
    #: Send straight to the recipient's gateway, for data, acks and SURBs (cover keeps its mix hops).
    disable_mix_hops: bool = False

    # -- retransmission --------------------------------------------------------------------------------------
    #: False: nothing is sent twice (each packet still carries its SURB-ack, so the wire looks the same).
    retransmission: bool = True
    #: Time-out of a packet = expected round trip * multiplier + addition.
    ack_wait_multiplier: float = 1.5
    ack_wait_addition: float = 1.5
    #: Upper limit for any packet; None is the real client's default. A send may ask for fewer.
    maximum_retransmissions: int | None = None
    #: Limit for replies and for SURB requests.
    reply_retransmissions: int = 10
    #: Packets whose ack is awaited at the same time; beyond it the oldest is forgotten.
    max_pending_acks: int = 16384

    # -- sending queues --------------------------------------------------------------------------------------
    #: Packets waiting in the data lanes, and (separately) in the control lane; a send beyond it is refused.
    max_queued_packets: int = 8192
    #: Largest message that may be sent or reassembled.
    max_message_size: int = 4 * 1024 * 1024

    # -- reassembly ------------------------------------------------------------------------------------------
    #: An incomplete set is dropped this long after its last fragment.
    reassembly_timeout: float = 1800.0
    #: How often incomplete sets are looked through.
    reassembly_sweep: float = 10.0
    #: Incomplete fragment sets held; beyond it the one longest without a fragment is dropped.
    max_fragment_sets: int = 4096
    #: Octets held in incomplete sets; the same rule.
    max_reassembly_bytes: int = 32 * 1024 * 1024
    #: Finished set ids remembered, so that late retransmissions are not taken for new messages.
    max_recent_sets: int = 32768

    # -- our own SURBs -----------------------------------------------------------------------------------------
    #: Reply keys older than this are forgotten.
    reply_key_age: float = 24 * 3600.0
    #: Reply keys held; beyond it the oldest is forgotten.
    max_reply_keys: int = 65536
    #: Peers we have sent a sender tag to; beyond it the one longest unused is forgotten.
    max_recipients: int = 4096
    #: SURBs granted to one request at most.
    max_surbs_per_request: int = 500
    #: SURBs in one answering message: 17 fill five regular packets; a lost fragment holds up no more than these.
    surb_answer_batch: int = 17
    #: Answers to one peer that may wait to be sent; further requests are added up until one has left.
    max_surb_answers: int = 2
    #: A SURB counts as lost this long after another one came back that was given this much later.
    surb_spent_after: float = 4.0
    #: Headers built ahead of need in idle time, for acks and for SURBs (two answers' worth).
    prepared_acks: int = 8
    prepared_surbs: int = 34

    # -- SURBs given to us ---------------------------------------------------------------------------------------
    #: SURBs of a sender that only SURB requests may spend.
    minimum_surb_threshold: int = 10
    #: No more are asked for above this.
    maximum_surb_threshold: int = 200
    #: How many above the minimum to aim for (0 in the client, 50 in nym-node's IPR).
    surb_threshold_buffer: int = 0
    #: Smallest and largest number in one request.
    minimum_surb_request: int = 10
    maximum_surb_request: int = 50
    #: Silence after which a sender with waiting replies is asked again, how often, and when it is given up.
    surb_rerequest_after: float = 10.0
    maximum_surb_rerequests: int = 5
    surb_drop_after: float = 300.0
    #: How often senders with waiting replies are looked at.
    surb_rerequest_sweep: float = 5.0
    #: Senders whose SURBs are held; beyond it the one longest silent is forgotten.
    max_senders: int = 4096
    #: A SURB is dropped at this age, whatever the key rotation says: the life of a node's key, 25 epochs.
    received_surb_age: float = 25 * 3600.0
    #: SURBs held per sender; more are refused.
    max_surbs_per_sender: int = 2000
    #: Reply packets waiting per sender; a reply beyond it is refused.
    max_queued_replies: int = 2048
    #: Length of an epoch: SURBs of a past key rotation become stale after an eighth of it, and go after one.
    epoch_duration: float = 3600.0

    # -- events ----------------------------------------------------------------------------------------------
    #: Events that wait for next_event; beyond it the oldest is dropped and counted.
    max_events: int = 8192

    def __post_init__(self) -> None:
        if PacketSize.ACK in (self.primary_packet_size, self.secondary_packet_size):
            raise ValueError("messages do not fit into packets of the ack size")
        if self.primary_packet_size is self.secondary_packet_size:
            raise ValueError("the secondary packet size equals the primary one")
        if self.average_packet_delay < 0 or self.average_ack_delay < 0:
            raise ValueError("a delay cannot be negative")
        if self.surb_answer_batch < 1 or self.max_surb_answers < 1:
            raise ValueError("SURB requests must be answered")
