"""Philox4x32-10: the published vectors, and the laws of the numbers made from it."""

import numpy as np
import pytest
from scipy import stats

from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.kernels._philox import (
    STREAM_COMPONENT,
    STREAM_LANGEVIN,
    fill_normal,
    normal_reference,
    philox4x32,
    philox_reference,
    split_seed,
    uniform4,
    uniforms_of,
)

# Random123, tests/kat_vectors: counter, key, result.
VECTORS = (
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
)
EXTREME_WORDS = np.array([0, 1, 511, 512, 2**31, 2**32 - 512, 2**32 - 1], np.uint32)


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_published_vectors(counter: tuple[int, ...], key: tuple[int, int], expected: str) -> None:
    words = [int(word, 16) for word in expected.split()]
    mirror = philox4x32(*(np.uint32(c) for c in counter), *(np.uint32(k) for k in key))
    assert [int(word) for word in mirror] == words
    seed = key[0] | key[1] << 32
    assert philox_reference(*counter, seed).tolist() == words


def test_published_vector_on_devices(any_device: KernelDevice) -> None:
    *_, expected = VECTORS[0]
    words = np.array([int(word, 16) for word in expected.split()], np.uint32)
    out = any_device.run("philox_uniform", chain=[0], D=4, seed=0, step=0, stream=0)["out"]
    np.testing.assert_array_equal(out.numpy()[0], uniforms_of(words))


def test_seed_splits_into_words() -> None:
    low, high = split_seed(np.uint64(0xFEDCBA9876543210))
    assert (int(low), int(high)) == (0x76543210, 0xFEDCBA98)


def test_uniforms_are_exact_and_open() -> None:
    uniforms = uniforms_of(EXTREME_WORDS)
    assert uniforms.min() == 2.0**-24
    assert uniforms.max() == 1 - 2.0**-24
    assert np.array_equal(uniforms.astype(np.float32).astype(np.float64), uniforms)
    block = uniform4(3, 1, 4, 1, 5, 9)
    words = philox_reference(3, 1, 4, 1, 5 | 9 << 32)
    assert [float(u) for u in block] == uniforms_of(words).tolist()


def test_normals_follow_the_normal_law_and_are_uncorrelated() -> None:
    n = 40_000
    rows = np.empty((4, n), np.float32)
    settings = [(0, 0, STREAM_LANGEVIN), (1, 0, 0), (0, 1, 0), (0, 0, STREAM_COMPONENT)]
    for row, (step, chain, stream) in zip(rows, settings, strict=True):
        fill_normal(row, step, chain, stream, 42, 0)
    for row in rows:
        assert stats.kstest(row, stats.norm.cdf).pvalue > 0.01
    correlations = np.corrcoef(np.concatenate([rows, rows[:1, ::-1], np.roll(rows[:1], 1)]))
    off_diagonal = correlations[np.triu_indices(len(correlations), 1)]
    assert np.abs(off_diagonal).max() < 4 / np.sqrt(n)


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 641])
def test_rows_of_any_length_start_alike(d: int) -> None:
    out, longest = np.empty(d, np.float32), np.empty(644, np.float32)
    fill_normal(out, 7, np.uint32(2**32 - 1), 3, 11, 13)
    fill_normal(longest, 7, np.uint32(2**32 - 1), 3, 11, 13)
    np.testing.assert_array_equal(out, longest[:d])
    expected = normal_reference(np.array([-1]), d, 7, 3, 11 | 13 << 32)[0]
    np.testing.assert_allclose(out, expected, rtol=0, atol=7e-7)


def test_chains_steps_and_seeds_give_other_numbers(any_device: KernelDevice) -> None:
    def draw(chain: int, step: int, stream: int, seed: int) -> np.ndarray:
        return any_device.run(
            "philox_normal", chain=[chain], D=8, seed=seed, step=step, stream=stream
        )["out"].numpy()

    base = draw(0, 0, 0, 0)
    np.testing.assert_array_equal(base, draw(0, 0, 0, 0))
    for other in (draw(1, 0, 0, 0), draw(0, 1, 0, 0), draw(0, 0, 1, 0), draw(0, 0, 0, 2**32)):
        assert not np.isclose(base, other).any()
