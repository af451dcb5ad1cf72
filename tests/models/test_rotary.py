"""Rotary positions: against complex rotation, and the law that only distances matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.models.rotary import rotary_table, rotate


@pytest.mark.parametrize(("length", "head_dim"), [(1, 2), (7, 4), (33, 16)])
def test_rotation_is_multiplication_by_a_unit_complex_number(length: int, head_dim: int) -> None:
    x = torch.randn(2, 3, length, head_dim, generator=torch.Generator().manual_seed(0))
    cos, sin = rotary_table(length, head_dim)
    half = head_dim // 2
    rates = 10000.0 ** (-2 * np.arange(half) / head_dim)
    turn = np.exp(1j * np.arange(length)[:, None] * rates)
    expected = (x[..., :half] + 1j * x[..., half:]).numpy() * turn
    found = rotate(x, cos, sin)
    np.testing.assert_allclose(found[..., :half], expected.real, atol=1e-6)
    np.testing.assert_allclose(found[..., half:], expected.imag, atol=1e-6)


@given(st.integers(0, 900), st.integers(0, 900), st.integers(0, 100), st.integers(0, 2**31))
def test_products_depend_on_the_distance_alone(m: int, n: int, shift: int, seed: int) -> None:
    q, k = torch.randn(2, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    cos, sin = (table.double() for table in rotary_table(1001, 8))

    def product(a: int, b: int) -> float:
        left, right = (rotate(x, cos[[i]], sin[[i]]) for x, i in ((q, a), (k, b)))
        return float((left * right).sum())

    # The table is float32: its rounding, 6e-8 a factor, is what remains.
    assert product(m, n) == pytest.approx(product(m + shift, n + shift), abs=5e-6)


def test_far_positions_keep_their_digits() -> None:
    cos, sin = rotary_table(100_001, 4)
    angles = 100_000 * 10000.0 ** (-np.array([0.0, 0.5]))
    np.testing.assert_allclose(cos[-1], np.cos(angles), atol=1e-7)
    np.testing.assert_allclose(sin[-1], np.sin(angles), atol=1e-7)
