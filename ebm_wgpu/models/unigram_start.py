"""How models that start from the token frequencies get their first values."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn


class UnigramStart(nn.Module):
    """A model of random weights whose first predictions may follow the token frequencies."""

    @torch.no_grad()
    def initialize(
        self,
        corpus_ids: npt.NDArray[np.integer[Any]],
        token_counts: npt.NDArray[np.integer[Any]],
        seed: int,
        vocabulary: Sequence[str] | None = None,
    ) -> None:
        """Draw all weights from `seed`, and start from the frequencies (each count plus one).

        Args:
            corpus_ids: the training text, (n,).
            token_counts: how often each token occurs in it, (V,).
            seed: of the weights.
            vocabulary: changes nothing.
        """
        self._draw_weights(seed)
        counts = torch.from_numpy(np.asarray(token_counts, np.float64)) + 1
        self._start_from((counts / counts.sum()).log())

    @abstractmethod
    def _draw_weights(self, seed: int) -> None:
        """Draw all weights anew."""

    @abstractmethod
    def _start_from(self, log_frequencies: Tensor) -> None:
        """Take over the logarithm of the token frequencies, (V,) float64."""
