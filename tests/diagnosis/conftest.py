"""Run folders with planted metrics, for any kind of run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ebm_wgpu.config import Config, EnergyConfig, ModelConfig, SamplerConfig, TrainConfig
from ebm_wgpu.splats.store import SplatStore
from ebm_wgpu.text.tokenizers import make_tokenizer
from ebm_wgpu.training.checkpoints import write_checkpoint
from ebm_wgpu.training.run_folder import RunFolder

UNIGRAM = 6.0
Plant = Callable[..., RunFolder]


def losses(values: Iterable[float], every: int = 50, **parts: Any) -> list[dict[str, Any]]:
    """Lines of metrics: training lines every 10 steps and an evaluation every `every`.

    values: validation losses, the first one at step 0. parts: further keys of training lines, a
    value or a function of the step.
    """
    values = list(values)
    records: list[dict[str, Any]] = []
    for step in range(0, every * (len(values) - 1) + 1, 10):
        position = step / every
        low = min(int(position), len(values) - 1)
        high = min(low + 1, len(values) - 1)
        loss = values[low] + (position - low) * (values[high] - values[low])
        record: dict[str, Any] = {"step": step}
        if step:
            record |= {"loss": loss, "token": loss, "grad_norm": 0.9, "lr": 1e-3}
            record |= {"tokens_per_second": 100.0, "elapsed": step / 2}
            record |= {
                name: value(step) if callable(value) else value for name, value in parts.items()
            }
        if step % every == 0:
            record["valid"] = scores(values[low])
        if step == 0:
            record["unigram_nll"] = UNIGRAM
        records.append(record)
    return records


def scores(nll: float) -> dict[str, Any]:
    """A "valid" part, as the trainer writes it: null for what is no number."""
    figures = {"nll_per_token": nll, "bits_per_byte": nll / 4}
    figures["token_perplexity"] = math.exp(min(nll, 700)) if math.isfinite(nll) else math.nan
    figures["word_perplexity"] = figures["token_perplexity"] ** 1.3
    finite = {name: v if math.isfinite(v) else None for name, v in figures.items()}
    return {**finite, "n_tokens": 100, "n_words": 70, "score_matching": []}


def splats(count: int = 60, seed: int = 0, **changes: Any) -> SplatStore:
    """A healthy store."""
    mu = np.random.default_rng(seed).standard_normal((count, 16))
    mu /= np.linalg.norm(mu, axis=1, keepdims=True)
    values = {"kappa": 8.0, "frequency": np.ones(count), "age": 1000, **changes}
    return SplatStore.from_directions(mu, **values)


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """Writes a run folder: records, and stores (or none) and weights by step."""

    def make(
        records: Iterable[Mapping[str, Any]],
        checkpoints: Mapping[int, SplatStore | None] | None = None,
        *,
        name: str = "run",
        family: str = "splat",
        best: int | None = None,
        **train: Any,
    ) -> RunFolder:
        run = RunFolder(tmp_path / name)
        run.create()
        run.write_tokenizer(make_tokenizer("char", "abcdefgh \n"))
        config = Config(
            model=ModelConfig(family=family, dim=16, n_splats=60, expert_hidden=8),  # type: ignore[arg-type]
            energy=EnergyConfig(n_neighbours=8),
            sampler=SamplerConfig(list_size=8),
            train=TrainConfig(**{"steps": 1000, **train}),
        )
        run.write_config(config)
        for record in records:
            run.append_metrics(record)
        steps = sorted(checkpoints or {})
        for number, step in enumerate(steps):
            weights = {"w": torch.full((4,), 1.0 + 0.1 * number), "n": torch.arange(3)}
            write_checkpoint(run.checkpoints, step, (checkpoints or {})[step], weights, {})
        pointers = {"last": steps[-1] if steps else None, "best": best}
        for pointer, step in pointers.items():
            if step is not None:
                (run.checkpoints / f"{pointer}.json").write_text(json.dumps({"step": step}))
        return run

    return make
