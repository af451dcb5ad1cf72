"""How `ebm sample` shows what was written: texts, energies of tokens, and how fast it went."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ebm_wgpu.generation.batch import GeneratedText
    from ebm_wgpu.text.tokenizer_base import TextTokenizer


def energy_lines(text: GeneratedText, tokenizer: TextTokenizer) -> Iterator[str]:
    """A line for each token of a text: -log p, the model's own energy if it has one, the token."""
    if text.energies is None:
        return
    own = text.energies.model
    head = "" if own is None else f" {'energy':>10}"
    yield f"{'-log p':>10}{head}  token"
    for number, (token, energy) in enumerate(zip(text.tokens, text.energies.tokens, strict=True)):
        model = "" if own is None else f" {own[number]:10.4f}"
        yield f"{energy:10.4f}{model}  {tokenizer.decode([token])!r}"
    mean = "" if own is None else f" {sum(own) / len(own):10.4f}"
    yield f"{text.energy:10.4f}{mean}  mean, nats a token"


class Stopwatch:
    """How fast tokens are drawn, all of them counted, since it was made."""

    def __init__(self) -> None:
        """Start."""
        self._start = time.perf_counter()
        self._first = 0.0
        self._tokens = 0

    def count(self, tokens: int) -> None:
        """Tell it of tokens that were drawn just now."""
        if not self._tokens:
            self._first = time.perf_counter() - self._start
        self._tokens += tokens

    def line(self, texts: int) -> str:
        """Texts kept, tokens drawn, tokens a second, and the time to the first token of all."""
        seconds = time.perf_counter() - self._start
        counted = f"{texts:,} texts, " if texts > 1 else ""
        return (
            f"{counted}{self._tokens:,} token{'' if self._tokens == 1 else 's'} drawn in "
            f"{seconds:.2f} s: {self._tokens / seconds:,.1f} tokens/s, first token after "
            f"{self._first:.3f} s"
        )
