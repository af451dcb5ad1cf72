"""Tokens as the distinct ones among them, so that what depends on one is computed once for it."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Distinct(NamedTuple):
    """Tokens (P,) as distinct ones (K,) and, for each, which of these it is.

    Attributes:
        tokens: (K,) int64, ascending.
        which: (P,) int64; tokens[which] are the tokens.
    """

    tokens: Tensor
    which: Tensor

    @classmethod
    def of(cls, tokens: Tensor) -> Distinct:
        """Of tokens (P,), where these are; they are read back from a device."""
        distinct, which = torch.unique(tokens.cpu(), return_inverse=True)
        return cls(distinct.to(tokens.device), which.to(tokens.device))

    def padded(self, room: int) -> Distinct:
        """With token 0 again until there are `room`: nothing points at what is added."""
        return Distinct(F.pad(self.tokens, (0, room - len(self.tokens))), self.which)


def room_for(count: int) -> int:
    """The next number from `count` on that is a power of two, or halfway between two of them."""
    power = 1 << (count - 1).bit_length()
    return 3 * power // 4 if count <= 3 * power // 4 else power
