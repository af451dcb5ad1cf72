"""Every family without splats learns, is saved and loaded, and resumes to the same bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from ebm_wgpu.config import Config, apply_overrides
from ebm_wgpu.errors import CheckpointError
from ebm_wgpu.evaluation.perplexity import evaluate_perplexity
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models.registry import FAMILIES, build_model
from ebm_wgpu.training.callbacks import StartEvent, StepEvent, TrainerCallback, TrainResult
from ebm_wgpu.training.checkpoints import read_checkpoint
from ebm_wgpu.training.loading import load_run
from ebm_wgpu.training.model_state import model_weights
from ebm_wgpu.training.objectives import Objective
from ebm_wgpu.training.run_data import RunData
from ebm_wgpu.training.run_folder import RunFolder
from ebm_wgpu.training.trainer import Trainer

BACKBONE = [
    "transformer.dim=16", "transformer.n_layers=1", "transformer.n_heads=2",
    "transformer.max_length=12", "transformer.dropout=0.1",
]  # fmt: skip
# Everything that keeps a state from step to step, or draws random numbers, is on.
SETTINGS = {
    "transformer": BACKBONE,
    "nano": [
        *BACKBONE, "nano.interaction=8", "nano.random_steps=true", "nano.noise=0.1",
        "nano.entropy_weight=0.01", "nano.infonce_weight=0.1", "nano.infonce_negatives=5",
        "nano.contrastive_weight=0.05", "nano.contrastive_method=fast_pcd",
        "nano.contrastive_length=4", "nano.contrastive_steps=1", "nano.n_particles=6",
    ],
    "ebt": [
        "ebt.dim=16", "ebt.n_layers=1", "ebt.n_heads=2", "ebt.max_length=12",
        "ebt.tie_prediction=true", "ebt.max_steps=3", "ebt.step_jitter=1.5",
        "ebt.langevin_noise=0.1", "ebt.contrastive_weight=0.1",
        "ebt.replay_capacity=5", "ebt.replay_tokens=12", "train.token_latent=exact",
    ],
}  # fmt: skip
STEPS = 12


class StopAt(TrainerCallback):
    """Keeps the losses, and asks the run to stop after a step."""

    def __init__(self, step: int | None = None) -> None:
        self.step, self.losses = step, list[float]()
        self.start: StartEvent | None = None

    def on_start(self, event: StartEvent) -> None:
        self.start = event

    def on_step(self, event: StepEvent) -> None:
        self.losses.append(event.loss)
        if event.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def configured(tiny: Config, family: str) -> Config:
    common = [
        f"model.family={family}", "train.dsm_weight=0", f"train.steps={STEPS}",
        "train.eval_every=6", "train.checkpoint_every=5", "train.lr=0.02",
    ]  # fmt: skip
    return apply_overrides(tiny, [*common, *SETTINGS[family]])


def last_bits(run: RunFolder) -> list[bytes]:
    """Weights, optimiser states and random states of the last checkpoint."""
    checkpoint = read_checkpoint(run.checkpoint_path("last"))
    state = checkpoint.trainer_state()
    moments = [
        value
        for optimizer in state["optimizers"]
        for parameter in optimizer["state"].values()
        for value in parameter.values()
    ]
    tensors = [*checkpoint.weights.values(), *moments, state["torch_random"]]
    return [tensor.numpy().tobytes() for tensor in tensors]


Trained = tuple[str, Config, RunFolder, StopAt, TrainResult]


def test_every_family_without_splats_is_here() -> None:
    assert list(SETTINGS) == [name for name, family in FAMILIES.items() if not family.splats]


@pytest.fixture(scope="module", params=SETTINGS)
def trained(
    request: pytest.FixtureRequest,
    tiny: Config,
    tmp_path_factory: pytest.TempPathFactory,
    numba_device: KernelDevice,
) -> Trained:
    config = configured(tiny, request.param)
    watch, folder = StopAt(), tmp_path_factory.mktemp(request.param) / "run"
    result = Trainer(config, folder, numba_device, [watch]).train()
    return request.param, config, RunFolder(folder), watch, result


def test_a_run_learns_and_its_lines_hold_the_terms_of_the_family(trained: Trained) -> None:
    family, _, run, watch, result = trained
    assert (result.reason, result.step) == ("finished", STEPS)
    assert result.last_valid["nll_per_token"] < result.first_valid["nll_per_token"]
    assert watch.start is not None
    assert "torch" in watch.start.device
    expected = {
        "transformer": {"token"},
        "nano": {"token", "auxiliary", "negative_entropy", "infonce", "contrastive"},
        "ebt": {"token", "intermediate", "contrastive", "energy", "step_size"},
    }
    for record in run.read_metrics()[1:]:
        assert expected[family] | {"loss", "lr", "grad_norm"} <= set(record)
        assert "splats" not in record
        assert "score_matching" not in record
        assert record.get("valid", {}).get("score_matching", []) == []


def test_checkpoints_list_what_there_is(trained: Trained) -> None:
    path = trained[2].checkpoint_path("last")
    files = {"weights.safetensors", "trainer.pt"}
    assert {file.name for file in path.iterdir()} == files | {"manifest.json"}
    assert set(json.loads((path / "manifest.json").read_text())["files"]) == files
    assert read_checkpoint(path).store is None


def test_a_stopped_and_resumed_run_ends_with_the_same_bits(
    trained: Trained, tmp_path: Path, numba_device: KernelDevice
) -> None:
    _, config, whole, watch, _ = trained
    first, second = StopAt(7), StopAt()
    result = Trainer(config, tmp_path / "run", numba_device, [first]).train()
    assert (result.reason, result.step) == ("interrupted", 7)
    # What a process has in its random state must not matter.
    torch.manual_seed(99)
    Trainer(config, tmp_path / "run", numba_device, [second], resume=True).train()
    assert first.losses + second.losses == watch.losses
    assert last_bits(RunFolder(tmp_path / "run")) == last_bits(whole)


def test_the_loaded_model_scores_as_it_did_in_training(
    trained: Trained, numba_device: KernelDevice
) -> None:
    _, config, run, _, result = trained
    loaded = load_run(run.path, numba_device, "last")
    assert not loaded.model.training
    valid, _ = RunData.load(config, loaded.tokenizer).valid_prefix(config.train.eval_tokens)
    report = evaluate_perplexity(loaded.model, valid, config, start_id=loaded.tokenizer.start_id)
    assert report.nll_per_token == result.last_valid["nll_per_token"]


def test_the_loss_is_the_weighted_sum_of_the_terms(
    trained: Trained, numba_device: KernelDevice
) -> None:
    loaded = load_run(trained[2].path, numba_device)
    tokens = torch.arange(26).view(2, 13) % loaded.tokenizer.vocab_size
    total, parts = Objective(loaded.config.train)(loaded.model, tokens, seed=1)
    weights = loaded.model.loss_weights
    expected = sum(weights[name] * parts[name].item() for name in weights if name in parts)
    assert total.item() == pytest.approx(expected, rel=1e-6)
    assert weights["token"] == 1


def test_tied_tensors_are_written_once(tiny: Config, numba_device: KernelDevice) -> None:
    model = build_model(configured(tiny, "ebt"), 30, numba_device)
    _, weights = model_weights(model)
    assert {"embedding.weight", "prediction.weight"} <= model.state_dict().keys()
    assert "embedding.weight" in weights
    assert "prediction.weight" not in weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transformer": {"n_layers": 2}, "ebt": {"n_layers": 2}}, r"weights.safetensors lacks"),
        ({"model": {"family": "splat"}}, r"splats.h5 lacks tensor mu"),
    ],
)
def test_a_checkpoint_of_another_shape_or_family_is_refused(
    trained: Trained,
    tmp_path: Path,
    numba_device: KernelDevice,
    change: dict[str, dict[str, object]],
    message: str,
) -> None:
    run = RunFolder(shutil.copytree(trained[2].path, tmp_path / "run"))
    content = json.loads((run.path / "config.json").read_text())
    for section, entries in change.items():
        content[section] |= entries
    (run.path / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        load_run(run.path, numba_device)


def test_a_checkpoint_with_splats_is_refused_by_a_family_without(
    tiny: Config, tmp_path: Path, numba_device: KernelDevice
) -> None:
    config = apply_overrides(tiny, ["train.steps=1", "train.eval_tokens=12"])
    Trainer(config, tmp_path / "run", numba_device).train()
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    content["model"]["family"] = "transformer"
    content["train"]["dsm_weight"] = 0
    (tmp_path / "run" / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"splats.h5 has tensor age, the model has not"):
        load_run(tmp_path / "run", numba_device)
