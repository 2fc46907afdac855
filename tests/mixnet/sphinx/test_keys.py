"""Blinding: one ladder per hop gives what the definition's chain of ladders gives."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smolmix_sync import crypto
from smolmix_sync.mixnet.sphinx import keys
from smolmix_sync.mixnet.sphinx.keys import BLINDING_FACTOR, derive_route_secrets, expand

SECRETS = st.binary(min_size=32, max_size=32)


def chain_of_the_definition(initial_secret: bytes, public_keys: list[bytes]) -> list[bytes]:
    scalars, secrets = [initial_secret], []
    for u in public_keys:
        for scalar in scalars:
            u = crypto.x25519(scalar, u)
        secrets.append(expand(u))
        scalars.append(secrets[-1][BLINDING_FACTOR])
    return secrets


@given(SECRETS, st.lists(SECRETS, min_size=1, max_size=5))
def test_one_ladder_per_hop_equals_the_chain(initial_secret: bytes, private_keys: list[bytes]) -> None:
    public_keys = [crypto.x25519_base(key) for key in private_keys]
    alpha, secrets = derive_route_secrets(initial_secret, public_keys, 259)
    assert secrets == chain_of_the_definition(initial_secret, public_keys)
    assert alpha == crypto.x25519_base(initial_secret)


@given(SECRETS, st.lists(SECRETS, min_size=1, max_size=4))
@example(bytes(32), [(2).to_bytes(32, "little")] * 3)  # 2 is on the twist
def test_any_u_coordinate_gives_what_the_chain_gives(initial_secret: bytes, points: list[bytes]) -> None:
    try:
        expected = chain_of_the_definition(initial_secret, points)
    except ValueError:  # low order
        with pytest.raises(ValueError):
            derive_route_secrets(initial_secret, points, 259)
    else:
        assert derive_route_secrets(initial_secret, points, 259)[1] == expected


@given(SECRETS, st.lists(SECRETS, min_size=1, max_size=5), st.sampled_from((1, 257, 258, 259)))
def test_every_node_finds_the_senders_secret(
    initial_secret: bytes, private_keys: list[bytes], version: int
) -> None:
    if int.from_bytes(initial_secret, "little") % crypto.GROUP_ORDER == 0:
        initial_secret = b"\x01" * 32
    public_keys = [crypto.x25519_base(key) for key in private_keys]
    alpha, secrets = derive_route_secrets(initial_secret, public_keys, version)
    for private_key, expanded in zip(private_keys, secrets, strict=True):
        assert expand(crypto.x25519(private_key, alpha)) == expanded
        alpha = keys.blind(alpha, expanded[BLINDING_FACTOR], version)


@given(st.integers(0, crypto.GROUP_ORDER - 1))
@example(0)
@example(8)
def test_clamped_form_is_left_alone_by_clamping(product: int) -> None:
    scalar = keys._clamped_form(product)
    if scalar is None:
        assert min(product, crypto.GROUP_ORDER - product) < 2**128
        return
    number = int.from_bytes(scalar, "little")
    assert keys._clamp(scalar) == number
    assert number % crypto.GROUP_ORDER in (product, crypto.GROUP_ORDER - product)


def test_scalar_without_a_clamped_form_takes_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    public_keys = [crypto.x25519_base(bytes((i,)) * 32) for i in range(3)]
    expected = derive_route_secrets(b"s" * 32, public_keys, 259)
    monkeypatch.setattr(keys, "_clamped_form", lambda product: None)
    assert derive_route_secrets(b"s" * 32, public_keys, 259) == expected


def test_key_on_the_twist_is_refused_where_blinding_is_modulo_the_order() -> None:
    with pytest.raises(ValueError, match="curve"):
        derive_route_secrets(b"s" * 32, [(2).to_bytes(32, "little")], 257)


def test_secret_of_zero_is_refused_where_blinding_is_modulo_the_order() -> None:
    with pytest.raises(ValueError, match="clamped"):
        derive_route_secrets(bytes(32), [crypto.x25519_base(b"k" * 32)], 1)
