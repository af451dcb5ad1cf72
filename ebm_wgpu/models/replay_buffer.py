"""Windows of text with the states that refinement ended in, to be refined further later."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

_HALF_MAX = torch.finfo(torch.float16).max


class Replay(NamedTuple):
    """Windows drawn from a buffer.

    Attributes:
        slots: (n,) where they are kept.
        tokens: (n, T+1) int64.
        states: (n, T, V).
    """

    slots: Tensor
    tokens: Tensor
    states: Tensor


class ReplayBuffer(nn.Module):
    """A ring of the last `capacity` windows; it is part of the model's state and of checkpoints.

    States are kept in half precision, as a place to start from needs no more: a window takes
    2 T V bytes. Windows shorter than `length` are kept too, and drawn only among their like.
    """

    tokens: Tensor
    states: Tensor
    lengths: Tensor
    written: Tensor

    def __init__(self, capacity: int, length: int, vocab_size: int) -> None:
        """An empty buffer.

        Args:
            capacity: most windows, at least 1.
            length: most positions T of a window.
            vocab_size: V.
        """
        super().__init__()
        self.capacity, self.length = capacity, length
        self.register_buffer("tokens", torch.zeros(capacity, length + 1, dtype=torch.int64))
        self.register_buffer(
            "states", torch.zeros(capacity, length, vocab_size, dtype=torch.float16)
        )
        self.register_buffer("lengths", torch.zeros(capacity, dtype=torch.int64))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        """Windows kept."""
        return min(int(self.written), self.capacity)

    def clear(self) -> None:
        """Forget all windows."""
        for buffer in (self.tokens, self.states, self.lengths, self.written):
            buffer.zero_()

    def draw(self, count: int, length: int, generator: torch.Generator) -> Replay | None:
        """Up to `count` different windows of `length` positions, or none where none is kept."""
        (slots,) = torch.nonzero(self.lengths.cpu() == length, as_tuple=True)
        if len(slots) == 0:
            return None
        order = torch.randperm(len(slots), generator=generator)[:count]
        slots = slots[order].to(self.tokens.device)
        states = self.states[slots, :length].float()
        return Replay(slots, self.tokens[slots, : length + 1], states)

    @torch.no_grad()
    def push(self, tokens: Tensor, states: Tensor) -> None:
        """Keep windows (n, T+1) with their states (n, T, V), over the oldest ones; T <= length."""
        tokens, states = tokens[-self.capacity :], states[-self.capacity :]
        start = int(self.written)
        slots = (start + torch.arange(len(tokens), device=self.tokens.device)) % self.capacity
        self.tokens[slots, : tokens.shape[1]] = tokens
        self.lengths[slots] = states.shape[1]
        self._write(slots, states)
        self.written += len(tokens)

    @torch.no_grad()
    def update(self, replay: Replay, states: Tensor) -> None:
        """Put further refined states (n, T, V) in the place of those drawn."""
        self._write(replay.slots, states)

    def _write(self, slots: Tensor, states: Tensor) -> None:
        bounded = states.detach().clamp(-_HALF_MAX, _HALF_MAX).to(self.states.dtype)
        self.states[slots, : states.shape[1]] = bounded
