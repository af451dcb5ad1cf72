"""Composition learned from the phrases of a text, judged on others, and kept beside a run.

Phrases whose first word is held out are what is judged: no part that a guess is made of was a first
part in training. Beside the net stand the second part alone (for a part: the phrase as it is),
which is most of what a language model remembers, and the maps that need no learning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ebm_wgpu.composition import COMPOSERS, compose, negate
from ebm_wgpu.embedding import TextEmbedder
from ebm_wgpu.errors import ConfigError, DataError
from ebm_wgpu.files import file_digest
from ebm_wgpu.models.composition import (
    CompositionNet,
    Phrase,
    PhraseLatents,
    Retrieval,
    frequent_phrases,
    retrieval,
    train_composition,
)
from ebm_wgpu.training.checkpoints import MANIFEST_FILE
from ebm_wgpu.training.loading import LoadedRun

COMPOSITION_FILE = "composition.safetensors"
LEARNED = "learned"
ALONE = "one part alone"
HELD_OUT = 0.2
"""Share of the first words whose phrases are held out."""


@dataclass(frozen=True, eq=False)
class CompositionFit:
    """A net, and how well it does what it was not shown.

    Attributes:
        net: the net.
        learned_from, held_out: phrases.
        phrase: held-out phrases named by composing their parts, by method: `ALONE`, the names of
            `COMPOSERS`, `LEARNED`.
        part: first parts named by taking the second part away, by composing with its reflection.
    """

    net: CompositionNet
    learned_from: int
    held_out: int
    phrase: Mapping[str, Retrieval]
    part: Mapping[str, Retrieval]

    def summary(self) -> dict[str, Any]:
        """The figures as types JSON holds, with the reciprocal rank of blind guessing."""
        tasks = {"phrase": self.phrase, "part": self.part}
        return {
            "learned_from": self.learned_from,
            "held_out": self.held_out,
            **{
                task: {
                    "candidates": scores[LEARNED].candidates,
                    "chance": scores[LEARNED].chance,
                    "scores": {name: asdict(score) for name, score in scores.items()},
                }
                for task, scores in tasks.items()
            },
        }


def fit_composition(
    embedder: TextEmbedder,
    text: str,
    *,
    phrases: int = 4000,
    steps: int = 600,
    seed: int = 0,
    on_texts: Callable[[int], None] | None = None,
) -> CompositionFit:
    """Learn composition from the most frequent phrases of two words of a text.

    Args:
        embedder: places phrases and parts on the sphere.
        text: where the phrases are from, see `frequent_phrases`.
        phrases: how many to use, those held out included.
        steps: of `train_composition`.
        seed: of everything random.
        on_texts: is told how many texts have been read since it was last told.

    Raises:
        DataError: too few phrases to hold some out.
    """
    found = frequent_phrases(text, phrases)
    words = sorted({phrase.first for phrase in found})
    count = int(HELD_OUT * len(words))
    if not 0 < count < len(words):
        raise DataError(
            f"{len(words)} different first words of phrases are too few to hold some out: give a "
            "longer text, or ask for more phrases"
        )
    kept_back = set(np.random.default_rng(seed).choice(words, count, replace=False).tolist())
    held = np.array([phrase.first in kept_back for phrase in found])
    latents = phrase_latents(embedder, found, on_texts)
    base = embedder.base_point()
    learn, test = latents.rows(np.flatnonzero(~held)), latents.rows(np.flatnonzero(held))
    net = train_composition(learn, base, steps=steps, seed=seed)
    methods = {**COMPOSERS, LEARNED: net.composer()}
    not_second = negate(test.second, base)
    wholes = {
        name: compose(test.first, test.second, base, method=method)
        for name, method in methods.items()
    }
    parts = {
        name: compose(test.whole, not_second, base, method=method)
        for name, method in methods.items()
    }
    return CompositionFit(
        net,
        len(learn),
        len(test),
        {n: retrieval(g, test.whole) for n, g in ({ALONE: test.second} | wholes).items()},
        {n: retrieval(g, test.first) for n, g in ({ALONE: test.whole} | parts).items()},
    )


def phrase_latents(
    embedder: TextEmbedder,
    phrases: Sequence[Phrase],
    on_texts: Callable[[int], None] | None = None,
) -> PhraseLatents:
    """The directions of phrases and parts, each text read once; see `TextEmbedder.embed`."""
    texts = sorted({part for phrase in phrases for part in phrase})
    place = {text: i for i, text in enumerate(texts)}
    directions = embedder.embed(texts, on_texts).direction
    columns = [[place[text] for text in column] for column in zip(*phrases, strict=True)]
    return PhraseLatents(*(directions[rows] for rows in columns))


def store_composition(run: LoadedRun, fit: CompositionFit, corpus: str) -> Path:
    """Write a net beside the run whose checkpoint it was fitted to; returns the path.

    Args:
        run: the run, opened at that checkpoint.
        fit: the net and its scores, which the file tells as well.
        corpus: name of the text.

    Raises:
        CheckpointError: the file cannot be written, or another process works on the run.
    """
    path = run.run.path / COMPOSITION_FILE
    fit.net.record = {
        "step": run.step,
        "checkpoint": _fingerprint(run),
        "corpus": corpus,
        **fit.summary(),
    }
    with run.run.lock():
        fit.net.save(path)
    return path


def stored_composition(run: LoadedRun) -> CompositionNet:
    """The net that `store_composition` wrote for this checkpoint of a run.

    Raises:
        ConfigError: there is none, or it was fitted to another checkpoint.
        DataError: the file is damaged.
    """
    path, remedy = run.run.path / COMPOSITION_FILE, f"ebm compose --fit --checkpoint {run.run.path}"
    if not path.exists():
        raise ConfigError(f"{run.run.path} has no learned composition: fit one with {remedy}")
    net = CompositionNet.load(path)
    if net.record.get("checkpoint") != _fingerprint(run):
        raise ConfigError(
            f"{path} was fitted to step {net.record.get('step')} and the checkpoint is of step "
            f"{run.step}, with other weights: fit it again with {remedy}"
        )
    return net


def _fingerprint(run: LoadedRun) -> str:
    """SHA-256 of the manifest of a run's checkpoint, which holds those of all its files."""
    return file_digest(run.run.checkpoint_path(run.step) / MANIFEST_FILE)
