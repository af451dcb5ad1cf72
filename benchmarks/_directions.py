"""Directions to search: clusters, uneven clusters, states of a transformer, and noise."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

from ebm_wgpu.models.causal_transformer import CausalTransformer
from ebm_wgpu.models.transformer_config import TransformerConfig
from ebm_wgpu.text.corpora import load_corpus
from ebm_wgpu.text.tokenizers import make_tokenizer

VOCABULARY = 4096
WINDOW = 256
CLUSTER = 100
CHUNK = 50_000

Directions = tuple[np.ndarray, np.ndarray]
"""Those that are searched, (n, d), and as many queries as asked for."""


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def in_chunks(n: int, d: int, draw: Callable[[int], np.ndarray]) -> np.ndarray:
    """n rows of `draw`, a chunk at a time, so that little more memory is needed than they take."""
    mu = np.empty((n, d), np.float32)
    for start in range(0, n, CHUNK):
        stop = min(start + CHUNK, n)
        mu[start:stop] = draw(stop - start)
    return mu


def clustered(n: int, d: int, queries: int) -> Directions:
    """Clusters of about 100 with a cosine of .64 within; queries are further members."""
    rng = np.random.default_rng(5)
    centres = unit(rng.standard_normal((max(1, n // CLUSTER), d), dtype=np.float32))

    def members(count: int) -> np.ndarray:
        cluster = rng.integers(0, len(centres), count)
        noise = rng.standard_normal((count, d), dtype=np.float32)
        return unit(centres[cluster] + 0.75 / d**0.5 * noise)

    return in_chunks(n, d, members), members(queries)


def uneven(n: int, d: int, queries: int) -> Directions:
    """Clusters of heavy-tailed size and of any width, elongated; queries are further members.

    Sizes follow a Pareto law of exponent 1; widths are uniform on .2 to 1 of the distance between
    centres; the variance falls as 1/j along the j-th axis, for centres and members alike.
    """
    rng = np.random.default_rng(7)
    count = max(1, n // CLUSTER)
    axes = (1 / np.arange(1, d + 1) ** 0.5).astype(np.float32)
    centres = rng.standard_normal((count, d), dtype=np.float32) * axes
    widths = rng.uniform(0.2, 1.0, (count, 1)).astype(np.float32)
    size = rng.pareto(1.0, count) + 0.1

    def members(rows: int) -> np.ndarray:
        cluster = rng.choice(count, rows, p=size / size.sum())
        noise = rng.standard_normal((rows, d), dtype=np.float32) * axes
        return unit(centres[cluster] + widths[cluster] * noise)

    return in_chunks(n, d, members), members(queries)


def noise(n: int, d: int, queries: int) -> Directions:
    """Uniform directions and uniform queries."""
    rng = np.random.default_rng(6)

    def draw(rows: int) -> np.ndarray:
        return unit(rng.standard_normal((rows, d), dtype=np.float32))

    return in_chunks(n, d, draw), draw(queries)


def states(n: int, d: int, queries: int, seconds: float) -> Directions:
    """States of a transformer after tokens of the training text; queries from validation text."""
    train = load_corpus("wikitext-2", "train")
    tokenizer = make_tokenizer("bpe", train, VOCABULARY)
    tokens = torch.from_numpy(tokenizer.encode(train).astype(np.int64))
    valid = torch.from_numpy(tokenizer.encode(load_corpus("wikitext-2", "valid")).astype(np.int64))
    config = TransformerConfig(dim=d, n_layers=3, n_heads=4)
    model = CausalTransformer(config, tokenizer.vocab_size)
    torch.manual_seed(0)
    counts = torch.bincount(tokens, minlength=tokenizer.vocab_size)
    model.initialize(tokens.numpy(), counts.numpy(), seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        starts = torch.randint(len(tokens) - WINDOW - 1, (8, 1))
        loss = model.losses(tokens[starts + torch.arange(WINDOW + 1)])["token"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def read(text: torch.Tensor, count: int) -> np.ndarray:
        rows = -(-count // WINDOW)
        starts = torch.linspace(0, len(text) - WINDOW, rows).long()[:, None]
        windows = text[starts + torch.arange(WINDOW)]
        parts = [model.backbone(batch).flatten(0, 1) for batch in windows.split(16)]
        return torch.cat(parts)[:count].numpy()

    mu = read(tokens, n)
    mean = mu.mean(axis=0)
    everything = read(valid, min(100 * queries, len(valid) // WINDOW * WINDOW))
    chosen = np.random.default_rng(0).choice(len(everything), queries, replace=False)
    return unit(mu - mean), unit(everything[chosen] - mean)


SYNTHETIC: Mapping[str, Callable[[int, int, int], Directions]] = {
    "clustered": clustered,
    "uneven": uneven,
    "noise": noise,
}
"""Kinds that are drawn, by name; "states" takes training besides."""
