from __future__ import annotations

import dataclasses

import pytest

from smolmix_sync.mixnet.settings import TrafficSettings
from smolmix_sync.mixnet.sphinx import PacketSize


def test_the_defaults_are_those_of_the_real_client() -> None:
    settings = TrafficSettings()
    assert (settings.average_packet_delay, settings.average_ack_delay) == (0.015, 0.015)
    assert (settings.ack_wait_multiplier, settings.ack_wait_addition) == (1.5, 1.5)
    assert (settings.primary_packet_size, settings.secondary_packet_size) == (PacketSize.REGULAR, None)
    assert settings.maximum_retransmissions is None
    assert (settings.minimum_surb_threshold, settings.maximum_surb_threshold) == (10, 200)
    assert (settings.minimum_surb_request, settings.maximum_surb_request) == (10, 50)
    assert settings.max_surbs_per_request == 500
    assert settings.reply_key_age == 86_400


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrafficSettings().retransmission = False  # type: ignore[misc]


@pytest.mark.parametrize(
    "wrong",
    [
        {"secondary_packet_size": PacketSize.REGULAR},
        {"secondary_packet_size": PacketSize.ACK},
        {"primary_packet_size": PacketSize.ACK},
        {"surb_answer_batch": 0},
        {"max_surb_answers": 0},
        {"average_packet_delay": -1.0},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        TrafficSettings(**wrong)  # type: ignore[arg-type]
