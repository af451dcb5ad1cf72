import math

import pytest
import torch

from ebm_wgpu.config import apply_overrides
from ebm_wgpu.errors import CheckpointError
from ebm_wgpu.training.checkpoints import read_checkpoint, write_checkpoint
from ebm_wgpu.training.run_data import RunData
from ebm_wgpu.training.state import Progress, TrainingState
from ebm_wgpu.training.stepping import Stepper


def test_progress_ranks_the_best_and_counts_the_rest():
    progress, kept = Progress(), []
    for step, nll in enumerate([5.0, 4.0, 4.5, 6.0, math.nan, 3.0, 3.0], 1):
        progress.step = step
        kept.append(progress.score(nll, keep=2))
    assert kept == [True, True, True, False, False, True, True]
    assert progress.best_steps == [6, 7]
    assert (progress.best_nll, progress.best_step, progress.stale) == (3.0, 6, 1)


def test_stale_counts_evaluations_in_a_row():
    progress, stale = Progress(), []
    for nll in [5.0, 5.0, 6.0, 4.0, 7.0]:
        progress.score(nll, keep=1)
        stale.append(progress.stale)
    assert stale == [0, 1, 2, 0, 1]


@pytest.fixture(params=["splat", "transformer"])
def averaged(request, tiny):
    return apply_overrides(
        tiny,
        [
            f"model.family={request.param}", "train.dsm_weight=0", "train.ema_decay=0.9",
            "transformer.dim=8", "transformer.n_layers=1", "transformer.n_heads=1",
            "transformer.max_length=12", "train.accumulation=1",
        ],
    )  # fmt: skip


def test_a_checkpoint_holds_the_average_for_use_and_the_weights_for_going_on(
    averaged, tmp_path, numba_device
):
    data = RunData.load(averaged)
    state, stepper = TrainingState(averaged, data, numba_device), Stepper(averaged.train)
    state.initialize()
    for _ in range(3):
        stepper.step(state, 1.0)
    store, weights, rest = state.capture()
    live = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    path = write_checkpoint(tmp_path, 3, store, weights, rest)

    again = TrainingState(averaged, data, numba_device)
    again.restore(read_checkpoint(path))
    for name, parameter in again.model.named_parameters():
        assert torch.equal(parameter, live[name]), name
    assert again.average.updates == 3
    with state.scored_model() as one, again.scored_model() as other:
        averages = dict(one.named_parameters())
        for name, parameter in other.named_parameters():
            assert torch.equal(parameter, averages[name]), name
        for name, tensor in weights.items():
            assert torch.equal(tensor, one.state_dict()[name]), name
            if name in live and "logit" not in name:
                assert not torch.equal(tensor, live[name]), name
    for _ in range(2):
        parts = [stepper.step(s, 0.5).parts for s in (state, again)]
        assert parts[0] == parts[1]


def test_a_state_of_another_trainer_is_refused(tiny, tmp_path, numba_device):
    data = RunData.load(tiny)
    state = TrainingState(tiny, data, numba_device)
    state.initialize()
    store, weights, rest = state.capture()
    rest["progress"]["speed"] = 3
    path = write_checkpoint(tmp_path, 0, store, weights, rest)
    with pytest.raises(CheckpointError, match="written by another version of the trainer"):
        state.restore(read_checkpoint(path))


def test_a_run_can_start_from_a_pretrained_embedding(tiny, tmp_path, numba_device):
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(0)
    pretrained = GPT2Model(GPT2Config(n_embd=8, n_layer=1, n_head=1, n_positions=4))
    pretrained.save_pretrained(tmp_path / "gpt2")
    config = apply_overrides(
        tiny,
        [
            "data.tokenizer=gpt2", "model.splat_init=embedding",
            f"model.embedding_path={tmp_path / 'gpt2'}", "data.block_size=8",
        ],
    )  # fmt: skip
    state = TrainingState(config, RunData.load(config), numba_device)
    state.initialize()
    rows = pretrained.wte.weight.detach().double()
    rows = torch.nn.functional.normalize(rows - rows.mean(0), dim=1)
    used = state.model.sid
    cosines = (rows[used] @ rows[used].T).float()
    # A rotation to the principal axes leaves every cosine as it is; splats start at their tokens.
    table = state.model.directions().detach()
    torch.testing.assert_close(table[used] @ table[used].T, cosines, atol=1e-5, rtol=0)
    torch.testing.assert_close(state.model.mu.detach(), table[used], atol=1e-6, rtol=0)
