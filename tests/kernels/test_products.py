"""Products by shape: every plan makes the same product, and choosing one leaves no trace."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import KernelDevice, get_kernel, products
from ebm_wgpu.kernels.autotune import Autotuner
from ebm_wgpu.kernels.products import Shape, candidates, multiply

WAYS = list(itertools.product((False, True), repeat=2))


def whole_numbers(seed: int, *shape: int) -> np.ndarray:
    """Entries whose products and sums are exact in float32."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)


def stored(matrix: np.ndarray, transposed: bool) -> np.ndarray:
    return np.ascontiguousarray(np.swapaxes(matrix, -1, -2)) if transposed else matrix


@pytest.mark.parametrize(("trans_a", "trans_b"), WAYS)
@pytest.mark.parametrize(
    ("a_shape", "b_shape"),
    [
        ((1, 64), (64, 36)),
        ((7, 33), (33, 5)),
        ((40, 24), (24, 32)),
        ((50, 9), (9, 1)),
        ((2, 20, 12), (2, 12, 8)),
        ((3, 5, 7), (1, 7, 9)),
        ((9, 6), (2, 6, 1)),
        ((3, 0), (0, 4)),
        ((0, 3), (3, 4)),
        ((0, 3, 3), (1, 3, 4)),
    ],
)
def test_products_of_whole_numbers_are_exact(
    any_device: KernelDevice,
    a_shape: tuple[int, ...],
    b_shape: tuple[int, ...],
    trans_a: bool,
    trans_b: bool,
) -> None:
    a, b = whole_numbers(1, *a_shape), whole_numbers(2, *b_shape)
    out = multiply(
        any_device,
        any_device.array(stored(a, trans_a)),
        any_device.array(stored(b, trans_b)),
        trans_a=trans_a,
        trans_b=trans_b,
    )
    assert out.shape == (a @ b).shape
    np.testing.assert_array_equal(out.numpy(), a @ b)


def test_bias_activation_factor_and_accumulation(any_device: KernelDevice) -> None:
    a, b = whole_numbers(1, 20, 12), whole_numbers(2, 12, 8)
    bias, before = whole_numbers(3, 8), whole_numbers(4, 20, 8)
    out = any_device.array(before)
    result = multiply(
        any_device,
        any_device.array(a),
        any_device.array(b),
        bias=any_device.array(bias),
        activation="relu",
        alpha=-0.5,
        out=out,
        accumulate=True,
    )
    assert result is out
    np.testing.assert_array_equal(out.numpy(), np.maximum(-0.5 * (a @ b) + bias + before, 0))


def test_halves_are_summed_in_single_precision(any_device: KernelDevice) -> None:
    a, b = whole_numbers(1, 5, 3000), whole_numbers(2, 3000, 6)
    halves = any_device.array(a, "f16"), any_device.array(b, "f16")
    np.testing.assert_array_equal(multiply(any_device, *halves).numpy(), a @ b)
    out = multiply(any_device, *halves, dtype="f16")
    assert out.dtype == "f16"
    np.testing.assert_array_equal(out.numpy(), (a @ b).astype(np.float16))


def hardware_plans(shape: Shape) -> list[products.Plan]:
    plans = candidates(shape)
    assert len({plan.label for plan in plans}) == len(plans)
    assert all(get_kernel(plan.stem).source for plan in plans)
    return plans


@pytest.mark.parametrize(
    ("m", "k", "n", "lanes"), [(3, 2100, 9, 1), (12, 640, 16, 4), (130, 1026, 37, 1)]
)
def test_every_plan_makes_the_same_product(
    wgpu_device: KernelDevice,
    monkeypatch: pytest.MonkeyPatch,
    m: int,
    k: int,
    n: int,
    lanes: int,
) -> None:
    a, b, bias = whole_numbers(1, m, k), whole_numbers(2, k, n), whole_numbers(3, n)
    shape = Shape(1, m, n, k, False, False, lanes, "f32 f32 f32")
    plans = hardware_plans(shape)
    assert max(plan.splits for plan in plans) > 1
    for plan in plans:
        state = products._State(Autotuner("", False, None), wgpu_device.empty((0,)).storage)
        state.plans[shape] = plan
        monkeypatch.setitem(products._STATES, wgpu_device, state)
        out = multiply(
            wgpu_device, wgpu_device.array(a), wgpu_device.array(b), bias=wgpu_device.array(bias)
        )
        assert list(state.plans) == [shape]
        np.testing.assert_array_equal(out.numpy(), a @ b + bias)


def test_timing_does_not_touch_the_output(
    wgpu_device: KernelDevice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "choices.json"
    tuner = Autotuner("this adapter", True, path)
    state = products._State(tuner, wgpu_device.empty((0,)).storage)
    monkeypatch.setitem(products._STATES, wgpu_device, state)
    a, b, before = whole_numbers(1, 2, 12), whole_numbers(2, 12, 8), whole_numbers(3, 2, 8)
    out = wgpu_device.array(before)
    for count in (1, 2):
        multiply(wgpu_device, wgpu_device.array(a), wgpu_device.array(b), out=out, accumulate=True)
        np.testing.assert_array_equal(out.numpy(), count * (a @ b) + before)
    (plan,) = state.plans.values()
    assert f'"{plan.label}"' in path.read_text()


@pytest.mark.parametrize(
    "shape",
    [
        (1, 2048, 2048, 2048),
        (1, 16384, 50257, 640),
        (1, 640, 640, 16384),
        (64, 512, 64, 512),
        (1, 1, 50257, 640),
        (8, 12, 12, 12),
    ],
)
@pytest.mark.parametrize("lanes", [1, 4])
def test_guesses_fill_a_gpu(shape: tuple[int, int, int, int], lanes: int) -> None:
    batch, m, n, k = shape
    for plan in hardware_plans(Shape(*shape, False, True, lanes, "f32 f32 f32")):
        kernel = get_kernel(plan.stem)
        dims = {"L": batch * plan.splits, "M": m, "N": n}
        groups = kernel.workgroups(dims, {"trans_b": 1})
        assert isinstance(groups, int)
        assert plan.splits == 1 or groups * kernel.constants["WG"] <= 2 * 32_768
        assert k / plan.splits >= min(k, 256)
    best = hardware_plans(Shape(*shape, False, True, lanes, "f32 f32 f32"))[0]
    expected = "rows_1" if m == 1 else "128x128" if batch * m * n > 2e6 and n > 64 else ""
    assert expected in best.stem


@pytest.mark.parametrize(
    ("a_shape", "b_shape", "options", "words"),
    [
        ((3, 4), (5, 4), {}, "op.a. is 3x4 and op.b. is 5x4; 4 and 5 must agree"),
        ((2, 3, 4), (3, 4, 5), {}, "batches of 2 and 3 matrices cannot be multiplied"),
        ((4,), (4, 5), {}, r"a has shape \(4,\)"),
        ((3, 4), (4, 5), {"activation": "swish"}, "no activation is called 'swish'; choose none"),
        ((3, 4), (4, 5), {"accumulate": True}, "only accumulate onto an array given as 'out'"),
    ],
)
def test_what_does_not_fit_is_refused(
    numba_device: KernelDevice,
    a_shape: tuple[int, ...],
    b_shape: tuple[int, ...],
    options: dict[str, object],
    words: str,
) -> None:
    a, b = numba_device.array(np.ones(a_shape)), numba_device.array(np.ones(b_shape))
    with pytest.raises(KernelError, match=words):
        multiply(numba_device, a, b, **options)  # type: ignore[arg-type]


def test_outputs_and_biases_of_other_sizes_are_refused(any_device: KernelDevice) -> None:
    a, b = any_device.array(np.ones((3, 4))), any_device.array(np.ones((4, 5)))
    with pytest.raises(KernelError, match=r"shape \(1, 3, 5\), but 'out' has \(1, 5, 3\)"):
        multiply(any_device, a, b, out=any_device.empty((5, 3)))
    with pytest.raises(KernelError, match="'bias' has 4 entries for 5 columns"):
        multiply(any_device, a, b, bias=any_device.empty((4,)))
