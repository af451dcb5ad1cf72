"""The composition net: maps against float64, its start, what it learns, retrieval by definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from ebm_wgpu.composition import compose, negate
from ebm_wgpu.errors import ConfigError, DataError
from ebm_wgpu.models.composition import (
    CompositionNet,
    PhraseLatents,
    exp_map,
    frequent_phrases,
    log_map,
    retrieval,
    train_composition,
)
from ebm_wgpu.sphere import expmap, logmap, projx, random_tangent, random_uniform

D = 12


@given(seed=st.integers(0, 1000), length=st.floats(0, 3))
def test_maps_are_those_of_the_sphere(seed: int, length: float) -> None:
    rng = np.random.default_rng(seed)
    base, x = random_uniform(rng, 1, D)[0], random_uniform(rng, 4, D)
    x[0] = base
    found = log_map(torch.from_numpy(base), torch.from_numpy(x)).numpy()
    expected = logmap(np.tile(base, (4, 1)), x)
    np.testing.assert_allclose(found, expected, atol=1e-7)
    tangent = length * projx(random_tangent(rng, np.tile(base, (4, 1))))
    walked = exp_map(torch.from_numpy(base), torch.from_numpy(tangent)).numpy()
    np.testing.assert_allclose(walked, expmap(np.tile(base, (4, 1)), tangent), atol=1e-9)


def test_a_fresh_net_is_the_tangent_sum() -> None:
    rng = np.random.default_rng(0)
    base, a, b = (
        random_uniform(rng, 1, D)[0],
        random_uniform(rng, 20, D),
        random_uniform(rng, 20, D),
    )
    net = CompositionNet(3 * base)
    expected = compose(a, b, base)
    np.testing.assert_allclose(net.compose(a, b), expected, atol=1e-5)
    found = net.composer()(base, a, b, 0.5)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    reflected = net.negate(torch.from_numpy(a).float()).numpy()
    np.testing.assert_allclose(reflected, negate(a, base), atol=1e-6)


def test_gradients_at_the_base_point_are_finite() -> None:
    net = CompositionNet(np.eye(D)[0])
    point = net.base[None].clone().requires_grad_()
    net(point, point).sum().backward()
    assert torch.isfinite(point.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def planted(n: int, seed: int) -> tuple[PhraseLatents, np.ndarray]:
    """Phrases whose latent is a fixed turn of the first part's tangent, plus the second's."""
    turn, base = np.linalg.qr(np.random.default_rng(9).standard_normal((D, D)))[0], np.eye(D)[0]
    rng = np.random.default_rng(seed)
    a, b = (projx(base + rng.standard_normal((n, D)) * 0.3) for _ in range(2))
    origin = np.tile(base, (n, 1))
    mixed = logmap(origin, a) @ turn + logmap(origin, b)
    mixed -= (mixed @ base)[:, None] * base
    p = expmap(origin, mixed)
    return PhraseLatents(*(np.asarray(x, np.float32) for x in (a, b, p))), base


def test_training_learns_what_the_sum_misses() -> None:
    learn, base = planted(800, 1)
    test, _ = planted(200, 2)
    net = train_composition(learn, base, hidden=64, steps=150, batch=128)
    before = retrieval(compose(test.first, test.second, base), test.whole)
    after = retrieval(net.compose(test.first, test.second), test.whole)
    assert before.reciprocal_rank < 0.25
    assert after.reciprocal_rank > 0.5
    minus = negate(test.second, base)
    undone = retrieval(net.compose(test.whole, minus), test.first)
    assert retrieval(compose(test.whole, minus, base), test.first).reciprocal_rank < 0.05
    assert undone.reciprocal_rank > 0.1


def test_training_repeats_itself() -> None:
    learn, base = planted(60, 3)
    nets = [train_composition(learn, base, hidden=8, steps=4, seed=5) for _ in range(2)]
    for one, other in zip(*(net.state_dict().values() for net in nets), strict=True):
        assert torch.equal(one, other)


def test_retrieval_counts_ranks() -> None:
    own = np.eye(20, 24)
    guess = own.copy()
    guess[1, 1], guess[1, :1] = 0.5, 1.0
    guess[2] = own[2] + own[3]
    found = retrieval(guess, own)
    ranks = np.ones(20)
    ranks[1], ranks[2] = 2, 1.5
    assert found.reciprocal_rank == pytest.approx((1 / ranks).mean())
    assert found.top_1 == pytest.approx(19 / 20)
    assert found.top_10 == 1
    assert found.candidates == 20
    assert found.cosine == pytest.approx((18 + 0.5 + 1) / 20)
    backwards = retrieval(-own, own)
    assert backwards.top_1 == 0 and backwards.reciprocal_rank == pytest.approx(1 / 20)


def test_equal_candidates_are_one() -> None:
    own = np.eye(8)[[0, 0, 1]]
    assert retrieval(own, own).candidates == 2
    assert retrieval(own, own).top_1 == 1


def test_phrases_are_the_frequent_pairs_that_mean_something() -> None:
    filler = " ".join(f"w{i}" for i in range(3))
    common = "\n".join(" ".join([chr(97 + i % 26) * (1 + i // 26)] * 20) for i in range(100))
    text = f"{common}\n" + "red fox\nred fox\nred fox\nold , fox\nold , fox\nold , fox\n"
    text += "fox den\n" * 4 + f"one two\n{filler}\na b\n" + "a b\n" * 9
    phrases = frequent_phrases(text, 10)
    assert [phrase.whole for phrase in phrases] == ["fox den", "red fox"]
    assert phrases[0].first == "fox" and phrases[0].second == "den"
    assert len(frequent_phrases(text, 1)) == 1
    with pytest.raises(DataError, match="no two words follow each other 3 times"):
        frequent_phrases("one two three", 10)


def test_files_bring_the_net_back(tmp_path: Path) -> None:
    learn, base = planted(60, 4)
    net = train_composition(learn, base, hidden=8, steps=3)
    net.record = {"step": 7, "scores": {"learned": 0.25}}
    net.save(tmp_path / "net.safetensors")
    again = CompositionNet.load(tmp_path / "net.safetensors")
    assert again.record == net.record
    assert np.array_equal(
        net.compose(learn.first, learn.second), again.compose(learn.first, learn.second)
    )
    whole = (tmp_path / "net.safetensors").read_bytes()
    (tmp_path / "net.safetensors").write_bytes(whole[:-5])
    for path in (tmp_path / "net.safetensors", tmp_path / "missing"):
        with pytest.raises(DataError, match="is no composition net") as caught:
            CompositionNet.load(path)
        assert "\n" not in str(caught.value)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="base point of shape"):
        CompositionNet(np.zeros(8))
    with pytest.raises(ConfigError, match="hidden = 0"):
        CompositionNet(np.eye(8)[0], hidden=0)
    composer = CompositionNet(np.eye(8)[0]).composer()
    x = np.eye(8)[1]
    with pytest.raises(ConfigError, match=r"share 0\.3"):
        composer(np.eye(8)[0], x, x, 0.3)
    with pytest.raises(ConfigError, match="base point it was trained with"):
        composer(np.eye(8)[1], x, x, 0.5)


def test_altered_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    net = CompositionNet(np.eye(8)[0], hidden=4)
    net.record = {"step": 7}
    net.save(path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for place in (0, 9, whole.index(b"step"), header, header + 90, len(whole) - 1):
        altered = bytearray(whole)
        altered[place] ^= 1
        path.write_bytes(altered)
        with pytest.raises(DataError, match="is no composition net"):
            CompositionNet.load(path)
    path.write_bytes(save({"base": torch.eye(8)[0]}))
    with pytest.raises(DataError, match="is no composition net"):
        CompositionNet.load(path)


def test_blind_guessing_scores_the_chance() -> None:
    rng = np.random.default_rng(0)
    own = random_uniform(rng, 50, D)
    blind = np.mean([
        retrieval(random_uniform(rng, 50, D), own).reciprocal_rank for _ in range(200)
    ])  # fmt: skip
    chance = retrieval(own, own).chance
    assert chance == pytest.approx(sum(1 / np.arange(1, 51)) / 50)
    # 10,000 guesses, whose reciprocal ranks deviate by .16.
    assert blind == pytest.approx(chance, abs=0.006)
