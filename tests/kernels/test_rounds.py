"""Bounds on loop rounds: what a counting loop counts, and what llvmpipe still gets right."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.kernels import KernelDevice, _rounds, kernel_names
from ebm_wgpu.kernels.registry import get_kernel
from ebm_wgpu.kernels.spec import Array

SIZES = st.integers(0, 40)


@given(SIZES, st.integers(1, 8), SIZES, SIZES)
def test_failing_tests_count_and_pass_through_the_loops_inside(
    size: int, stride: int, first: int, second: int
) -> None:
    rounds = 0
    for start in range(0, size + stride, stride):
        masked = start >= size
        rounds += 1
        for inner in (first, second):
            rounds += 1 if masked else inner + 1
        if masked:
            break
    inside = _rounds.loop(first) + _rounds.loop(second)
    assert _rounds.strided(size, stride, inside) == rounds


def test_loops_are_counted_as_written() -> None:
    assert _rounds.loop(9, 2 * _rounds.loop(3) + _rounds.PHILOX).loops == 4
    assert _rounds.NONE.loops == 0


@pytest.mark.parametrize("stem", kernel_names())
def test_every_case_fits_on_llvmpipe(stem: str) -> None:
    kernel = get_kernel(stem)
    for case in kernel.cases if kernel.rounds is not None else ():
        dims = dict(case.dims)
        if kernel.derive is not None:
            dims |= kernel.derive(dims, case.params)
        assert kernel.rounds is not None
        assert 0 < kernel.rounds(dims, case.params) <= _rounds.LLVMPIPE_ROUNDS, case.name


def _mean(count: int) -> dict[str, Array | int]:
    h = np.eye(2, 9)
    return {
        "mu": np.tile(h[:1], (count, 1)),
        "a": np.ones(count),
        "log_pi": np.zeros(count),
        "h": h,
    }


def _columns(count: int) -> dict[str, Array | int]:
    """Shares that underflow, so that the sums over rows are exact whole numbers."""
    arrays = {"logits": np.zeros((count, 3)), "bias": np.zeros(3)}
    targets, lse, grad = np.zeros(count, np.int32), np.full(count, 100), np.ones(count)
    return {**arrays, "target_index": targets, "lse": lse, "grad_log_p": grad}


def _product(count: int) -> dict[str, Array | int]:
    return {"a": np.ones((1, count)), "b": np.ones((count, 1)), "trans_a": 0, "trans_b": 0}


def _climb(count: int) -> dict[str, Array | int]:
    """Cosines that rise from splat to splat: the list of the best is flushed all the time."""
    mu = np.zeros((count, 8))
    mu[:, 0] = np.arange(count)
    return {"x": np.eye(1, 8), "mu": mu, "K": 100}


@pytest.mark.parametrize(
    ("stem", "arguments", "axis", "most", "dims"),
    [
        ("mixture_mean", _mean, "N", 38_656, {"D": 9}),
        ("target_log_softmax_backward", _columns, "B", 65_534, {}),
        ("matmul", _product, "AC", 174_464, {}),
        ("similarity_topk", _climb, "N", 7_040, {"B": 1, "D": 8, "K": 100, "R": 1}),
    ],
)
def test_results_are_right_up_to_the_limit(
    wgpu_device: KernelDevice,
    numba_device: KernelDevice,
    stem: str,
    arguments: Callable[[int], dict[str, Array | int]],
    axis: str,
    most: int,
    dims: dict[str, int],
) -> None:
    outputs = wgpu_device.run(stem, **arguments(most))
    for name, expected in numba_device.run(stem, **arguments(most)).items():
        np.testing.assert_allclose(outputs[name].numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)
    rounds = get_kernel(stem).rounds
    assert rounds is not None
    assert rounds({**dims, axis: most}, {"trans_a": 0}) <= _rounds.LLVMPIPE_ROUNDS
    assert rounds({**dims, axis: most + 1}, {"trans_a": 0}) > _rounds.LLVMPIPE_ROUNDS
