"""A softmax over a large vocabulary in two steps, exactly normalised and a tenth of the products.

Token ids below the first bound are scored together with one logit a class; each class is a range of
the ids above, with a softmax of its own:

    p(w) = softmax(head)[w]                                  for ids in the head
    p(w) = softmax(head)[class i] softmax(class i)[w]        for ids in class i

The probabilities of all tokens sum to one, so that a perplexity under it is as exact as under one
softmax over all. Tokenizers that count words or merges give frequent tokens low ids, and then most
targets need the products with the head alone.

Source: Goodman 2001 (arXiv:cs/0108006); Grave et al. 2017 (arXiv:1609.04309), here with the full
width in every class, tied to the embedding.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebm_wgpu.errors import ConfigError

_ROWS = 64
"""Rows of a class are padded to a multiple of it: libraries compile a product anew for each shape,
which costs more than the product."""


class ClassSoftmax(nn.Module):
    """log p(w | h) over the rows of a tied matrix, by classes of token ids.

    Without bounds it is one softmax over all tokens.

    Attributes:
        widths: ids of the head and of each class.
        class_weight: (n_classes, dim), the direction of each class as a whole.
        class_bias: (n_classes,).
    """

    def __init__(self, vocab_size: int, dim: int, bounds: tuple[int, ...]) -> None:
        """Classes of zero weights until `reset`.

        Args:
            vocab_size: number of token ids V.
            dim: width of the states.
            bounds: first id of each class, ascending, within (0, V).

        Raises:
            ConfigError: a class would have no tokens.
        """
        super().__init__()
        if bounds and bounds[-1] >= vocab_size:
            raise ConfigError(
                f"transformer.class_bounds={','.join(map(str, bounds))} must lie below the "
                f"{vocab_size} token ids: leave out the last, or all with none"
            )
        self.bounds = bounds
        ends = (0, *bounds, vocab_size)
        self.widths = [stop - start for start, stop in itertools.pairwise(ends)]
        self.class_weight = nn.Parameter(torch.zeros(len(bounds), dim))
        self.class_bias = nn.Parameter(torch.zeros(len(bounds)))

    @torch.no_grad()
    def reset(self, log_frequencies: Tensor) -> None:
        """Start from the frequencies: class biases are those of their members together, (V,)."""
        self.class_weight.zero_()
        for index, part in enumerate(log_frequencies.split(self.widths)[1:]):
            self.class_bias[index] = part.logsumexp(0)

    def target_log_probs(self, h: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        """log p(targets[p] | h[p]), (P,) nats, for states (P, dim), computed where needed alone.

        Args:
            h: states.
            weight: (V, dim).
            bias: (V,).
            targets: (P,) int64.
        """
        head, *tails = zip(weight.split(self.widths), bias.split(self.widths), strict=True)
        log_head = self._log_head(h, *head)
        bounds = torch.tensor(self.bounds, dtype=targets.dtype, device=targets.device)
        which = (targets[:, None] >= bounds).sum(1)
        n_head = self.widths[0]
        slot = torch.where(which == 0, targets, n_head + which - 1)
        chosen = log_head.gather(1, slot[:, None])[:, 0]
        for index, (rows, shift) in enumerate(tails):
            (members,) = torch.nonzero(which == index + 1, as_tuple=True)
            if len(members):
                padded = F.pad(members, (0, -len(members) % _ROWS))
                log_p = F.log_softmax(F.linear(h[padded], rows, shift), 1, dtype=bias.dtype)
                local = targets[members] - self.bounds[index]
                inner = log_p[: len(members)].gather(1, local[:, None])[:, 0]
                chosen = chosen.index_add(0, members, inner)
        return chosen

    def log_probs(self, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """log p(w | h) of every token, (P, V) nats, for states (P, dim)."""
        head, *tails = zip(weight.split(self.widths), bias.split(self.widths), strict=True)
        log_head = self._log_head(h, *head)
        n_head = self.widths[0]
        parts = [log_head[:, :n_head]]
        for index, (rows, shift) in enumerate(tails):
            inner = F.log_softmax(F.linear(h, rows, shift), 1, dtype=bias.dtype)
            parts.append(log_head[:, n_head + index, None] + inner)
        return torch.cat(parts, 1)

    def _log_head(self, h: Tensor, rows: Tensor, shift: Tensor) -> Tensor:
        """log softmax over the ids of the head and the classes, (P, head + n_classes)."""
        matrix = torch.cat([rows, self.class_weight])
        logits = F.linear(h, matrix, torch.cat([shift, self.class_bias]))
        return F.log_softmax(logits, 1, dtype=shift.dtype)
