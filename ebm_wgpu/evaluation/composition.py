"""Do meanings compose? Words put into templates: the whole against what its parts give.

Words w of a text are set in a circle; each makes pairs with the next two. Three questions, each a
retrieval by cosine among the candidates that all words or pairs give:

    "a and b"            compose(a, b) is to name it among the wholes of all pairs
    "a and b" without b  compose("a and b", negate(b)) is to name a among the words
    "not a"              negate(a) is to name it among the negations of all words

Every whole shares a word with other candidates, so that one word alone does not decide.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ebm_wgpu.composition import COMPOSERS, Composer, compose, negate
from ebm_wgpu.errors import DataError
from ebm_wgpu.models.base import LanguageModel
from ebm_wgpu.models.composition import Retrieval, retrieval
from ebm_wgpu.readers import place_texts
from ebm_wgpu.sphere import FloatArray
from ebm_wgpu.text.tokenizer_base import TextTokenizer
from ebm_wgpu.training.composition_fitting import ALONE, LEARNED

REFLECTION = "reflection"
_FEWEST_WORDS = 5
_COMMON = 100
_TEMPLATE_WORDS = ("and", "not")


@dataclass(frozen=True)
class CompositionTask:
    """One question.

    Attributes:
        question: what is to be named.
        n: guesses.
        candidates: different ones among which each names one.
        chance_top_1, chance_reciprocal_rank: of blind guessing.
        scores: by method: `ALONE`, a part as it is (b for "a and b", "a and b" for a, a for
            "not a"), the names of `COMPOSERS` and `LEARNED`, or `REFLECTION`.
    """

    question: str
    n: int
    candidates: int
    chance_top_1: float
    chance_reciprocal_rank: float
    scores: Mapping[str, Retrieval]


@dataclass(frozen=True)
class CompositionReport:
    """All questions.

    Attributes:
        n_words, n_pairs: words, and pairs of them.
        tasks: the questions.
    """

    n_words: int
    n_pairs: int
    tasks: tuple[CompositionTask, ...]


@dataclass(frozen=True, eq=False)
class TemplateTexts:
    """The texts of all questions.

    Attributes:
        words: n different ones.
        first, second: (2 n,) places of the parts of each pair in `words`.
    """

    words: tuple[str, ...]
    first: np.ndarray[tuple[int], np.dtype[np.int64]]
    second: np.ndarray[tuple[int], np.dtype[np.int64]]

    @classmethod
    def of(cls, words: Sequence[str], seed: int = 0) -> TemplateTexts:
        """Pairs of `words`, in an order that `seed` chooses.

        Raises:
            DataError: fewer than five words, which make no such pairs.
        """
        if len(words) < _FEWEST_WORDS:
            raise DataError(
                f"{len(words)} words that the tokenizer knows are too few to compose: give a text "
                f"with {_FEWEST_WORDS} or more"
            )
        n = len(words)
        order = np.random.default_rng([seed, 0xC0]).permutation(n)
        place = np.arange(n)
        return cls(
            tuple(words[i] for i in order),
            np.tile(place, 2),
            np.concatenate([(place + 1) % n, (place + 2) % n]),
        )

    @property
    def wholes(self) -> list[str]:
        """ "a and b" of each pair."""
        pairs = zip(self.first, self.second, strict=True)
        return [f"{self.words[a]} and {self.words[b]}" for a, b in pairs]

    @property
    def negations(self) -> list[str]:
        """ "not a" of each word."""
        return [f"not {word}" for word in self.words]


def evaluate_composition(
    model: LanguageModel,
    tokenizer: TextTokenizer,
    text: str,
    *,
    context: int,
    n_words: int,
    seed: int = 0,
    learned: Composer | None = None,
) -> CompositionReport:
    """How far the latents, or states, that a model gives to texts compose.

    Args:
        model: reads; see `readers.place_texts` for what it makes of a text.
        tokenizer: its tokenizer.
        text: where the words are from, see `frequent_words`.
        context: most tokens the model reads.
        n_words: words to use, or as many as the text has.
        seed: chooses which words make pairs.
        learned: a composition that was learned for this model, to stand beside the others.

    Raises:
        ConfigError: a model of a family that keeps no states.
        DataError: too few words, or a tokenizer that does not know "and" and "not".
    """
    unknown = [word for word in _TEMPLATE_WORDS if not _known(word, tokenizer)]
    if unknown:
        raise DataError(
            f"the tokenizer does not know {' and '.join(map(repr, unknown))}, of which the "
            "templates are made: train one on more text"
        )
    texts = TemplateTexts.of(frequent_words(text, tokenizer, n_words), seed)
    placed = place_texts(model, tokenizer, [*texts.words, *texts.wholes, *texts.negations], context)
    n, pairs = len(texts.words), len(texts.first)
    words, wholes, negations = np.split(placed.directions, [n, n + pairs])
    return score_composition(texts, words, wholes, negations, placed.base, learned)


def score_composition(
    texts: TemplateTexts,
    words: FloatArray,
    wholes: FloatArray,
    negations: FloatArray,
    base: FloatArray,
    learned: Composer | None = None,
) -> CompositionReport:
    """Answer the questions with the directions of the texts.

    Args:
        texts: which pairs there are.
        words, negations: (n, d) unit rows.
        wholes: (2 n, d) unit rows.
        base: (d,) the point from which all are seen.
        learned: a further composition.
    """
    a, b = words[texts.first], words[texts.second]
    not_b = negate(b, base)
    methods = COMPOSERS if learned is None else {**COMPOSERS, LEARNED: learned}
    together = {name: compose(a, b, base, method=method) for name, method in methods.items()}
    apart = {name: compose(wholes, not_b, base, method=method) for name, method in methods.items()}
    reflected = {REFLECTION: negate(words, base)}
    return CompositionReport(
        n_words=len(words),
        n_pairs=len(wholes),
        tasks=(
            _task('"a and b"', {ALONE: b, **together}, wholes),
            _task('"a and b" without b', {ALONE: wholes, **apart}, a),
            _task('"not a"', {ALONE: words, **reflected}, negations),
        ),
    )


def frequent_words(text: str, tokenizer: TextTokenizer, most: int) -> list[str]:
    """The most frequent words of letters that the tokenizer knows, most frequent first.

    Of the hundred most frequent, which say little, as many are left out as leave `most` others.
    """
    counts = collections.Counter(
        word for word in text.split() if word.isalpha() and word not in _TEMPLATE_WORDS
    )
    words = sorted(counts, key=lambda word: (-counts[word], word))
    spared = min(_COMMON, max(0, len(words) - most))
    known = (word for word in words[spared:] if _known(word, tokenizer))
    return list(itertools.islice(known, most))


def _known(word: str, tokenizer: TextTokenizer) -> bool:
    return tokenizer.decode(tokenizer.encode(word)).strip() == word


def _task(question: str, guesses: Mapping[str, FloatArray], own: FloatArray) -> CompositionTask:
    scores = {name: retrieval(guess, own) for name, guess in guesses.items()}
    candidates, chance = scores[ALONE].candidates, scores[ALONE].chance
    return CompositionTask(question, len(own), candidates, 1 / candidates, chance, scores)
