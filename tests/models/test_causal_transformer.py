"""CausalTransformer: a distribution, learnable, and the same however it is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ebm_wgpu.models.causal_transformer import CausalTransformer
from ebm_wgpu.models.transformer_config import TransformerConfig

V = 13


def small(**options: Any) -> CausalTransformer:
    shape = {"dim": 16, "n_layers": 2, "n_heads": 2, "max_length": 64} | options
    return CausalTransformer(TransformerConfig(**shape), V)


def tokens(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(V, (rows, length), generator=torch.Generator().manual_seed(seed))


def test_next_token_probabilities_sum_to_one_and_are_those_of_targets() -> None:
    model = small().double()
    text = tokens(2, 9)
    with torch.no_grad():
        scored = model.token_log_probs(text[:, :-1], text[:, 1:])
        for t in range(8):
            full = model.next_token_log_probs(text[:, : t + 1])
            assert torch.allclose(full.exp().sum(1), torch.ones(2, dtype=torch.float64))
            expected = full.gather(1, text[:, [t + 1]])[:, 0]
            torch.testing.assert_close(scored[:, t], expected, rtol=1e-11, atol=1e-12)


def test_the_loss_is_minus_the_mean_log_probability_at_any_chunk_size() -> None:
    text = tokens(3, 9)
    for bound in (1, 5 * V, 10**6):
        model = small(max_logits=bound).double()
        with torch.no_grad():
            mean = model.token_log_probs(text[:, :-1], text[:, 1:]).mean().item()
        assert model.losses(text)["token"].item() == pytest.approx(-mean, rel=1e-12)


def test_loss_gradient_is_that_of_the_unchunked_network() -> None:
    model = small(max_logits=2 * V).double()
    text = tokens(2, 6)
    found = torch.autograd.grad(model.losses(text)["token"], list(model.parameters()))
    logits = model.logits(model.backbone(text[:, :-1]))
    expected = torch.autograd.grad(
        F.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten()), list(model.parameters())
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


def test_head_and_embedding_are_one_tensor() -> None:
    model = small()
    assert model.weight is model.backbone.embedding.weight
    assert sum(p.numel() == V * 16 for p in model.parameters()) == 1
    model.losses(tokens(1, 4))["token"].backward()
    # Rows of tokens that are not in the input get gradient through the head alone.
    assert model.weight.grad is not None
    assert bool((model.weight.grad.abs().sum(1) > 0).all())


def test_initialize_gives_token_frequencies_and_depends_on_the_seed() -> None:
    ids = np.array([0, 0, 0, 5], np.int32)
    counts = np.bincount(ids, minlength=V)
    model, same, other = small(), small(), small()
    for each, seed in ((model, 3), (same, 3), (other, 4)):
        each.initialize(ids, counts, seed)
    expected = np.log((counts + 1) / (counts + 1).sum())
    np.testing.assert_allclose(model.bias.detach(), expected, rtol=1e-6)
    assert torch.equal(model.weight, same.weight)
    assert not torch.equal(model.weight, other.weight)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_it_learns_a_short_text_by_heart(checkpointing: bool) -> None:
    model = small(dim=32, checkpointing=checkpointing)
    text = tokens(1, 25)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        loss = model.losses(text)["token"]
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01


def test_cached_generation_writes_the_tokens_of_uncached() -> None:
    model = small(dim=32)
    with torch.no_grad():
        model.weight.mul_(10)
    prompts = [tokens(1, length, seed=length)[0] for length in (1, 5, 12)]
    lengths = torch.tensor([1, 5, 12])
    padded = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True, padding_value=V - 1)
    cache = model.start_cache(3)
    log_probs = model.step(padded, cache, lengths)
    written = [prompt.tolist() for prompt in prompts]
    for _ in range(20):
        chosen = log_probs.argmax(1)
        for row, text in enumerate(written):
            alone = model.next_token_log_probs(torch.tensor([text]))[0]
            # float32, two orders of summation.
            torch.testing.assert_close(log_probs[row], alone, rtol=0, atol=2e-5)
            assert int(alone.argmax()) == int(chosen[row])
            text.append(int(chosen[row]))
        log_probs = model.step(chosen[:, None], cache)


def test_dropout_acts_in_training_losses_alone() -> None:
    model = small(dropout=0.5)
    text = tokens(2, 9)
    assert not torch.equal(model.losses(text)["token"], model.losses(text)["token"])
    first, second = (model.token_log_probs(text[:, :-1], text[:, 1:]) for _ in range(2))
    assert torch.equal(first, second)
    model.eval()
    assert model.losses(text)["token"].item() == pytest.approx(-first.mean().item(), rel=1e-5)
