"""How `ebm sample` shows what was written: energies of tokens, and how fast it went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ebm_wgpu.generation_batch import GeneratedText
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
    total = "" if own is None else f" {sum(own):10.4f}"
    yield f"{sum(text.energies.tokens):10.4f}{total}  total, nats"


def speed_line(texts: Sequence[GeneratedText], seconds: float) -> str:
    """Tokens, tokens a second and time to the first token of texts that took `seconds` in all."""
    tokens = sum(len(text.tokens) for text in texts)
    counted = f"{len(texts):,} texts, " if len(texts) > 1 else ""
    return (
        f"{counted}{tokens:,} token{'' if tokens == 1 else 's'} in {seconds:.2f} s: "
        f"{tokens / seconds:,.1f} tokens/s, first token after {texts[0].first_seconds:.3f} s"
    )
