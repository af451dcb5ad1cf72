"""Consolidation of a run: splats in its next checkpoint, a gate fitted on what was held out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ebm_wgpu.config import Config, apply_overrides
from ebm_wgpu.errors import ConfigError, DataError, StoreError
from ebm_wgpu.evaluation import evaluate_perplexity
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models.splat_transformer import SplatTransformer
from ebm_wgpu.splats import search_auto
from ebm_wgpu.splats.hrm2 import Hrm2Search
from ebm_wgpu.splats.search_auto import AutoSearch
from ebm_wgpu.text.datasets import evaluation_batches
from ebm_wgpu.training.loading import load_run
from ebm_wgpu.training.run_consolidation import (
    _search_quality,
    consolidate,
    consolidate_run,
)
from ebm_wgpu.training.run_data import RunData
from ebm_wgpu.training.run_folder import RunFolder
from ebm_wgpu.training.trainer import Trainer
from ebm_wgpu.vmf import log_z0_ratio

SETTINGS = [
    "model.context=transformer", "model.n_splats=300", "transformer.dim=16",
    "transformer.n_layers=1", "transformer.n_heads=2", "transformer.max_length=12",
    "transformer.class_bounds=5,9", "data.heldout_tokens=400", "memory.buffer=512",
    "memory.n_neighbours=16", "train.steps=12", "train.lr=0.01",
    "train.dsm_weight=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def config(tiny: Config) -> Config:
    return apply_overrides(tiny, SETTINGS)


@pytest.fixture(scope="module")
def folder(config: Config, numba_device: KernelDevice, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    Trainer(config, path, numba_device).train()
    return path


def test_a_run_gets_stored_splats_that_help(config, folder, numba_device) -> None:
    before = load_run(folder, numba_device)
    assert isinstance(before.model, SplatTransformer) and before.model.stored_splats is None
    data = RunData.load(config, before.tokenizer)
    report = consolidate_run(folder, numba_device)
    after = load_run(folder, numba_device)
    model = after.model
    assert isinstance(model, SplatTransformer) and model.stored_splats is not None
    assert after.step == before.step + 1 == RunFolder(folder).pointer("best")
    assert len(model.stored_splats) == report.splats <= 300
    assert report.states == (len(data.train) - 2) // 12 * 12
    assert report.rounds[-1].rate < report.rounds[0].rate
    assert report.gain > 0.01
    scored = [
        evaluate_perplexity(m, data.valid, config, start_id=data.tokenizer.start_id)
        for m in (before.model, model)
    ]
    assert scored[1].nll_sum < scored[0].nll_sum
    tokens = torch.from_numpy(data.valid.tokens[None, :12]).long()
    log_p = model.next_token_log_probs(tokens)
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(1))


def test_the_splats_are_training_states_and_the_held_out_text_is_not_among_them(
    config, folder, numba_device
) -> None:
    loaded = load_run(folder, numba_device)
    data = RunData.load(config, loaded.tokenizer)
    model = loaded.model
    assert isinstance(model, SplatTransformer)
    every = apply_overrides(config, ["memory.merge_cosine=1", "model.n_splats=100000"])
    report = consolidate(model, data, every)
    store = model.stored_splats
    assert store is not None
    starts = np.arange(0, len(data.train) - 13, 12)
    followed = data.train.windows(starts + 1, 12).reshape(-1)
    assert report.states == len(followed)
    np.testing.assert_array_equal(np.unique(store.sid), np.unique(followed))
    assert sum(r.merged + r.created for r in report.rounds) == report.states
    assert len(data.heldout) == 400


def test_stored_splats_are_found_through_the_index_where_it_pays(
    config, folder, numba_device, monkeypatch
) -> None:
    monkeypatch.setattr(AutoSearch, "LEAST_FOR_HRM2", 100)
    monkeypatch.setattr(AutoSearch, "LEAST_GAIN", 1.01)
    # Held-out text is short here: an index is as good as free.
    monkeypatch.setattr(search_auto, "building_products", lambda n: n)
    loaded = load_run(folder, numba_device)
    model, data = loaded.model, RunData.load(config, loaded.tokenizer)
    assert isinstance(model, SplatTransformer)
    with pytest.raises(StoreError, match="stores no splats: run `ebm consolidate`"):
        model.store_splats(None)
        _ = model.stored_search
    report = consolidate(model, data, apply_overrides(config, ["model.n_splats=3000"]))
    search = model.stored_search
    assert isinstance(search, AutoSearch) and isinstance(search.current, Hrm2Search)
    assert report.search.products < report.search.directions == report.splats
    assert report.search.recall > 0.98
    # What is dropped is weighed as the model does.
    store = model.stored_splats
    batch = next(
        evaluation_batches(
            data.heldout, config.data.eval_context, config.data.eval_stride, 1,
            data.tokenizer.start_id,
        )
    )  # fmt: skip
    tokens = torch.from_numpy(batch.tokens).long()
    queries = model.read(tokens[:, :-1], tokens[:, 1:]).queries.flatten(0, 1)
    found = search.search(queries.numpy(), model.n_neighbours).indices
    length = math.exp(float(model.recall.log_length))
    a, exponent = store.concentration, float(model.recall.exponent)
    logs = exponent * np.log(store.alpha) + log_z0_ratio(
        a, 2 * a * length * (queries.double().numpy() @ store.mu.T) + length**2, store.dimension
    )
    weight = np.exp(logs)
    kept = np.take_along_axis(weight, found, axis=1).sum(1) / weight.sum(1)
    quality = _search_quality(model, store, queries)
    assert quality.dropped_mass == pytest.approx((1 - kept).mean(), rel=1e-3)


def test_it_goes_on_from_a_consolidated_checkpoint(config, folder, numba_device) -> None:
    consolidate_run(folder, numba_device)
    step = load_run(folder, numba_device).step
    more = apply_overrides(config, [f"train.steps={step + 3}"])
    result = Trainer(more, folder, numba_device, resume=True).train()
    assert result.step == step + 3
    model = load_run(folder, numba_device, "last").model
    assert isinstance(model, SplatTransformer) and model.stored_splats is not None


def test_what_cannot_be_consolidated_is_refused(tiny, config, numba_device, tmp_path) -> None:
    plain = apply_overrides(
        tiny, [*SETTINGS, "model.family=transformer", "train.steps=1", "train.latent_weight=0"]
    )
    Trainer(plain, tmp_path / "plain", numba_device).train()
    with pytest.raises(ConfigError, match=r"train with model\.family=splat model\.context=transf"):
        consolidate_run(tmp_path / "plain", numba_device)
    none = apply_overrides(config, ["data.heldout_tokens=0", "train.steps=1"])
    Trainer(none, tmp_path / "none", numba_device).train()
    with pytest.raises(DataError, match="no training text was held out"):
        consolidate_run(tmp_path / "none", numba_device)
