"""What the case table of the matrix product cannot hold: non-finite rows, mixed storage, errors."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import KernelDevice


def product(
    device: KernelDevice, a: object, b: object, trans_a: int = 0, trans_b: int = 0
) -> np.ndarray:
    outputs = device.run("matmul", a=a, b=b, trans_a=trans_a, trans_b=trans_b)
    return outputs["out"].numpy()


def whole_numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
def test_infinite_and_nan_rows_stay_in_their_rows(
    any_device: KernelDevice, trans_a: int, trans_b: int
) -> None:
    a, b = np.abs(whole_numbers(1, 6, 19)) + 1, np.abs(whole_numbers(2, 19, 5)) + 1
    a[0], a[1] = np.inf, np.nan
    out = product(any_device, a.T if trans_a else a, b.T if trans_b else b, trans_a, trans_b)
    assert (out[0] == np.inf).all()
    assert np.isnan(out[1]).all()
    np.testing.assert_array_equal(out[2:], a[2:] @ b)


@pytest.mark.parametrize("kinds", [("f16", "f32"), ("f32", "f16")])
def test_one_operand_may_be_stored_half(any_device: KernelDevice, kinds: tuple[str, str]) -> None:
    a, b = whole_numbers(3, 70, 33), whole_numbers(4, 70, 9)
    out = product(any_device, any_device.array(a, kinds[0]), any_device.array(b, kinds[1]), 1, 0)
    np.testing.assert_array_equal(out, a.T @ b)


def test_operands_in_reused_memory_are_not_read_beyond_their_end(wgpu_device: KernelDevice) -> None:
    """Pooled buffers are longer than their arrays; what earlier ones left there must not count."""
    wgpu_device.array(np.full((64, 64), np.nan))
    a, b = whole_numbers(5, 61, 50), whole_numbers(6, 50, 62)
    np.testing.assert_array_equal(product(wgpu_device, a, b), a @ b)


def test_an_empty_depth_gives_zeros(any_device: KernelDevice) -> None:
    out = product(any_device, np.zeros((3, 0), np.float32), np.zeros((0, 4), np.float32))
    np.testing.assert_array_equal(out, np.zeros((3, 4)))


@pytest.mark.parametrize(
    ("trans_a", "trans_b", "words"),
    [
        (0, 0, "op.a. is 3x4 and op.b. is 5x4; 4 and 5 must agree"),
        (1, 1, "op.a. is 4x3 and op.b. is 4x5; 3 and 4 must agree"),
        (0, 2, "trans_b=2 must each be 0 or 1"),
    ],
)
def test_operands_that_do_not_fit_are_refused(
    numba_device: KernelDevice, trans_a: int, trans_b: int, words: str
) -> None:
    with pytest.raises(KernelError, match=words):
        product(numba_device, whole_numbers(1, 3, 4), whole_numbers(2, 5, 4), trans_a, trans_b)


def test_an_output_of_another_shape_is_refused(any_device: KernelDevice) -> None:
    out = any_device.empty((3, 3))
    with pytest.raises(KernelError, match="the product is 3x5, but 'out' is 3x3"):
        any_device.run(
            "matmul",
            a=whole_numbers(1, 3, 4),
            b=whole_numbers(2, 4, 5),
            trans_a=0,
            trans_b=0,
            out=out,
        )
