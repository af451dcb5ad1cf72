"""Text a model writes, measured: variety, repetition, likeness to what really follows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ebm_wgpu.errors import ConfigError, DataError
from ebm_wgpu.evaluation.latents import spread_windows
from ebm_wgpu.evaluation.perplexity import perplexity_of
from ebm_wgpu.generation.sampling import SamplingSettings
from ebm_wgpu.generation.writer import TokenWriter
from ebm_wgpu.models.base import LanguageModel
from ebm_wgpu.text.datasets import TokenStream
from ebm_wgpu.text.tokenizer_base import TextTokenizer
from ebm_wgpu.training.placement import HostScorer

N_GRAMS = (1, 2, 3, 4)
"""Lengths whose variety is reported; repetition is that of the longest."""


@dataclass(frozen=True)
class TextQuality:
    """Figures of a set of texts, written or real.

    Attributes:
        distinct: different n-grams of words over all n-grams, all texts taken together, for each n
            of `N_GRAMS` (Li et al. 2016, arXiv:1510.03055); none where no text has so many words.
        repetition: share of the n-grams of a text that stood earlier in it, for the greatest n of
            `N_GRAMS`, averaged over texts (Welleck et al. 2020, arXiv:1908.04319).
        perplexity: exp of the mean of -log p(token | tokens before) under the model itself.
    """

    distinct: tuple[float | None, ...]
    repetition: float | None
    perplexity: float


@dataclass(frozen=True)
class GenerationReport:
    """What a model wrote after prompts from held-out text, beside what really follows them.

    Attributes:
        n_texts: prompts.
        prompt_tokens, new_tokens: tokens of a prompt, and written after it.
        written: quality of the continuations the model wrote; its perplexity is the
            self-perplexity.
        real: quality of the true ones.
        bleu: BLEU of the written against the true ones, 0 to 100 (sacrebleu); none without it.
        rouge: mean F of ROUGE-1, -2 and -L by name, 0 to 1 (rouge-score); empty without it.
        examples: the first prompts and what was written after them.
    """

    n_texts: int
    prompt_tokens: int
    new_tokens: int
    written: TextQuality
    real: TextQuality
    bleu: float | None
    rouge: dict[str, float]
    examples: tuple[tuple[str, str], ...]


def evaluate_generation(
    model: LanguageModel,
    tokenizer: TextTokenizer,
    stream: TokenStream,
    *,
    context: int,
    n_texts: int,
    prompt_tokens: int,
    settings: SamplingSettings,
    n_examples: int = 3,
    on_token: Callable[[int], None] | None = None,
) -> GenerationReport:
    """Write after `n_texts` prompts spread over `stream`, and measure what came of it.

    Args:
        model: writes.
        tokenizer: of the stream.
        stream: held-out text.
        context: most tokens the model reads.
        n_texts: prompts, or as many as the text has room for.
        prompt_tokens: tokens of each.
        settings: how to draw; text n has the seed settings.seed + n.
        n_examples: texts to keep.
        on_token: called with the number of tokens written so far of each text.

    Raises:
        ConfigError: prompt and continuation are together longer than the context.
        DataError: the text is shorter than that.
    """
    length = prompt_tokens + settings.max_tokens
    if prompt_tokens < 1 or n_texts < 1 or length > context:
        raise ConfigError(
            f"{n_texts} prompts of {prompt_tokens} tokens and {settings.max_tokens} new ones: give "
            f"at least one of each, and together at most data.eval_context={context} tokens"
        )
    if len(stream) < length:
        raise DataError(
            f"{stream.name} has {len(stream)} tokens and a prompt with its continuation {length}: "
            "ask for fewer"
        )
    windows = spread_windows(stream, length, n_texts)
    written = windows.clone()
    prompts = [window[:prompt_tokens] for window in windows.numpy()]
    seeds = [settings.seed + number for number in range(len(prompts))]
    writer = TokenWriter(model, prompts, settings, context, seeds)
    for position in range(settings.max_tokens):
        for text, token, _ in writer.write():
            written[text, prompt_tokens + position] = token
        if on_token is not None:
            on_token(position + 1)
    texts, truths = (
        [tokenizer.decode(row[prompt_tokens:]) for row in rows.numpy()]
        for rows in (written, windows)
    )
    return GenerationReport(
        n_texts=len(windows),
        prompt_tokens=prompt_tokens,
        new_tokens=settings.max_tokens,
        written=text_quality(texts, _perplexity(model, written, prompt_tokens, settings)),
        real=text_quality(truths, _perplexity(model, windows, prompt_tokens, settings)),
        bleu=bleu(texts, truths),
        rouge=rouge(texts, truths),
        examples=tuple(zip(map(tokenizer.decode, prompts), texts, strict=True))[:n_examples],
    )


def text_quality(texts: Sequence[str], perplexity: float) -> TextQuality:
    """Variety and repetition of `texts`, whose perplexity is known."""
    repetitions = [r for text in texts if (r := repetition_rate(text, N_GRAMS[-1])) is not None]
    return TextQuality(
        distinct=tuple(distinct(texts, n) for n in N_GRAMS),
        repetition=float(np.mean(repetitions)) if repetitions else None,
        perplexity=perplexity,
    )


def distinct(texts: Sequence[str], n: int) -> float | None:
    """Different n-grams of words over all n-grams of `texts`; none if there is no n-gram."""
    counts = Counter(gram for text in texts for gram in _n_grams(text, n))
    return len(counts) / counts.total() if counts else None


def repetition_rate(text: str, n: int) -> float | None:
    """Share of the n-grams of words of `text` that stood earlier in it; none if there is none."""
    variety = distinct([text], n)
    return None if variety is None else 1 - variety


def bleu(texts: Sequence[str], truths: Sequence[str]) -> float | None:
    """Corpus BLEU of `texts` against one reference each, 0 to 100; none without sacrebleu."""
    try:
        import sacrebleu
    except ImportError:
        return None
    return float(sacrebleu.corpus_bleu(list(texts), [list(truths)]).score)


def rouge(texts: Sequence[str], truths: Sequence[str]) -> dict[str, float]:
    """Mean F of rouge1, rouge2, rougeL of `texts` against `truths`; empty without rouge-score."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        return {}
    kinds = ("rouge1", "rouge2", "rougeL")
    scorer = RougeScorer(kinds)
    scores = [scorer.score(truth, text) for text, truth in zip(texts, truths, strict=True)]
    return {kind: float(np.mean([score[kind].fmeasure for score in scores])) for kind in kinds}


def _n_grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.split()
    return list(zip(*(words[start:] for start in range(n)), strict=False))


@torch.no_grad()
def _perplexity(
    model: LanguageModel, tokens: torch.Tensor, prompt_tokens: int, settings: SamplingSettings
) -> float:
    """exp(mean of -log p(token | tokens before)) over what follows the prompts, (B, T) tokens."""
    scorer = HostScorer(model)
    log_probs = [
        scorer.token_log_probs(
            row[:, :-1], row[:, 1:], latent=settings.latent, seed=settings.seed + number
        )[:, prompt_tokens - 1 :]
        for number, row in enumerate(tokens.split(1))
    ]
    nll = -float(torch.cat(log_probs).double().mean())
    return perplexity_of(nll)
