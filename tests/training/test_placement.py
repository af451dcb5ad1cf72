"""Runs on torch.device("wgpu"): every family learns, is saved through main memory, and resumes."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

import ebm_wgpu.torch_device as torch_device
from ebm_wgpu.config import Config, apply_overrides
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.evaluation.online import evaluate_online
from ebm_wgpu.evaluation.perplexity import evaluate_perplexity
from ebm_wgpu.generation.memory import ENDLESS, RememberingModel
from ebm_wgpu.generation.sampling import SamplingSettings
from ebm_wgpu.generation.writer import TokenWriter
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models.registry import FAMILIES, build_model
from ebm_wgpu.online_memory import OnlineSettings, fit_online
from ebm_wgpu.readers import reader_of
from ebm_wgpu.training.loading import load_run
from ebm_wgpu.training.objectives import Objective
from ebm_wgpu.training.optimizers import Optimizers
from ebm_wgpu.training.placement import (
    host_energies,
    on_host,
    place_of,
    torch_device_of,
    training_device,
)
from ebm_wgpu.training.run_consolidation import consolidate_run
from ebm_wgpu.training.run_data import RunData
from ebm_wgpu.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("no_fallbacks")

SMALL = [
    "transformer.dim=16", "transformer.n_layers=1", "transformer.n_heads=2",
    "transformer.max_length=12", "nano.interaction=8", "nano.infonce_weight=0.1",
    "nano.infonce_negatives=5", "ebt.dim=16", "ebt.n_layers=1", "ebt.n_heads=2",
    "ebt.max_length=12",
]  # fmt: skip


@pytest.fixture(scope="module")
def gpu(wgpu_device: KernelDevice) -> KernelDevice:
    return torch_device.device()


def of_family(tiny: Config, family: str, *overrides: str) -> Config:
    plain = [] if FAMILIES[family].splats else ["train.dsm_weight=0"]
    return apply_overrides(tiny, [f"model.family={family}", *SMALL, *plain, *overrides])


def test_a_splat_model_learns_as_in_main_memory(
    tiny: Config, numba_device: KernelDevice, gpu: KernelDevice
) -> None:
    config = of_family(tiny, "splat", "train.steps=50")
    data = RunData.load(config)
    host = build_model(config, data.tokenizer.vocab_size, numba_device)
    host.initialize(data.train.tokens, data.token_counts, 0)
    there = build_model(config, data.tokenizer.vocab_size, gpu)
    there.load_state_dict(host.state_dict())
    there.to(torch_device_of(gpu))
    losses: list[list[float]] = []
    for model, device in ((host, numba_device), (there, gpu)):
        optimizers, objective = Optimizers(model, config.train, device), Objective(config.train)
        batches = data.batches(config)
        losses.append([])
        for step in range(50):
            tokens = torch.from_numpy(batches.next_batch()).long().to(place_of(model))
            total, parts = objective(model, tokens, step)
            total.backward()
            optimizers.clip(optimizers.gradient_norm().item(), 1.0)
            optimizers.step(1.0)
            optimizers.zero_grad()
            losses[-1].append(parts["loss"].item())
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert losses[1][-1] < losses[1][0]


KINDS: dict[str, tuple[str, list[str]]] = {
    "splat": ("splat", []),
    "transformer": ("transformer", []),
    "nano": ("nano", []),
    "ebt": ("ebt", []),
    "splat over a transformer": (
        "splat",
        ["model.context=transformer", "train.dsm_weight=0", "transformer.class_bounds=[8,16]"],
    ),
    "splat in float16": ("splat", ["train.precision=float16"]),
    "transformer in float16": ("transformer", ["train.precision=float16"]),
}
QUICK = ("splat", "transformer")


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in KINDS],
)
def test_every_family_trains_and_resumes(
    kind: str, tiny: Config, gpu: KernelDevice, numba_device: KernelDevice, tmp_path: Path
) -> None:
    """All of them with `pytest -m "slow or not slow" tests/training/test_placement.py`."""
    family, overrides = KINDS[kind]
    config = of_family(
        tiny, family, *overrides,
        "train.device=wgpu", "train.steps=3", "train.accumulation=1", "train.ema_decay=0.5",
        "train.eval_every=2", "train.checkpoint_every=2", "train.eval_tokens=40",
    )  # fmt: skip
    trainer = Trainer(config, tmp_path / "run", gpu)
    result = trainer.train()
    assert result.step == 3
    assert place_of(trainer.model).type == "wgpu"
    assert trainer.model.device_description.startswith(gpu.description)
    records = trainer.run.read_metrics()
    assert np.isfinite([r["loss"] for r in records if "loss" in r]).all()
    assert records[-1]["memory"]["device"] > 0
    assert ("loss_scale" in records[-1]) == (kind == "transformer in float16")

    longer = apply_overrides(config, ["train.steps=4"])
    assert Trainer(longer, tmp_path / "run", gpu, resume=True).train().step == 4
    loaded = load_run(tmp_path / "run", numba_device, "last").model
    assert place_of(loaded).type == "cpu"
    tokens = torch.arange(6)[None] % loaded.vocab_size
    there = copy.deepcopy(loaded) if family != "splat" else None
    expected = loaded.token_log_probs(tokens, tokens)
    assert torch.isfinite(expected).all()
    if there is not None:
        there.to("wgpu")
        actual = there.token_log_probs(tokens.to("wgpu"), tokens.to("wgpu"))
        torch.testing.assert_close(actual.cpu(), expected, rtol=1e-4, atol=1e-4)


class Use(NamedTuple):
    """Where a loaded run lives, the tokens it writes, its scores and energies, and its memory."""

    place: str
    written: list[int]
    figures: list[float]
    memory: OnlineSettings | None


def use(path: Path, device: KernelDevice, memory: OnlineSettings | None = None) -> Use:
    """All uses of a run on a device, with a memory fitted there unless one is given."""
    loaded = load_run(path, device, "last")
    model, config, start_id = loaded.model, loaded.config, loaded.tokenizer.start_id
    data = RunData.load(config, loaded.tokenizer)
    valid, _ = data.valid_prefix(40)
    perplexity = evaluate_perplexity(model, valid, config, start_id=start_id)
    figures = [perplexity.token_perplexity]
    writer = TokenWriter(
        model, [valid.tokens[:3], valid.tokens[:9]], SamplingSettings(max_tokens=6), context=12
    )
    written = [token.token for _ in range(6) for token in writer.write()]
    tokens, targets = (torch.from_numpy(valid.tokens[None, s : s + 8]).long() for s in (0, 1))
    energies = host_energies(model, tokens, targets)
    if energies is not None:
        figures += energies[0].tolist()
    reader = reader_of(model)
    if reader is not None:
        if memory is None:
            memory = fit_online(reader, data.heldout, config, start_id=start_id, capacity=20)
        online = evaluate_online(reader, valid, config, memory, start_id=start_id).online
        figures.append(online.token_perplexity)
        remembering = RememberingModel(model, reader, memory, config)
        prompts = [valid.tokens[:1], valid.tokens[:9]]
        writer = TokenWriter(remembering, prompts, SamplingSettings(max_tokens=6), ENDLESS)
        written += [token.token for _ in range(6) for token in writer.write()]
    return Use(place_of(model).type, written, figures, memory)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=() if kind == "transformer" else pytest.mark.slow)
        for kind in KINDS
        if "float16" not in kind
    ],
)
def test_a_run_is_used_where_its_kernels_run(
    kind: str, tiny: Config, gpu: KernelDevice, numba_device: KernelDevice, tmp_path: Path
) -> None:
    """All of them with `pytest -m "slow or not slow" tests/training/test_placement.py`."""
    family, overrides = KINDS[kind]
    config = of_family(
        tiny, family, *overrides, "train.steps=2", "train.eval_tokens=20", "data.heldout_tokens=60"
    )
    Trainer(config, tmp_path, numba_device).train()
    if "over" in kind:
        assert consolidate_run(tmp_path, gpu).splats > 0
    host = use(tmp_path, numba_device)
    there = use(tmp_path, gpu, host.memory)
    assert host.place == "cpu"
    assert there.place == ("cpu" if kind == "splat" else "wgpu")
    assert there.written == host.written
    assert there.figures == pytest.approx(host.figures, rel=1e-4)


def test_values_go_to_main_memory_wherever_they_are_nested() -> None:
    values = [{"a": torch.ones(2, device="wgpu"), "b": [3, torch.zeros(1)]}]
    found = on_host(values)
    assert found[0]["a"].device.type == "cpu"
    assert found[0]["a"].tolist() == [1, 1]
    assert found[0]["b"][0] == 3


def test_types_that_a_device_does_not_store_are_refused(
    tiny: Config, gpu: KernelDevice, numba_device: KernelDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    single, brain, half = (
        of_family(tiny, "transformer", f"train.precision={precision}").train
        for precision in ("float32", "bfloat16", "float16")
    )
    assert all(training_device(gpu, train) is gpu for train in (single, half))
    assert all(training_device(numba_device, t) is numba_device for t in (single, brain))
    with pytest.raises(ConfigError, match=r"for the processor .* use train\.precision=float16 or"):
        training_device(gpu, brain)
    with pytest.raises(ConfigError, match=r"for GPUs .* use train\.precision=bfloat16 or"):
        training_device(numba_device, half)
    monkeypatch.setattr(type(gpu), "supports_half", False)
    with pytest.raises(ConfigError, match=r"no shader-f16.*: use train\.precision=float32"):
        training_device(gpu, half)
    assert training_device(gpu, single) is gpu


STEPS_OF_A_PRESET = """
import sys
from ebm_wgpu.benchmarking import RandomStep
from ebm_wgpu.gpu.runtime import GpuRuntime
from ebm_wgpu.kernels import open_device
from ebm_wgpu.presets import PRESETS
from ebm_wgpu.training.placement import training_device

dispatch = GpuRuntime.dispatch

def dispatch_little(self, pipeline, buffers, block, groups, drawn=()):
    small = max(buffer.nbytes for buffer in buffers) <= 4096
    dispatch(self, pipeline, buffers, block, groups if small else 1, drawn)

config = PRESETS[sys.argv[1]]
device = training_device(open_device("wgpu"), config.train)
device._check_rounds = lambda *arguments: None
GpuRuntime.dispatch = dispatch_little
step = RandomStep(config, config.train.batch_size, device)
for _ in range(6):
    step()
print(device.runtime.pool.allocated_bytes, step.replays)
"""
"""Training steps of a preset's own batch that allocate all they need, the last ones replayed. Of
kernels over more than a few numbers one workgroup runs: memory is the question, and a software
adapter would take minutes."""


def steps_within(preset: str, budget: float) -> subprocess.CompletedProcess[str]:
    """The steps in a process whose device has `budget` GiB."""
    return subprocess.run(
        [sys.executable, "-c", STEPS_OF_A_PRESET, preset],
        env={**os.environ, "EBM_WGPU_MEMORY_BUDGET": str(int(budget * 2**30))},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def measured(done: subprocess.CompletedProcess[str]) -> tuple[int, int]:
    """Bytes allocated by steps that ended well, and how many of them were replayed."""
    assert done.returncode == 0, done.stderr
    allocated, replays = map(int, done.stdout.split())
    return allocated, replays


@pytest.mark.slow
def test_a_budget_is_kept() -> None:
    """Run with `pytest -m slow tests/training/test_placement.py`."""
    allocated, replays = measured(steps_within("small", 2))
    assert allocated <= 2 * 2**30
    assert replays > 0
    failed = steps_within("small", 0.2)
    assert failed.returncode != 0
    assert "DeviceError" in failed.stderr.splitlines()[-1]
    assert "memory" in failed.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["base", "transformer-large"])
def test_presets_fit_eight_gigabytes(preset: str) -> None:
    """Run with `pytest -m slow tests/training/test_placement.py`."""
    allocated, replays = measured(steps_within(preset, 8))
    assert 2**30 < allocated <= 8 * 2**30
    assert replays > 0
