"""Rows of splats that have grown: what a tensor with a row a splat becomes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class GrownRows:
    """Where the M rows of a tensor come from whose splats have grown.

    Attributes:
        origin: (M,) int64, the row of the splat that a splat was or split off; -1 for none.
        born: (M,) bool, which splats are new.
    """

    origin: Tensor
    born: Tensor

    def take(self, values: Tensor, *, new: bool) -> Tensor:
        """The rows of `values` (N, ...) by origin, (M, ...), where `values` are.

        Without an origin a row is 0; and so are those of new splats unless `new`.
        """
        rows = values.detach().cpu()[self.origin]
        rows[self.origin < 0 if new else self.born] = 0
        return rows.to(values.device)


def is_splat_parameter(parameter: nn.Parameter) -> bool:
    """Whether a parameter has a row a splat, which it says by the attribute `splat_rows`."""
    return bool(getattr(parameter, "splat_rows", False))
