"""NanoEBM: System 1 and 2 are distributions, causal, learnable, and every term does its work."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.models.nano_ebm import NanoEBM
from ebm_wgpu.models.nano_ebm_config import NanoEBMConfig
from ebm_wgpu.models.transformer_config import TransformerConfig

V = 9


def small(max_logits: int = 1 << 20, vocab_size: int = V, dim: int = 16, **nano: Any) -> NanoEBM:
    config = TransformerConfig(dim=dim, n_layers=1, n_heads=2, max_length=64, max_logits=max_logits)
    model = NanoEBM(config, NanoEBMConfig(**({"interaction": 8} | nano)), vocab_size)
    if model.system2.interaction is not None:
        # Off zero, so that thinking changes something.
        model.system2.interaction.strength.data.fill_(0.3)
    return model


def tokens(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(V, (rows, length), generator=torch.Generator().manual_seed(seed))


def total(model: NanoEBM, text: torch.Tensor, seed: int = 0) -> torch.Tensor:
    weights = model.loss_weights
    terms = model.losses(text, seed=seed)
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()


class Total(torch.nn.Module):
    """The weighted loss as a module, so that it can be called with other parameters."""

    def __init__(self, model: NanoEBM) -> None:
        super().__init__()
        self.model = model

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        return total(self.model, text)


def learn(model: NanoEBM, text: torch.Tensor, steps: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(steps):
        optimizer.zero_grad()
        total(model, text, step).backward()
        optimizer.step()


def test_both_systems_are_distributions_and_targets_get_their_share() -> None:
    model = small().double()
    text = tokens(2, 7)
    with torch.no_grad():
        h = model.backbone(text)[:, -1]
        first, second = model.log_probs(h, 0), model.log_probs(h)
        for each in (first, second):
            assert torch.allclose(each.exp().sum(1), torch.ones(2, dtype=torch.float64))
        assert not torch.allclose(first, second)
        model.think(0)
        assert torch.equal(model.log_probs(h), first)
        assert torch.equal(model.next_token_log_probs(text), first)
        model.think(2)
        torch.testing.assert_close(first, model.logits(h).log_softmax(1), rtol=1e-12, atol=1e-12)
        scored = model.token_log_probs(text[:, :-1], text[:, 1:])
        last = model.next_token_log_probs(text[:, :-1]).gather(1, text[:, -1:])[:, 0]
    torch.testing.assert_close(scored[:, -1], last, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("position", [0, 3, 5])
def test_a_later_token_moves_no_earlier_prediction(position: int) -> None:
    model = small(energy_tolerance=1e-6).double()
    text, targets = tokens(2, 6), tokens(2, 6, seed=1)
    other = text.clone()
    other[:, position] = (other[:, position] + 1) % V
    with torch.no_grad():
        before, after = (model.token_log_probs(x, targets) for x in (text, other))
        energies = [model.token_energies(model.backbone(x), targets) for x in (text, other)]
    for a, b in ((before, after), energies):
        torch.testing.assert_close(a[:, :position], b[:, :position], rtol=0, atol=1e-13)
        assert bool((a[:, position] != b[:, position]).any())


def test_chunks_change_neither_terms_nor_gradients() -> None:
    text = tokens(2, 7)
    results = []
    for bound in (2 * V, 1 << 20):
        model = small(max_logits=bound, entropy_weight=0.1).double()
        terms = model.losses(text)
        grads = torch.autograd.grad(total(model, text), list(model.parameters()))
        results.append([*terms.values(), *grads])
        with torch.no_grad():
            scored = model.token_log_probs(text[:, :-1], text[:, 1:])
        assert terms["token"].item() == pytest.approx(-scored.mean().item(), rel=1e-11)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


def test_no_thinking_is_the_plain_cross_entropy() -> None:
    model = small(think_steps=0).double()
    text = tokens(2, 7)
    terms = model.losses(text)
    logits = model.logits(model.backbone(text[:, :-1])).flatten(0, 1)
    expected = F.cross_entropy(logits, text[:, 1:].flatten())
    assert terms.keys() == {"token"}
    assert terms["token"].item() == pytest.approx(expected.item(), rel=1e-12)


def test_gradient_of_the_loss_against_differences() -> None:
    model = small(dim=8, infonce_weight=0.5, entropy_weight=0.1).double()
    text = tokens(1, 4)
    wrapped = Total(model)
    names = [name for name, _ in wrapped.named_parameters()]

    def loss(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(wrapped, dict(zip(names, values, strict=True)), (text,))

    assert torch.autograd.gradcheck(loss, tuple(wrapped.parameters()), fast_mode=True)


@pytest.mark.parametrize(
    "nano",
    [
        {},
        {"tokens": "hard"},
        {"gradient": "logit", "entropy": 0.0},
        {"random_steps": True},
        {"step_rule": "spectral", "step_size": 3.0},
    ],
)
def test_it_learns_a_short_text_by_heart(nano: dict[str, Any]) -> None:
    model = small(**nano)
    text = torch.tensor([[0, 1, 2, 0, 3, 1, 4, 8, 5, 2, 7]])
    learn(model, text, 100)
    with torch.no_grad():
        assert model.token_log_probs(text[:, :-1], text[:, 1:]).mean().item() > -0.05


def test_thinking_steps_are_drawn_in_training_alone() -> None:
    model = small(think_steps=4, random_steps=True).double()
    text = tokens(1, 6)
    drawn = {model.losses(text, seed=seed)["token"].item() for seed in range(30)}
    assert len(drawn) == 4
    model.eval()
    fixed = {model.losses(text, seed=seed)["token"].item() for seed in range(5)}
    assert fixed == {model.losses(text)["token"].item()}


def test_infonce_is_the_expected_value_over_drawn_negatives() -> None:
    model = small(infonce_weight=1.0, infonce_negatives=2).double()
    counts = np.arange(1, V + 1)
    model.initialize(np.zeros(1, np.int32), counts, 0)
    text = tokens(2, 5)
    h = model.backbone(text[:, :-1]).flatten(0, 1)
    targets = text[:, 1:].flatten()
    q = (counts + 1) / (counts + 1).sum()
    scores = (model.logits(h) - torch.from_numpy(q).log()).detach().numpy()
    true = scores[np.arange(8), targets]
    expected = 0.0
    for a, b in itertools.product(range(V), repeat=2):
        among = np.stack((true, scores[:, a], scores[:, b]))
        expected += q[a] * q[b] * (np.logaddexp.reduce(among, axis=0) - true).mean()
    drawn = [model.losses(text, seed=s)["infonce"].item() for s in range(400)]
    error = np.std(drawn) / np.sqrt(len(drawn))
    assert abs(np.mean(drawn) - expected) < 4 * error
    assert error < 0.03


def test_entropy_weight_makes_guesses_surer() -> None:
    text = tokens(4, 9)
    entropies = []
    for weight in (0.0, 1.0):
        model = small(entropy_weight=weight)
        learn(model, text, 15)
        with torch.no_grad():
            log_p = model.log_probs(model.backbone(text).flatten(0, 1))
        entropies.append(-(log_p.exp() * log_p).sum(1).mean().item())
    assert entropies[1] > entropies[0]


def test_sequences_have_the_frequency_of_their_first_token_and_the_energies_of_the_rest() -> None:
    model = small().double()
    model.initialize(np.zeros(1, np.int32), np.arange(V), 0)
    text = tokens(3, 5)
    with torch.no_grad():
        energies, h = model.read(text)
        expected = -model.unigram[text[:, 0]].log() + sum(
            -model.logits(h[:, t]).gather(1, text[:, [t + 1]])[:, 0] for t in range(4)
        )
        torch.testing.assert_close(h, model.backbone(text)[:, :-1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(energies, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["pcd", "fast_pcd"])
def test_contrastive_divergence_teaches_whole_sequences(method: str) -> None:
    model = small(
        vocab_size=3,
        dim=32,
        think_steps=0,
        interaction=0,
        contrastive_weight=1.0,
        contrastive_method=method,
        contrastive_length=3,
        contrastive_steps=4,
        n_particles=256,
    )
    every = torch.tensor(list(itertools.product(range(3), repeat=4)))
    generator = torch.Generator().manual_seed(0)
    # What follows depends on the first token: pairs weigh differently after each.
    pairs = 1.2 * torch.randn(3, 3, 3, generator=generator)
    truth = sum(pairs[every[:, 0], every[:, t], every[:, t + 1]] for t in range(3)).softmax(0)

    def divergence() -> float:
        """Of what follows the first token, weighed by the frequency of that; exact."""
        with torch.no_grad():
            log_p = -model.read(every)[0].view(3, 27)
        ratio = truth.view(3, 27).log() - log_p.log_softmax(1)
        weight = truth.view(3, 27).sum(1)
        return float((truth * ratio.flatten()).sum() - (weight * weight.log()).sum())

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 90)
    before = divergence()
    # Persistent chains start at a batch that is not like the data.
    model.losses(every[:27])
    for step in range(90):
        rows = torch.multinomial(truth, 256, True, generator=generator)
        optimizer.zero_grad()
        model.losses(every[rows], seed=step)["contrastive"].backward()
        optimizer.step()
        schedule.step()
    assert before > 0.4
    assert divergence() < 0.2


def test_chains_need_windows_that_hold_them() -> None:
    model = small(contrastive_weight=1.0, contrastive_length=6)
    with pytest.raises(ConfigError, match=r"nano.contrastive_length=6 exceeds the 5 tokens"):
        model.losses(tokens(2, 6))
    assert "contrastive" in model.losses(tokens(2, 7))


def test_initialize_starts_with_system_2_equal_to_system_1() -> None:
    model = small(contrastive_weight=1.0, contrastive_method="pcd", contrastive_length=4)
    model.losses(tokens(2, 7))
    ids = np.array([0, 0, 5], np.int32)
    model.initialize(ids, np.bincount(ids, minlength=V), 1)
    assert model.contrast is not None
    assert not bool(model.contrast.started)
    assert model.unigram.sum().item() == pytest.approx(1)
    with torch.no_grad():
        h = model.backbone(tokens(2, 5)).flatten(0, 1)
        torch.testing.assert_close(model.log_probs(h), model.log_probs(h, 0), rtol=0, atol=1e-6)


def test_cached_thinking_gives_uncached_probabilities() -> None:
    model = small()
    text = tokens(2, 12)
    cache = model.start_cache(2)
    found = model.step(text[:, :6], cache, torch.tensor([6, 3]))
    for row, length in enumerate((6, 3)):
        expected = model.next_token_log_probs(text[[row], :length])[0]
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-5)
