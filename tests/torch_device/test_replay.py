"""Replayed functions give the bits that the functions give, and are run wherever they must be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import ebm_wgpu.torch_device  # noqa: F401
from ebm_wgpu.errors import DeviceError
from ebm_wgpu.torch_device import state
from ebm_wgpu.torch_device.replay import MAX_TRIES, REPLAY_VARIABLE, Replayed

pytestmark = pytest.mark.usefixtures("no_fallbacks")

VOCABULARY, WIDTH = 29, 16


class Model(nn.Module):
    """Attention with dropout over embeddings that are the head's weights too."""

    def __init__(self, checkpointing: bool) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.attend = nn.Linear(WIDTH, 3 * WIDTH)
        self.feed = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Dropout(0.3))

    def block(self, x: Tensor) -> Tensor:
        q, k, v = self.attend(x).unflatten(-1, (3, 2, WIDTH // 2)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=0.2, is_causal=True)
        return x + self.feed(mixed.transpose(1, 2).flatten(2))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens)
        x = checkpoint(self.block, x, use_reentrant=False) if self.checkpointing else self.block(x)
        return F.linear(x, self.tokens.weight)


def learn(
    wrap: Callable[[Callable[..., Tensor], list[nn.Parameter]], Callable[..., Tensor]],
    checkpointing: bool = False,
    lengths: tuple[int, ...] = (9,) * 14,
) -> tuple[list[float], list[Tensor]]:
    """Losses and last weights of a model that learns, its step wrapped."""
    torch.manual_seed(3)
    model = Model(checkpointing).to("wgpu")
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=0.01, fused=True)

    def step(tokens: Tensor) -> Tensor:
        logits = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        return loss.detach()

    wrapped, drawn, losses = wrap(step, parameters), torch.Generator().manual_seed(5), []
    for length in lengths:
        tokens = torch.randint(VOCABULARY, (3, length), generator=drawn)
        losses.append(wrapped(tokens).item())
        optimizer.step()
        optimizer.zero_grad()
    return losses, [parameter.detach().cpu() for parameter in parameters]


def as_it_is(step: Callable[..., Any], _: list[nn.Parameter]) -> Callable[..., Any]:
    return lambda tokens: step(tokens.to("wgpu"))


def check_same(made: list[Replayed[Tensor]], **options: Any) -> None:
    """Learning by replays ends with the same bits; what was made is left in `made`."""

    def replayed(step: Callable[..., Tensor], parameters: list[nn.Parameter]) -> Replayed[Tensor]:
        made.append(Replayed(step, parameters))
        return made[0]

    losses, weights = learn(as_it_is, **options)
    found_losses, found_weights = learn(replayed, **options)
    assert found_losses == losses
    for found, expected in zip(found_weights, weights, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_replayed_step_learns_the_same_bits(checkpointing: bool) -> None:
    made: list[Replayed[Tensor]] = []
    check_same(made, checkpointing=checkpointing)
    assert made[0].replays >= 8
    assert made[0].obstacle == ""


def test_each_shape_is_kept_for_itself() -> None:
    made: list[Replayed[Tensor]] = []
    check_same(made, lengths=(9, 5) * 12)
    assert made[0].replays >= 10


def test_the_shape_not_used_for_longest_is_forgotten() -> None:
    made: list[Replayed[Tensor]] = []
    check_same(made, lengths=(9, 5, 7) * 4)
    assert made[0].replays == 0


def test_replays_launch_what_was_launched_and_nothing_else() -> None:
    runtime, weight = state.device().runtime, torch.ones(8, device="wgpu")
    double = Replayed(lambda x: (x * 2 + weight).exp())
    counts = []
    for _ in range(8):
        before = runtime.dispatches
        result = double(torch.zeros(8))
        counts.append(runtime.dispatches - before)
    assert len(set(counts)) == 1
    assert double.replays > 0
    torch.testing.assert_close(result.cpu(), torch.full((8,), 1.0).exp())


def test_values_written_where_they_stand_are_seen() -> None:
    scale = torch.ones((), device="wgpu")
    scaled = Replayed(lambda x: {"out": [x * scale], "name": "x"})
    for number in range(10):
        scale.fill_(float(number))
        found = scaled(torch.arange(4.0))
        assert found["name"] == "x"
        assert found["out"][0].tolist() == [0.0, number, 2.0 * number, 3.0 * number]
    assert scaled.replays >= 4


def test_a_function_that_reads_values_back_is_run_each_time() -> None:
    def reads(x: Tensor) -> Tensor:
        return x * 2 if x.sum().item() > 0 else x - 1

    replayed = Replayed(reads)
    for number in (1.0, -1.0) * 10:
        found = replayed(torch.full((3,), number))
        assert found.tolist() == [2.0 if number > 0 else -2.0] * 3
    assert replayed.replays == 0
    assert replayed.obstacle == "values were read back"


def test_a_function_that_copies_values_in_is_run_each_time() -> None:
    given = iter(range(100))
    replayed = Replayed(lambda x: x + torch.tensor(float(next(given))).to("wgpu"))
    found = [replayed(torch.zeros(2))[0].item() for _ in range(20)]
    assert found == list(range(20))
    assert replayed.obstacle == "values were copied to the device"


@pytest.mark.parametrize("period", [2, 3])
def test_a_function_that_does_one_thing_and_then_another_is_run_each_time(period: int) -> None:
    calls = iter(range(100))
    replayed = Replayed(lambda x: x * (2.0 + next(calls) % period))
    count = MAX_TRIES + 4
    assert [replayed(torch.ones(1)).item() for _ in range(count)] == [
        2.0 + call % period for call in range(count)
    ]
    assert replayed.replays == 0
    assert "same twice" in replayed.obstacle


def test_state_that_moves_to_new_memory_is_followed() -> None:
    """What a call leaves in memory of its own for the next cannot be replayed."""
    held = [torch.zeros(4, device="wgpu")]

    def count(x: Tensor) -> Tensor:
        held[0] = held[0] + x
        return held[0].clone()

    replayed = Replayed(count)
    assert [replayed(torch.ones(4))[0].item() for _ in range(24)] == list(range(1, 25))
    assert replayed.replays == 0
    assert replayed.obstacle == "it leaves values behind beside its result"


def test_a_new_seed_begins_anew() -> None:
    replayed = Replayed(lambda x: F.dropout(x, 0.5))
    x, drawn = torch.ones(64), {}
    for seed in (1, 2, 1, 2):
        torch.manual_seed(seed)
        rows = [replayed(x).tolist() for _ in range(8)]
        torch.manual_seed(seed)
        assert rows == [F.dropout(x.to("wgpu"), 0.5).tolist() for _ in range(8)]
        assert drawn.setdefault(seed, rows) == rows
    assert replayed.replays > 0


def test_random_state_goes_on_as_without() -> None:
    torch.manual_seed(11)
    replayed = Replayed(lambda x: F.dropout(x, 0.5))
    mixed = []
    for _ in range(8):
        mixed.append(replayed(torch.ones(32)).tolist())
        mixed.append(torch.rand(4, device="wgpu").tolist())
    torch.manual_seed(11)
    alone = []
    for _ in range(8):
        alone.append(F.dropout(torch.ones(32, device="wgpu"), 0.5).tolist())
        alone.append(torch.rand(4, device="wgpu").tolist())
    assert mixed == alone
    assert replayed.replays > 0


def squares() -> tuple[nn.Parameter, Replayed[Tensor]]:
    """A parameter, and what leaves the gradient of its square weighted by an input."""
    weight = nn.Parameter(torch.full((3,), 2.0, device="wgpu"))

    def loss(x: Tensor) -> Tensor:
        total = (x * weight.square()).sum()
        total.backward()
        return total.detach()

    return weight, Replayed(loss, [weight])


def test_gradients_that_are_there_are_added_to() -> None:
    weight, replayed = squares()
    for _ in range(8):
        replayed(torch.ones(3))
        weight.grad = None
    assert replayed.replays > 0
    replayed(torch.ones(3))
    replayed(torch.ones(3))
    assert weight.grad is not None
    assert weight.grad.tolist() == [8.0] * 3


def test_a_parameter_that_has_moved_is_followed() -> None:
    weight, replayed = squares()
    for number in (2.0, 3.0):
        weight.data = torch.full((3,), number, device="wgpu")
        for _ in range(8):
            assert replayed(torch.ones(3)).item() == 3 * number**2
            assert weight.grad is not None
            assert weight.grad.tolist() == [2 * number] * 3
            weight.grad = None


def test_replays_go_on_after_their_memory_was_wanted() -> None:
    weight, replayed = squares()
    for turn in range(3):
        for _ in range(8):
            assert replayed(torch.full((3,), 1.0 + turn)).item() == 12.0 * (1 + turn)
            weight.grad = None
        for kept in list(state.device().runtime._replays):
            kept.release()
    assert replayed.replays > 6


def test_an_error_in_the_function_passes_through_and_leaves_nothing_open() -> None:
    def fails(x: Tensor) -> Tensor:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Replayed(fails)(torch.ones(1))
    assert not state.device().runtime.tracing


def test_a_result_that_wants_its_gradient_is_refused() -> None:
    weight = nn.Parameter(torch.ones(2, device="wgpu"))
    with pytest.raises(DeviceError, match="run the backward pass inside it"):
        Replayed(lambda x: x * weight)(torch.ones(2))


def test_the_environment_turns_replays_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REPLAY_VARIABLE, "0")
    replayed = Replayed(lambda x: x + 1)
    assert [replayed(torch.zeros(1)).item() for _ in range(6)] == [1.0] * 6
    assert replayed.replays == 0
    assert replayed.obstacle == f"{REPLAY_VARIABLE}=0"
