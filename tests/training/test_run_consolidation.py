"""Consolidation of a run: splats in its next checkpoint, a gate fitted on what was held out."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch

from ebm_wgpu.config import Config, apply_overrides
from ebm_wgpu.errors import ConfigError, DataError, StoreError
from ebm_wgpu.evaluation.perplexity import evaluate_perplexity
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models.splat_transformer import SplatTransformer
from ebm_wgpu.splats import search_auto
from ebm_wgpu.splats.consolidation import Consolidation
from ebm_wgpu.splats.hrm2 import Hrm2Search
from ebm_wgpu.splats.search_auto import AutoSearch
from ebm_wgpu.text.datasets import evaluation_batches
from ebm_wgpu.training import run_consolidation, time_budget
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


def test_it_ends_within_its_time(config, folder, numba_device, monkeypatch) -> None:
    """By a clock of its own: reading costs by the token, merging and searching by the call.

    Reading all would take 70 s, merging the last buffer comes on top, and so do 67 windows of
    held-out text, whose splats would take 100 s to find.
    """
    now = 0.0

    def costing(function, cost):
        def call(*arguments, **options):
            nonlocal now
            now += cost(*arguments)
            return function(*arguments, **options)

        return call

    loaded = load_run(folder, numba_device)
    model, data = loaded.model, RunData.load(config, loaded.tokenizer)
    searched: list[int] = []
    monkeypatch.setattr(time_budget, "perf_counter", lambda: now)
    model.read = costing(model.read, lambda tokens, *_: 0.01 * tokens.numel())
    model.neighbours = costing(model.neighbours, lambda q: searched.append(len(q)) or 1.5)
    model.recall.fit = costing(model.recall.fit, lambda *_: 2.0)
    monkeypatch.setattr(
        Consolidation, "consolidate", costing(Consolidation.consolidate, lambda _: 5.0)
    )
    monkeypatch.setattr(
        run_consolidation,
        "_search_quality",
        costing(_search_quality, lambda _, __, queries: 0.05 * len(queries)),
    )
    report = consolidate(model, data, config, seconds=60.0)
    assert 45 < report.seconds <= 60
    assert 500 < report.states < len(data.train) / 2
    assert 5 < len(searched) < 30
    whole = consolidate(model, data, config)
    assert whole.states == (len(data.train) - 2) // 12 * 12 and whole.seconds > 200
    # However short the time, something is stored.
    assert consolidate(model, data, config, seconds=1e-3).splats > 0


def test_splats_of_a_model_that_learns_on_are_left_out(
    config, folder, numba_device, tmp_path, recorder
) -> None:
    """States of the model before: they would be compared with those of another one."""
    path = shutil.copytree(folder, tmp_path / "run")
    consolidate_run(path, numba_device)
    step = load_run(path, numba_device).step
    # Nothing is left to learn: the splats stay.
    same = apply_overrides(config, [f"train.steps={step}"])
    assert Trainer(same, path, numba_device, resume=True).train().step == step
    kept = load_run(path, numba_device, "last").model.stored_splats
    assert kept is not None
    more = apply_overrides(config, [f"train.steps={step + 3}", "train.eval_every=3"])
    result = Trainer(more, path, numba_device, [recorder], resume=True).train()
    assert result.step == step + 3
    loaded = load_run(path, numba_device, "last")
    assert loaded.step == step + 3 and loaded.model.stored_splats is None
    line = f"left out {len(kept)} stored splats, states of the model before it learns on: run `ebm "
    assert f"warning: {line}" in (path / "train.log").read_text()
    assert any(change.startswith(line) for change in recorder.start.changes)
    # What is scored and saved is the same model.
    data = RunData.load(config, loaded.tokenizer)
    valid, _ = data.valid_prefix(config.train.eval_tokens)
    start = data.tokenizer.start_id
    report = evaluate_perplexity(loaded.model, valid, config, start_id=start)
    assert report.nll_per_token == pytest.approx(result.last_valid["nll_per_token"], rel=1e-6)


def test_what_cannot_be_consolidated_is_refused(tiny, config, numba_device, tmp_path) -> None:
    settings = [setting for setting in SETTINGS if not setting.startswith("memory.buffer")]
    plain = apply_overrides(tiny, [*settings, "model.family=transformer", "train.steps=1"])
    Trainer(plain, tmp_path / "plain", numba_device).train()
    with pytest.raises(ConfigError, match=r"train with model\.family=splat model\.context=transf"):
        consolidate_run(tmp_path / "plain", numba_device)
    none = apply_overrides(config, ["data.heldout_tokens=0", "train.steps=1"])
    Trainer(none, tmp_path / "none", numba_device).train()
    with pytest.raises(DataError, match="no training text was held out"):
        consolidate_run(tmp_path / "none", numba_device)
