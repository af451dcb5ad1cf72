"""Fitting composition: what is held out, what is judged, and the file that belongs to a run."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ebm_wgpu.composition import compose, negate
from ebm_wgpu.errors import DataError
from ebm_wgpu.models.composition import Phrase, retrieval
from ebm_wgpu.sphere import expmap, logmap, projx
from ebm_wgpu.training import composition_fitting
from ebm_wgpu.training.composition_fitting import (
    ALONE,
    LEARNED,
    fit_composition,
    phrase_latents,
)

D = 16
BASE = np.eye(D)[0]
TURN = np.eye(D)
TURN[1:, 1:] = np.linalg.qr(np.random.default_rng(9).standard_normal((D - 1, D - 1)))[0]


def place(text: str) -> np.ndarray:
    """A word somewhere near the base; a phrase by the tangents of its words, the first's turned."""
    words = text.split()
    if len(words) == 1:
        rng = np.random.default_rng(zlib.crc32(text.encode()))
        return projx(BASE + 0.3 * rng.standard_normal(D))
    tangent = TURN @ logmap(BASE, place(words[0])) + logmap(BASE, place(words[1]))
    return expmap(BASE, tangent)


class Embedder:
    """Reads texts as `TextEmbedder` does, from `place`."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def embed(
        self, texts: Sequence[str], on_texts: Callable[[int], None] | None = None
    ) -> SimpleNamespace:
        self.read += texts
        if on_texts is not None:
            on_texts(len(texts))
        return SimpleNamespace(direction=np.stack([place(t) for t in texts]).astype(np.float32))

    def base_point(self) -> np.ndarray:
        return BASE


def word(number: int) -> str:
    return "".join(chr(97 + int(digit)) for digit in f"{number:03d}")


def text(firsts: int = 40, seconds: int = 6) -> str:
    """Pairs of rare words, four times each, after a hundred common words that make no phrase."""
    common = "\n".join(f"{word(900 + i)} ." * 400 for i in range(100))
    pairs = [f"{word(i)} {word(500 + (i + j) % 30)}" for i in range(firsts) for j in range(seconds)]
    return common + "\n" + "\n".join(pairs * 4)


def fit(**options: Any) -> composition_fitting.CompositionFit:
    return fit_composition(Embedder(), text(), **{"steps": 80, **options})  # type: ignore[arg-type]


def test_first_words_of_what_is_judged_were_in_no_phrase_learned_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learned: list[Any] = []
    train = composition_fitting.train_composition

    def spy(latents: Any, base: Any, **options: Any) -> Any:
        learned.append(latents)
        return train(latents, base, **options)

    monkeypatch.setattr(composition_fitting, "train_composition", spy)
    told: list[int] = []
    found = fit(on_texts=told.append, steps=1)
    assert (found.learned_from, found.held_out) == (192, 48)
    firsts = {row.tobytes() for row in learned[0].first}
    everything = {place(word(i)).astype(np.float32).tobytes() for i in range(40)}
    assert firsts < everything and len(firsts) == 32
    assert told == [40 + 30 + 240]
    # A first part that is judged is one of the other eight.
    assert found.part[LEARNED].candidates == 8 and found.phrase[LEARNED].candidates == 48


def test_learning_finds_what_the_tangent_sum_misses() -> None:
    more = text(firsts=200, seconds=4)
    found = fit_composition(Embedder(), more, steps=100)  # type: ignore[arg-type]
    for scores in (found.phrase, found.part):
        assert list(scores) == [ALONE, "geodesic", "tangent", LEARNED]
        assert scores[LEARNED].reciprocal_rank > 2 * scores["tangent"].reciprocal_rank


def test_the_summary_tells_scores_and_chance() -> None:
    found = fit(steps=2)
    summary = found.summary()
    for task, n in (("phrase", 48), ("part", 8)):
        assert summary[task]["candidates"] == n
        assert summary[task]["chance"] == pytest.approx(sum(1 / np.arange(1, n + 1)) / n)
        scores = getattr(found, task)
        assert summary[task]["scores"][LEARNED]["top_1"] == scores[LEARNED].top_1
    again = fit(steps=2)
    assert again.phrase == found.phrase and again.part == found.part


def test_negation_is_reflection_in_the_base_point(monkeypatch: pytest.MonkeyPatch) -> None:
    guesses: list[tuple[np.ndarray, np.ndarray]] = []

    def spy(guess: np.ndarray, own: np.ndarray) -> Any:
        guesses.append((np.asarray(guess), np.asarray(own)))
        return retrieval(guess, own)

    monkeypatch.setattr(composition_fitting, "retrieval", spy)
    found = fit(steps=3)
    alone, geodesic, tangent, learned = guesses[4:]
    assert np.array_equal(alone[1], learned[1]) and np.array_equal(geodesic[1], learned[1])
    wholes = alone[0]
    second = guesses[0][0]
    expected = compose(wholes, negate(second, BASE), BASE)
    np.testing.assert_allclose(tangent[0], expected, atol=1e-6)
    reflected = negate(second, BASE)
    np.testing.assert_allclose(learned[0], found.net.compose(wholes, reflected), atol=1e-6)


def test_every_text_is_read_once_and_stands_where_it_belongs() -> None:
    embedder = Embedder()
    phrases = [Phrase("aa", "bb", "aa bb"), Phrase("bb", "aa", "bb aa"), Phrase("aa", "c", "aa c")]
    latents = phrase_latents(embedder, phrases)  # type: ignore[arg-type]
    assert sorted(embedder.read) == ["aa", "aa bb", "aa c", "bb", "bb aa", "c"]
    columns = (latents.first, latents.second, latents.whole)
    for column, rows in zip(zip(*phrases, strict=True), columns, strict=True):
        np.testing.assert_array_equal(rows, [place(t).astype(np.float32) for t in column])


def test_too_few_phrases_to_hold_some_out_are_refused() -> None:
    few = text(firsts=4, seconds=2)
    with pytest.raises(DataError, match="4 different first words of phrases are too few"):
        fit_composition(Embedder(), few)  # type: ignore[arg-type]
