"""Rows of splats that have grown."""

import torch
from torch import nn

from ebm_wgpu.training.grown_rows import GrownRows, is_splat_parameter

ROWS = GrownRows(torch.tensor([0, 0, -1, 1]), torch.tensor([False, True, True, False]))


def test_rows_come_from_their_origin_or_are_zero():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert ROWS.take(values, new=True).tolist() == [[1, 2], [1, 2], [0, 0], [3, 4]]
    assert ROWS.take(values, new=False).tolist() == [[1, 2], [0, 0], [0, 0], [3, 4]]
    assert ROWS.take(values[:, 0], new=True).tolist() == [1, 1, 0, 3]
    assert values.tolist() == [[1, 2], [3, 4]]


def test_parameters_of_splats_say_so():
    """A parameter that learns at the rate of splats need not have a row for each of them."""
    plain, mu, number = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    mu.splat_rows = True
    number.splat_rate = True
    assert [is_splat_parameter(p) for p in (plain, mu, number)] == [False, True, False]
