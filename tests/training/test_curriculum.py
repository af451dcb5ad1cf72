"""The curriculum: phases, what splats see, growth that keeps the rest, and exact resumption."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from ebm_wgpu.config import Config, apply_overrides
from ebm_wgpu.evaluation.perplexity import evaluate_perplexity
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.splats.store import SplatStore
from ebm_wgpu.training.callbacks import StepEvent, TrainerCallback
from ebm_wgpu.training.curriculum import Curriculum, checkpoint_config, read_states
from ebm_wgpu.training.loading import load_run
from ebm_wgpu.training.run_data import RunData
from ebm_wgpu.training.run_folder import RunFolder
from ebm_wgpu.training.state import TrainingState
from ebm_wgpu.training.stepping import Stepper
from ebm_wgpu.training.trainer import Trainer
from ebm_wgpu.vmf import log_z0

NUMBERS = [9, 24, 40]


@pytest.fixture(scope="module")
def config(tiny: Config) -> Config:
    """Growth before steps 6 and 13 of 20."""
    return apply_overrides(
        tiny,
        [
            "curriculum.splats=9,24,40", "curriculum.temperatures=2,1.5,1", "train.steps=20",
            "curriculum.shares=5,7,8", "curriculum.states=96", "train.accumulation=1",
            "train.ema_decay=0.9", "train.lr_splats=0.05", "train.eval_every=5",
            "train.keep_last=9",
        ],
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(config: Config) -> RunData:
    return RunData.load(config)


@pytest.fixture
def state(config: Config, data: RunData, numba_device: KernelDevice) -> TrainingState:
    """The first phase after three steps."""
    return started(config, data, numba_device)


def started(config: Config, data: RunData, device: KernelDevice) -> TrainingState:
    state = TrainingState(Curriculum(config).phases[0].config, data, device)
    state.initialize()
    stepper = Stepper(state.config.train)
    for _ in range(3):
        stepper.step(state, 1.0)
    return state


def test_phases_share_the_run_and_end_as_the_configuration_says(tiny: Config, config: Config):
    curriculum = Curriculum(config)
    assert [p.config.model.n_splats for p in curriculum.phases] == NUMBERS
    assert [p.config.energy.temperature for p in curriculum.phases] == [2, 1.5, 1]
    assert [p.stop for p in curriculum.phases] == [0.25, 0.6, 1]
    shares = [0, 0.249, 0.25, 0.599, 0.6, 0.999, 1, 1.5]
    assert [curriculum.at(share).number for share in shares] == [1, 1, 2, 2, 3, 3, 3, 3]
    # But for splats and temperature a phase is the run itself, and needs no curriculum any more.
    last = curriculum.phases[-1].config.validate()
    assert last.curriculum.splats is None
    assert (last.data, last.model, last.train) == (config.data, config.model, config.train)
    (only,) = Curriculum(tiny).phases
    assert only.config is tiny


def test_a_checkpoint_belongs_to_the_phase_with_its_number_of_splats(tiny: Config, config: Config):
    def found(run: Config, count: int) -> tuple[int, float]:
        store = SplatStore.from_directions(np.eye(64)[:count])
        used = checkpoint_config(run, store)
        return used.model.n_splats, used.energy.temperature

    assert [found(config, n) for n in (9, 24, 40)] == [(9, 2), (24, 1.5), (40, 1)]
    # Another number fits no phase, which restoring then says.
    assert found(config, 41) == (40, 1)
    assert checkpoint_config(tiny, None) is tiny


def test_states_are_what_the_mixture_says_of_them(state: TrainingState, data: RunData):
    model = state.model
    states = read_states(model, data.train, state.config, 30, np.random.default_rng(4))
    assert len(states) == 30
    assert np.linalg.norm(states.direction, axis=1) == pytest.approx(1, abs=1e-6)
    # The same windows, and the closed form of the mixture in float64.
    length = state.config.data.block_size
    starts = np.arange(0, len(data.train) - length, length)
    starts = np.random.default_rng(4).permutation(starts)[:3]
    windows = torch.from_numpy(data.train.windows(starts, length + 1)).long()
    with torch.no_grad():
        h = model.features(windows[:, :-1]).h.flatten(0, 1)[:30].double().numpy()
    store = model.to_store()
    a, mu = store.concentration / state.config.energy.temperature, store.mu.astype(float)
    eta = np.linalg.norm(a[:, None] * mu + h[:, None], axis=2)
    log_w = store.log_pi - log_z0(a, 16) + log_z0(eta, 16)
    log_p = log_w - logsumexp(log_w, axis=1, keepdims=True)
    tokens = windows[:, 1:].flatten()[:30].numpy()
    assert np.array_equal(states.token, tokens)
    assert np.isneginf(states.log_mass).any() and np.isfinite(states.log_mass).any()
    for row, token in enumerate(tokens):
        own = np.where(store.sid == token, log_p[row], -np.inf)
        if not (store.sid == token).any():
            assert (states.log_mass[row], states.splat[row]) == (-np.inf, -1)
            continue
        assert states.log_mass[row] == pytest.approx(logsumexp(own), abs=2e-4)
        assert states.splat[row] == own.argmax()


def test_all_but_the_new_splats_goes_on_as_it_was(
    config: Config, data: RunData, state: TrainingState
):
    before = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    moments = state.optimizers.state_dict()
    position, random = state.batches.state_dict(), torch.get_rng_state()
    old = state.model.to_store()
    after = Curriculum(config).enter(state, data, 0.3)
    assert after is not state
    assert torch.equal(torch.get_rng_state(), random)
    assert after.batches.state_dict() == position
    assert after.progress is state.progress
    growth = state.progress.growth
    assert growth is not None and (growth["from"], growth["to"]) == (9, 24)
    assert growth["uncovered"] + growth["critical"] + growth["used"] == 15
    new = after.model.to_store()
    # Within a token, splats that were there stand first.
    kept = np.concatenate(
        [np.flatnonzero(new.sid == t)[: (old.sid == t).sum()] for t in np.unique(old.sid)]
    )
    born = np.setdiff1d(np.arange(24), kept)
    assert np.array_equal(new.mu[kept], old.mu)
    assert new.kappa[kept] == pytest.approx(old.kappa, rel=1e-5)
    for name, parameter in after.model.named_parameters():
        if name not in ("mu", "log_alpha", "kappa_logit"):
            assert torch.equal(parameter, before[name]), name
    changed = 0
    for then, now in zip(moments, after.optimizers.state_dict(), strict=True):
        assert then["param_groups"] == now["param_groups"]
        for index, held in then["state"].items():
            for name, value in held.items():
                carried = now["state"][index][name]
                if not isinstance(value, torch.Tensor) or value.ndim == 0:
                    assert carried == value
                elif len(value) == len(carried):
                    assert torch.equal(carried, value)
                else:
                    changed += 1
                    assert torch.equal(carried[kept], value)
                    if name in ("exp_avg", "momentum"):
                        assert not carried[born].any()
    assert changed == 6
    assert after.average is not None and after.average.updates == 3
    with state.scored_model() as one, after.scored_model() as other:
        assert torch.allclose(other.mu[kept], one.mu, atol=1e-6)
        assert torch.equal(other.bias, one.bias)
        lag = (one.log_alpha - before["log_alpha"], other.log_alpha[kept])
    assert torch.allclose(lag[1] - after.model.log_alpha[kept], lag[0], atol=1e-5)
    assert Curriculum(config).enter(after, data, 0.3) is after
    assert Curriculum(config).enter(after, data, 0.1) is after
    assert np.isfinite(Stepper(config.train).step(after, 1.0).parts["loss"])


@pytest.mark.parametrize("term", ["lambda_geom", "lambda_comp", "lambda_entropy"])
def test_energy_terms_learn_on_through_growth(
    config: Config, data: RunData, numba_device: KernelDevice, term: str
):
    """Their parameters have no row a splat: weights, moments and average are carried over whole."""
    config = apply_overrides(config, [f"energy.{term}=0.1"])
    state = started(config, data, numba_device)
    held = dict(state.model.terms.named_parameters())
    assert held
    grown = Curriculum(config).enter(state, data, 0.3)
    assert grown.config.model.n_splats == 24
    with state.scored_model() as one, grown.scored_model() as other:
        for name in held:
            average = other.terms.get_parameter(name)
            assert torch.equal(average, one.terms.get_parameter(name)), name
    before, after = (s.optimizers._optimizers[0].state for s in (state, grown))
    for name, parameter in grown.model.terms.named_parameters():
        assert torch.equal(parameter, held[name]), name
        for key, value in before[held[name]].items():
            assert torch.equal(after[parameter][key], value), (name, key)
    assert np.isfinite(Stepper(config.train).step(grown, 1.0).parts["term_matching"])


@pytest.mark.slow
def test_growth_on_a_gpu_is_growth_in_main_memory(
    config: Config, data: RunData, numba_device: KernelDevice, wgpu_device: KernelDevice
):
    """`pytest -m slow tests/training/test_curriculum.py`."""
    from ebm_wgpu.torch_device.state import adopt

    grown = []
    for device in (numba_device, adopt(wgpu_device)):
        state = TrainingState(Curriculum(config).phases[0].config, data, device)
        state.initialize()
        Stepper(config.train).step(state, 1.0)
        after = Curriculum(config).enter(state, data, 0.3)
        Stepper(config.train).step(after, 1.0)
        grown.append(after.model.to_store())
    one, other = grown
    assert np.array_equal(one.sid, other.sid)
    # Two steps of the optimiser, whose directions are ratios of small numbers, lie between.
    assert other.mu == pytest.approx(one.mu, abs=1e-3)


class After(TrainerCallback):
    """Does something after a step, once."""

    def __init__(self, step: int, action: Callable[[], None]) -> None:
        self._actions: Iterator[Callable[[], None]] = iter([action])
        self._step = step

    def on_step(self, event: StepEvent) -> None:
        if event.step == self._step:
            next(self._actions, lambda: None)()


@pytest.fixture(scope="module")
def whole(config: Config, tmp_path_factory: pytest.TempPathFactory, numba_device: KernelDevice):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    Trainer(config, folder, numba_device).train()
    return RunFolder(folder)


def files(run: RunFolder) -> list[bytes]:
    path = run.checkpoint_path("last")
    return [(path / name).read_bytes() for name in ("splats.h5", "weights.safetensors")]


def figures(run: RunFolder) -> list[dict[str, object]]:
    """The lines of metrics without what the clock and the machine say."""
    machine = ("elapsed", "tokens_per_second", "memory", "disk", "alerts")
    return [
        {name: value for name, value in line.items() if name not in machine}
        for line in run.read_metrics()
    ]


def test_a_run_killed_in_and_between_phases_ends_with_the_same_bits(
    config: Config, whole: RunFolder, numba_device: KernelDevice, tmp_path: Path
):
    folder = tmp_path / "run"

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    def crash() -> None:
        raise RuntimeError("power cut")

    # Between two phases; after growth that no checkpoint holds yet; and inside the last one.
    Trainer(config, folder, numba_device, [After(5, interrupt)]).train()
    with pytest.raises(RuntimeError, match="power cut"):
        Trainer(config, folder, numba_device, [After(14, crash)], resume=True).train()
    assert RunFolder(folder).newest() == 10
    Trainer(config, folder, numba_device, [After(16, interrupt)], resume=True).train()
    assert Trainer(config, folder, numba_device, resume=True).train().step == 20
    assert files(RunFolder(folder)) == files(whole)
    assert figures(RunFolder(folder)) == figures(whole)


def test_metrics_tell_of_phases_growth_and_the_need_for_it(whole: RunFolder):
    lines = whole.read_metrics()[1:]
    of = {line["step"]: line for line in lines}
    counts = [line["splats"]["count"] for line in lines]
    assert counts == [NUMBERS[line["phase"]["number"] - 1] for line in lines]
    assert sorted(set(counts)) == NUMBERS and counts == sorted(counts)
    assert [of[s]["phase"]["temperature"] for s in (3, 9, 15)] == [2, 1.5, 1]
    events = {line["step"]: line["growth"] for line in lines if "growth" in line}
    assert {step: (e["from"], e["to"]) for step, e in events.items()} == {6: (9, 24), 15: (24, 40)}
    soc = {line["step"]: line["soc"] for line in lines if "soc" in line}
    assert list(soc) == [5, 10, 15, 20]
    assert [soc[s]["rate"] for s in soc] == [0, 15 / 5, 16 / 5, 0]
    assert all(0 <= soc[s]["critical"] <= 1 for s in soc)
    assert of[20]["splats"]["coverage"] > of[3]["splats"]["coverage"]
    assert 1 <= of[20]["splats"]["effective_use"] <= 40
    log = (whole.path / "train.log").read_text()
    assert "step 5: 24 splats from 9, temperature 1.5" in log
    assert "step 12: 40 splats from 24, temperature 1" in log


def test_a_checkpoint_of_any_phase_can_be_used(
    config: Config, data: RunData, whole: RunFolder, numba_device: KernelDevice
):
    scores = {r["step"]: r["valid"] for r in whole.read_metrics() if "valid" in r}
    for step, temperature in ((5, 2), (10, 1.5), (20, 1)):
        loaded = load_run(whole.path, numba_device, step)
        assert loaded.config.energy.temperature == temperature
        valid, _ = data.valid_prefix(config.train.eval_tokens)
        start = loaded.tokenizer.start_id
        report = evaluate_perplexity(loaded.model, valid, loaded.config, start_id=start)
        assert report.nll_per_token == scores[step]["nll_per_token"]


def test_a_rollback_over_growth_goes_back_to_fewer_splats(
    config: Config, numba_device: KernelDevice, tmp_path: Path
):
    def spoil() -> None:
        with torch.no_grad():
            trainer.model.get_parameter("bias").fill_(float("nan"))

    trainer = Trainer(config, tmp_path / "run", numba_device, [After(13, spoil)])
    assert trainer.train().reason == "finished"
    lines = RunFolder(tmp_path / "run").read_metrics()
    (event,) = [line["rollback"] for line in lines if "rollback" in line]
    assert (event["at"], event["to"]) == (14, 10)
    assert [line["splats"]["count"] for line in lines if line["step"] == 20] == [40]
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.count("40 splats from 24") == 2
