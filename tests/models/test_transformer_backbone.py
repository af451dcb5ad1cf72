"""The backbone: causal, the same in a batch and alone, cached and uncached, and checkpointed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.models.transformer_backbone import TransformerBackbone
from ebm_wgpu.models.transformer_config import TransformerConfig

V = 11


def backbone(**options: Any) -> TransformerBackbone:
    shape = {"dim": 16, "n_layers": 2, "n_heads": 2, "max_length": 80} | options
    return TransformerBackbone(TransformerConfig(**shape), V).double()


def tokens(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(V, (rows, length), generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 9), st.integers(1, V - 1))
def test_a_later_token_moves_no_earlier_state(position: int, change: int) -> None:
    model = backbone()
    text = tokens(2, 10)
    other = text.clone()
    other[:, position] = (other[:, position] + change) % V
    with torch.no_grad():
        before, after = model(text), model(other)
    torch.testing.assert_close(before[:, :position], after[:, :position], rtol=0, atol=1e-14)
    assert bool((before[:, position] != after[:, position]).any())


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_extending_gives_the_states_of_the_whole(norm: str, activation: str) -> None:
    model = backbone(norm=norm, activation=activation)
    lengths = torch.tensor([7, 3, 1])
    text = tokens(3, 79)
    cache = model.start_cache(3)
    last = model.extend(text[:, :7], cache, lengths)
    with torch.no_grad():
        for count in range(70):
            for row in range(3):
                expected = model(text[[row], : lengths[row]])[0, -1]
                if count % 9 == 0:
                    torch.testing.assert_close(last[row], expected, rtol=1e-11, atol=1e-12)
            new = text[torch.arange(3), lengths][:, None]
            last = model.extend(new, cache)
            lengths = lengths + 1
    assert cache.lengths.tolist() == lengths.tolist()


def test_prompts_read_in_pieces_of_different_lengths() -> None:
    model = backbone()
    text = tokens(2, 12)
    cache = model.start_cache(2)
    model.extend(text[:, :4], cache, torch.tensor([4, 2]))
    rest = torch.stack((text[0, 4:10], text[1, 2:8]))
    last = model.extend(rest, cache, torch.tensor([5, 6]))
    with torch.no_grad():
        torch.testing.assert_close(last[0], model(text[:1, :9])[0, -1], rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(last[1], model(text[1:, :8])[0, -1], rtol=1e-11, atol=1e-12)


def test_a_batch_gives_what_single_rows_give() -> None:
    model = backbone()
    text = tokens(4, 9)
    with torch.no_grad():
        single = torch.cat([model(row[None]) for row in text])
        torch.testing.assert_close(model(text), single, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_changes_no_gradient(dropout: float) -> None:
    text = tokens(2, 8)
    grads = []
    for checkpointing in (False, True):
        model = backbone(checkpointing=checkpointing, dropout=dropout)
        torch.manual_seed(5)
        model(text, dropping=True).square().sum().sin().backward()
        grads.append([p.grad for p in model.parameters()])
    for plain, again in zip(*grads, strict=True):
        torch.testing.assert_close(plain, again, rtol=1e-12, atol=1e-12)


def test_dropout_acts_only_when_asked() -> None:
    model = backbone(dropout=0.5).train()
    text = tokens(2, 8)
    with torch.no_grad():
        torch.testing.assert_close(model(text), model(text), rtol=0, atol=0)
        assert not torch.equal(model(text, dropping=True), model(text))


def test_gradcheck() -> None:
    model = backbone(n_layers=1, dim=8)
    text = tokens(1, 3)
    names = [name for name, _ in model.named_parameters()]

    def states(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (text,))

    assert torch.autograd.gradcheck(states, tuple(model.parameters()), fast_mode=True)


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second = backbone(), backbone()
    second.reset(torch.Generator().manual_seed(1))
    assert not torch.equal(first.embedding.weight, second.embedding.weight)
    # Draws in float64 differ from those in float32 that `first` was made with.
    first.reset(torch.Generator().manual_seed(1))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_does_not_fit_is_refused_and_leaves_the_cache_alone() -> None:
    model = backbone(max_length=8)
    with pytest.raises(ConfigError, match=r"9 tokens of input exceed transformer.max_length=8"):
        model(tokens(1, 9))
    cache = model.start_cache(2)
    model.extend(tokens(2, 6), cache)
    with pytest.raises(ConfigError, match="9 tokens of input exceed"):
        model.extend(tokens(2, 3), cache)
    with pytest.raises(ConfigError, match=r"lengths \[0, 1\] must be from 1 to the 1 tokens"):
        model.extend(tokens(2, 1), cache, torch.tensor([0, 1]))
    assert cache.lengths.tolist() == [6, 6]
