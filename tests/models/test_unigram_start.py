import math

import numpy as np
import torch
from torch import Tensor

from ebm_wgpu.models.unigram_start import UnigramStart


class Weights(UnigramStart):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(5))
        self.bias = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))

    def _draw_weights(self, seed: int) -> None:
        self.weight.normal_(generator=torch.Generator().manual_seed(seed))

    def _start_from(self, log_frequencies: Tensor) -> None:
        self.bias.copy_(log_frequencies)


def test_weights_follow_the_seed_and_frequencies_the_counts_plus_one():
    model, counts = Weights(), np.array([0, 1, 6, 9])
    model.initialize(np.zeros(0, np.int64), counts, seed=7)
    expected = [math.log(share / 20) for share in (1, 2, 7, 10)]
    assert torch.allclose(model.bias, torch.tensor(expected, dtype=torch.float64), atol=1e-15)
    assert torch.equal(model.weight, torch.randn(5, generator=torch.Generator().manual_seed(7)))
    before = model.weight.clone()
    model.initialize(np.zeros(0, np.int64), counts, seed=8)
    assert not torch.equal(model.weight, before)
