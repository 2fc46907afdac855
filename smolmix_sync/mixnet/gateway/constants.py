"""Numbers and texts of the client-to-gateway protocol."""

from __future__ import annotations

from typing import Final

# From the specification (spec/gateway.md); never tuned.

#: The protocol version this code speaks (section 2).
PROTOCOL_VERSION: Final = 6
#: The lowest version at which both ends still talk to each other (section 2).
MIN_PROTOCOL_VERSION: Final = 4
#: From this version on forwarded packets carry the key-rotation octet (section 2).
KEY_ROTATION_VERSION: Final = 5
#: Size of the only key both sides share.
SHARED_KEY_SIZE: Final = 32
#: AES-256-GCM-SIV nonce and tag (section 2).
NONCE_SIZE: Final = 12
TAG_SIZE: Final = 16
#: What one ``claimFreeTestnetBandwidth`` is worth, 64 GiB (section 7.2).
FREE_BANDWIDTH: Final = 64 * 1024**3
#: Below this balance a client claims before it sends (section 7.1).
BANDWIDTH_THRESHOLD: Final = 40_000_000
#: Balance a gateway reports at least while the network is in upgrade mode (section 7.1).
UPGRADE_MODE_BANDWIDTH: Final = BANDWIDTH_THRESHOLD + 1
#: What one mixnet entry ticket is worth (section 7.3).
TICKET_BANDWIDTH: Final = 200_000_000
#: How far the clocks of client and gateway may differ, seconds (section 5).
MAX_CLOCK_SKEW: Final = 120
#: Length of a day; balances expire at 00:00 UTC (section 7.1).
DAY: Final = 86_400
#: How long a gateway waits for each text before authentication, seconds (section 4.3).
INITIAL_MESSAGE_TIMEOUT: Final = 10.0
#: How long each side waits for a handshake message, seconds (section 4.3).
HANDSHAKE_TIMEOUT: Final = 5.0
#: A live connection has this long to answer a duplicate probe, its handler that long to report (section 9.2).
DUPLICATE_PONG_TIMEOUT: Final = 1.0
DUPLICATE_HANDLER_TIMEOUT: Final = 2.0
#: An offline message is kept this long, seconds (section 8.2).
OFFLINE_MESSAGE_LIFETIME: Final = 86_400.0
#: A pushed plaintext of this length is an acknowledgement (section 8.1).
ACK_PLAINTEXT_SIZE: Final = 21

# Error texts of the reference gateway (sections 4.5, 5, 6, 7.2, 9.2).

ERROR_ONLY_REGISTER_OR_AUTHENTICATE: Final = "Only 'Register' or 'Authenticate' requests are allowed"
ERROR_LEGACY_AUTHENTICATION: Final = (
    "the legacy authentication method is no longer supported. please update your client"
)
ERROR_PREMATURE_BINARY: Final = (
    "possibly received a sphinx packet without prior authentication. Request is going to be ignored"
)
ERROR_UNEXPECTED_MESSAGE: Final = "received a Message of type {kind} which was not expected in this context"
ERROR_INITIAL_TIMEOUT: Final = "timed out while waiting for initial data"
ERROR_HANDSHAKE_PREFIX: Final = "Failed to perform registration handshake: "
ERROR_HANDSHAKE_SIGNATURE: Final = "received invalid signature"
ERROR_HANDSHAKE_MALFORMED: Final = "sent request was malformed"
ERROR_CRYPTO: Final = "failed to either encrypt or decrypt provided message"
ERROR_HANDSHAKE_TIMEOUT: Final = "timed out waiting for a handshake message"
ERROR_DUPLICATE: Final = "There is already an open connection to this client"
ERROR_INCOMPATIBLE_VERSION: Final = (
    "Attempted to negotiate connection with client using incompatible protocol version. "
    "Ours is {ours} and the client reports {theirs}"
)
ERROR_SKEWED_PREFIX: Final = "the provided request timestamp is excessively skewed"
ERROR_SKEWED: Final = ERROR_SKEWED_PREFIX + ". got {theirs} whilst the server time is {ours}"
ERROR_BAD_SIGNATURE: Final = "failed to verify request signature"
ERROR_NOT_REGISTERED: Final = "the client is not registered"
ERROR_BAD_ADDRESS: Final = "failed to verify provided address ciphertext"
ERROR_TIMESTAMP_REUSED: Final = "the provided request timestamp is smaller or equal to one previously used"
ERROR_STALE_AUTHENTICATION: Final = "attempted to overwrite client session with a stale authentication"
ERROR_TICKETS_ONLY: Final = "This gateway is only accepting coconut credentials for bandwidth"
ERROR_MALFORMED_BINARY_PREFIX: Final = "Provided binary request was malformed - "
ERROR_MALFORMED_TEXT_PREFIX: Final = "Provided text request was malformed - "
ERROR_FRAME_TOO_SHORT: Final = "the request is too short"
ERROR_FRAME_FLAG: Final = "the encryption flag had an unexpected value"
ERROR_FRAME_KIND: Final = "received request with an unknown kind: {kind}"
ERROR_FRAME_ADDRESS: Final = "address field was incorrectly encoded"
ERROR_FRAME_PACKET: Final = "failed to serialise created sphinx packet: {reason}"

# Ours: the reference's words for these are not in the specification.
ERROR_UNEXPECTED_REQUEST: Final = "the request is not allowed on an authenticated connection"
ERROR_TICKET_REFUSED: Final = "this gateway does not verify credentials"
