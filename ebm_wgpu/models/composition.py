"""A composition of meanings that is learned: from the latents of two parts to that of a phrase.

From a base point m, parts a and b are the tangents u = log_m(a), v = log_m(b). The net gives

    compose(a, b) = exp_m(s_a u + s_b v + W_2 gelu(W_1 [u; v] + c)),

which starts as the tangent sum (s = 1, W_2 = 0) and learns from phrases of a corpus what the whole
has that the sum has not. Its second lesson is negation as reflection: with not b = exp_m(-log_m b),
compose(phrase, not b) is to give a back. Both are judged by retrieval among phrases held out.
"""

from __future__ import annotations

import collections
import hashlib
import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from safetensors.torch import load, save
from torch import Tensor, nn

from ebm_wgpu.composition import Composer
from ebm_wgpu.errors import ConfigError, DataError
from ebm_wgpu.files import json_digest, parse_json, write_atomically, writing
from ebm_wgpu.sphere import FloatArray

Float32Array = NDArray[np.float32]

_FORMAT = "ebm-wgpu-composition"
_VERSION = 2
_CONTENT = "content"


class Phrase(NamedTuple):
    """Two parts of a text that follow each other, and both together."""

    first: str
    second: str
    whole: str


@dataclass(frozen=True, eq=False)
class PhraseLatents:
    """Directions of phrases and of their parts, (n, d) unit rows each."""

    first: Float32Array
    second: Float32Array
    whole: Float32Array

    def __len__(self) -> int:
        """How many phrases there are."""
        return len(self.whole)

    def rows(self, which: NDArray[np.integer]) -> PhraseLatents:
        """Some of the phrases."""
        return PhraseLatents(self.first[which], self.second[which], self.whole[which])


@dataclass(frozen=True)
class Retrieval:
    """How well guesses name their own among n candidates, by cosine.

    Attributes:
        reciprocal_rank: mean of 1 / rank of the own one.
        top_1, top_10: shares of guesses whose own one is first, or among the first ten.
        cosine: mean cosine of a guess to its own one.
        candidates: n; blind guessing has top_1 = 1/n.
    """

    reciprocal_rank: float
    top_1: float
    top_10: float
    cosine: float
    candidates: int

    @property
    def chance(self) -> float:
        """(1 + 1/2 + ... + 1/n) / n, the mean reciprocal rank of blind guessing."""
        return sum(1 / rank for rank in range(1, self.candidates + 1)) / self.candidates


class CompositionNet(nn.Module):
    """The net; see the module.

    Attributes:
        base: (d,) m, unit.
        record: what its file tells of it besides, as types JSON holds.
    """

    base: Tensor
    record: dict[str, Any]

    def __init__(self, base: ArrayLike, hidden: int = 256) -> None:
        """Start as the tangent sum.

        Args:
            base: m, (d,) of any length but zero.
            hidden: rank of what is added to the sum.

        Raises:
            ConfigError: a base without a direction, or hidden below 1.
        """
        super().__init__()
        point = torch.from_numpy(np.asarray(base, np.float32))
        if point.ndim != 1 or not 0 < float(point.norm()) < np.inf:
            raise ConfigError(f"base point of shape {tuple(point.shape)}: give (d,), not zero")
        if hidden < 1:
            raise ConfigError(f"hidden = {hidden} of the composition net: use at least 1")
        self.record = {}
        self.register_buffer("base", point / point.norm())
        self.scale = nn.Parameter(torch.ones(2))
        self.inner = nn.Linear(2 * len(point), hidden)
        self.outer = nn.Linear(hidden, len(point), bias=False)
        nn.init.zeros_(self.outer.weight)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The latent of the phrase of parts a and b, unit rows (n, d)."""
        u, v = log_map(self.base, a), log_map(self.base, b)
        more = self.outer(F.gelu(self.inner(torch.cat([u, v], dim=-1))))
        result = self.scale[0] * u + self.scale[1] * v + more
        return exp_map(self.base, result - (result @ self.base)[..., None] * self.base)

    def negate(self, x: Tensor) -> Tensor:
        """2 (m.x) m - x, the reflection in the base point, (n, d)."""
        return 2 * (x @ self.base)[..., None] * self.base - x

    @torch.no_grad()
    def compose(self, a: ArrayLike, b: ArrayLike) -> FloatArray:
        """The composition of points (..., d) of the sphere, float64."""
        one, other = (torch.from_numpy(np.asarray(x, np.float32)) for x in (a, b))
        return np.asarray(F.normalize(self(one, other).double(), dim=-1).numpy())

    def composer(self) -> Composer:
        """A map for `ebm_wgpu.composition`, at its share of one half.

        The net has a base point of its own, and weighs the parts itself: another base or share is
        refused with a `ConfigError`.
        """

        def composed(base: FloatArray, a: FloatArray, b: FloatArray, share: float) -> FloatArray:
            if share != 0.5 or float(np.dot(base, self.base.double().numpy())) < 1 - 1e-4:
                raise ConfigError(
                    f"share {share:g} and this base point: the learned composition knows only "
                    "share .5 and the base point it was trained with"
                )
            return self.compose(a, b)

        return composed

    def save(self, path: str | Path) -> None:
        """Write net and record as safetensors with a SHA-256 of both, atomically.

        Raises:
            CheckpointError: the file cannot be written.
        """
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        content = {"format": _FORMAT, "version": _VERSION, "record": self.record}
        metadata = {_CONTENT: json.dumps(content), "sha256": _digest(content, tensors)}
        with writing(Path(path)):
            write_atomically(Path(path), save(tensors, metadata))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The net that `save` wrote.

        Raises:
            DataError: a file that is missing, altered by as much as a bit, or no such net.
        """
        try:
            whole = Path(path).read_bytes()
            header = parse_json(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
            content = parse_json(header["__metadata__"][_CONTENT])
            if (content["format"], content["version"]) != (_FORMAT, _VERSION):
                raise ValueError(f"it is {content['format']} of version {content['version']}")
            tensors = load(whole)
            if header["__metadata__"]["sha256"] != _digest(content, tensors):
                raise ValueError("it differs from its SHA-256: it was altered")
            net = cls(tensors["base"].numpy(), len(tensors["inner.bias"]))
            if any(t.dtype != torch.float32 or not t.isfinite().all() for t in tensors.values()):
                raise ValueError("it holds what is not a finite float32")
            net.load_state_dict(tensors)
            if abs(float(net.base.norm()) - 1) > 1e-3:
                raise ValueError(f"its base point has length {float(net.base.norm()):g}, not 1")
            if not isinstance(content["record"], dict):
                raise ValueError("its record is no object")
            net.record = content["record"]
        # A damaged file fails in many ways, those of safetensors among them; all mean the same.
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"{path} is no composition net: {reason}; train one again") from error
        return net


def _digest(content: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """SHA-256 of what is told of a net and of all its numbers, as they are typed and shaped."""
    parts = {
        name: [str(t.dtype), list(t.shape), hashlib.sha256(t.numpy().tobytes()).hexdigest()]
        for name, t in tensors.items()
    }
    return json_digest({"content": content, "tensors": parts})


def log_map(base: Tensor, x: Tensor) -> Tensor:
    """log_m(x) = theta t / |t|, t = x - (x.m) m and theta the angle of x to m, (n, d).

    base: (d,) unit; x: (n, d) unit. Zero at the base and, where no direction leads, opposite to it.
    """
    along = x @ base
    across = x - along[..., None] * base
    length = across.norm(dim=-1).clamp_min(1e-12)
    return (torch.atan2(length, along) / length)[..., None] * across


def exp_map(base: Tensor, tangent: Tensor) -> Tensor:
    """exp_m(t) = cos|t| m + sin|t| t/|t|, (n, d); base (d,) unit, tangent (n, d)."""
    # The norm has no gradient at zero, where a fresh net may well be.
    length = tangent.square().sum(dim=-1, keepdim=True).clamp_min(1e-24).sqrt()
    return torch.cos(length) * base + torch.sin(length) / length * tangent


def frequent_phrases(text: str, most: int, least_count: int = 3) -> list[Phrase]:
    """The most frequent pairs of words that follow each other within a line, most frequent first.

    Words hold letters only. Pairs of two of the hundred most frequent words, which are no more
    than grammar, are left out.

    Raises:
        DataError: no pair occurs `least_count` times.
    """
    words: collections.Counter[str] = collections.Counter()
    pairs: collections.Counter[tuple[str, str]] = collections.Counter()
    for line in text.splitlines():
        split = line.split()
        words.update(split)
        pairs.update(itertools.pairwise(split))
    common = {word for word, _ in words.most_common(100)}
    found = [
        Phrase(first, second, f"{first} {second}")
        for (first, second), count in _ordered(pairs.items())
        if count >= least_count
        and first.isalpha()
        and second.isalpha()
        and not {first, second} <= common
    ]
    if not found:
        raise DataError(f"no two words follow each other {least_count} times: give a longer text")
    return found[:most]


def train_composition(
    latents: PhraseLatents,
    base: ArrayLike,
    *,
    hidden: int = 256,
    steps: int = 500,
    batch: int = 256,
    lr: float = 2e-3,
    temperature: float = 0.05,
    seed: int = 0,
) -> CompositionNet:
    """A net fitted to phrases: the cross-entropy of naming the own one among those of a batch.

    Half of the loss composes parts, half takes the second part away from the phrase.

    Args:
        latents: of phrases to learn from.
        base: m, (d,).
        hidden: see `CompositionNet`.
        steps: of AdamW, at a learning rate that falls to zero.
        batch: phrases a step.
        lr: first learning rate.
        temperature: divides cosines inside the cross-entropy.
        seed: of everything random.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = CompositionNet(base, hidden)
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    first, second, whole = (
        torch.from_numpy(x) for x in (latents.first, latents.second, latents.whole)
    )
    own = torch.arange(min(batch, len(whole)))
    for _ in range(steps):
        rows = torch.randperm(len(whole), generator=generator)[:batch]
        a, b, p = first[rows], second[rows], whole[rows]
        up = net(a, b) @ p.T / temperature
        down = net(p, net.negate(b)) @ a.T / temperature
        # The same part in two phrases of a batch is no wrong answer.
        same = (a @ a.T > 1 - 1e-5) & ~torch.eye(len(rows), dtype=torch.bool)
        loss = F.cross_entropy(up, own) + F.cross_entropy(down.masked_fill(same, -torch.inf), own)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net


def retrieval(guesses: ArrayLike, own: ArrayLike) -> Retrieval:
    """How well row i of guesses, (n, d), names row i of its candidates `own`, (n, d) unit rows.

    A candidate of equal cosine counts as half a place ahead; equal candidates count once.
    """
    guess, candidates = np.asarray(guesses, np.float64), np.asarray(own, np.float64)
    distinct, place = np.unique(candidates, axis=0, return_inverse=True)
    place = place.ravel()
    cosines = guess @ distinct.T
    mine = cosines[np.arange(len(guess)), place][:, None]
    ties = (cosines == mine).sum(axis=1) - 1
    rank = 1 + (cosines > mine).sum(axis=1) + ties / 2
    return Retrieval(
        reciprocal_rank=float((1 / rank).mean()),
        top_1=float((rank < 2).mean()),
        top_10=float((rank < 11).mean()),
        cosine=float(mine.mean()),
        candidates=len(distinct),
    )


def _ordered(
    items: Iterable[tuple[tuple[str, str], int]],
) -> list[tuple[tuple[str, str], int]]:
    """By falling count, ties by the words, so that the same text gives the same phrases."""
    return sorted(items, key=lambda item: (-item[1], item[0]))
