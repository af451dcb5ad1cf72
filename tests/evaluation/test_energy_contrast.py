"""Energy contrasts: AUROC against enumeration, and models that know order, counts or nothing."""

import numpy as np
import pytest
import torch

from ebm_wgpu.config import EnergyConfig, ModelConfig
from ebm_wgpu.errors import DataError
from ebm_wgpu.evaluation.energy_contrast import _spread, evaluate_energy
from ebm_wgpu.evaluation.latents import spread_windows
from ebm_wgpu.models.splat_lm import SplatLM
from ebm_wgpu.text.datasets import TokenStream

V = 8
SIZES = {"length": 21, "n_windows": 30, "n_latents": 200, "batch": 8}


class Bigram:
    """p(w | previous) from a table."""

    splat_model = None

    def __init__(self, table):
        self.log_table = torch.from_numpy(np.log(table))

    def token_log_probs(self, tokens, targets, latent, seed):
        return self.log_table[tokens, targets]

    def target_energies(self, tokens, targets):
        return None


class Shifted(Bigram):
    """The same with an energy of its own: -log p and a constant that nothing normalises away."""

    def target_energies(self, tokens, targets):
        return 7 - self.log_table[tokens, targets]


def walk(n=2000, stay=0.9, ids=V) -> TokenStream:
    """A text whose next token is mostly the next in a circle of the first `ids`."""
    rng = np.random.default_rng(0)
    steps = np.where(rng.random(n) < stay, 1, rng.integers(ids, size=n))
    return TokenStream((np.cumsum(steps) % ids).astype(np.int32), V, n)


def circle(stay=0.9) -> np.ndarray:
    return stay * np.roll(np.eye(V), 1, axis=1) + (1 - stay) / V


def test_auroc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(1)
    data, other = rng.integers(5, size=13) * 1.0, rng.integers(2, 8, size=9) * 1.0
    pairs = [(o > d) + 0.5 * (o == d) for o in other for d in data]
    spread = _spread(other, data)
    assert spread.auroc == pytest.approx(np.mean(pairs), rel=1e-12)
    assert (spread.mean, spread.deviation) == (other.mean(), other.std())
    assert _spread(data, data).auroc == pytest.approx(0.5)


def test_a_model_that_knows_the_order_tells_it_from_shuffling_and_noise():
    (contrast,) = evaluate_energy(Bigram(circle()), walk(), **SIZES)
    assert (contrast.measure, contrast.n) == ("text", 30)
    assert contrast.data.auroc == 0.5
    assert contrast.shuffled.auroc > 0.99
    assert contrast.noise.auroc > 0.99
    nll = -np.log(circle())[walk().tokens[:-1], walk().tokens[1:]]
    assert contrast.data.mean == pytest.approx(nll.mean(), rel=0.1)


def test_the_energy_of_a_family_stands_beside_its_likelihood():
    text, energy = evaluate_energy(Shifted(circle()), walk(), **SIZES)
    assert (energy.measure, energy.n) == ("energy", 30)
    for kind in ("data", "noise", "shuffled"):
        likely, own = getattr(text, kind), getattr(energy, kind)
        assert own.mean == pytest.approx(7 + likely.mean, rel=1e-12)
        assert own.deviation == pytest.approx(likely.deviation, rel=1e-9)
        assert own.auroc == likely.auroc


def test_a_model_that_knows_nothing_tells_nothing():
    (contrast,) = evaluate_energy(Bigram(np.full((V, V), 1 / V)), walk(), **SIZES)
    assert contrast.shuffled.auroc == contrast.noise.auroc == 0.5
    assert contrast.data.mean == pytest.approx(np.log(V))


def test_a_model_of_frequencies_cannot_see_the_order():
    counts = np.bincount(walk(ids=4).tokens, minlength=V) + 1.0
    unigram = np.tile(counts / counts.sum(), (V, 1))
    (contrast,) = evaluate_energy(Bigram(unigram), walk(ids=4), **SIZES)
    assert contrast.shuffled.mean == pytest.approx(contrast.data.mean, rel=1e-12)
    assert contrast.noise.auroc > 0.99


def test_splats_have_energies_of_latents_besides(numba_device):
    config = ModelConfig(
        dim=16, n_splats=V, kappa_init=10.0, n_experts=2, n_active=1, expert_hidden=8,
        recent_window=2, decay_window=3, attention_window=4,
    )  # fmt: skip
    model, stream = SplatLM(config, EnergyConfig(), V, numba_device), walk()
    model.initialize(stream.tokens, np.bincount(stream.tokens, minlength=V), seed=0)
    text, latent, energy = evaluate_energy(model, stream, **SIZES)
    assert (text.measure, latent.measure, energy.measure) == ("text", "latent", "energy")
    assert (text.n, latent.n, energy.n) == (30, 200, 30)
    # Splats sit on the latents of tokens: a random direction is far from all of them.
    assert latent.noise.auroc > 0.99
    assert latent.data.mean < 0 < latent.noise.mean
    windows = spread_windows(stream, SIZES["length"], SIZES["n_windows"])
    own = model.target_energies(windows[:, :-1], windows[:, 1:])
    assert energy.data.mean == pytest.approx(float(own.double().mean()), rel=1e-5)
    again = evaluate_energy(model, stream, **SIZES)
    assert again == (text, latent, energy)
    assert evaluate_energy(model, stream, **SIZES, seed=1)[:2] != (text, latent)


def test_a_text_that_cannot_be_shuffled_is_an_error():
    tiny = TokenStream(np.zeros(2, np.int32), V, 1, "a tiny text")
    with pytest.raises(DataError, match="a tiny text has 2 tokens"):
        evaluate_energy(Bigram(circle()), tiny, **SIZES)
