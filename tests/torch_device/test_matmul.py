"""Matrix products beyond the operator database: views without copies, outputs, halves, refusals."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch

import ebm_wgpu.torch_device as torch_device
from ebm_wgpu.errors import DeviceError


def tensors(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """To 2 eps K, K <= 512 products of unit normals a sum."""
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-6, atol=1.2e-4)


@pytest.mark.parametrize(
    "product",
    [
        lambda a, b: a @ b,
        lambda a, b: a.T.contiguous().T @ b,
        lambda a, b: a @ b.T.contiguous().T,
        lambda a, b: torch.einsum("mk,kn->mn", a, b),
    ],
)
def test_transposes_are_read_where_they_stand(
    product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    a, b = tensors((640, 512), (512, 384))
    close(product(a.to("wgpu"), b.to("wgpu")), product(a, b))

    left, right = a.T.contiguous().to("wgpu"), b.T.contiguous().to("wgpu")
    gc.collect()
    pool = torch_device.device().runtime.pool
    pool.reset_peak()
    before = pool.live_bytes
    close(left.T @ right.T, a @ b)
    assert pool.peak_bytes - before <= 1.1 * 640 * 384 * 4


def test_one_matrix_serves_a_batch_without_a_copy() -> None:
    a, b = tensors((64, 32, 24), (1, 24, 512))
    left, right = a.to("wgpu"), b.to("wgpu").expand(64, 24, 512)
    gc.collect()
    pool = torch_device.device().runtime.pool
    pool.reset_peak()
    before = pool.live_bytes
    close(torch.bmm(left, right), torch.bmm(a, b.expand(64, 24, 512)))
    assert pool.peak_bytes - before <= 1.1 * 64 * 32 * 512 * 4


def test_strided_views_and_sliced_outputs() -> None:
    a, b = tensors((9, 14), (7, 22))
    x, y = a.to("wgpu"), b.to("wgpu")
    close(x[1:, ::2] @ y[:, 3:], a[1:, ::2] @ b[:, 3:])
    whole = torch.zeros(9, 25, device="wgpu")
    torch.mm(x[:, :7], y, out=whole[:, 1:23])
    expected = torch.zeros(9, 25)
    expected[:, 1:23] = a[:, :7] @ b
    close(whole, expected)


def test_an_output_may_be_an_operand() -> None:
    (a,) = tensors((33, 33))
    x = a.to("wgpu")
    close(torch.mm(x, x, out=x), a @ a)
    x = a.to("wgpu")
    close(x.addmm_(x, x.T, beta=0.5, alpha=2.0), a.clone().addmm(a, a.T, beta=0.5, alpha=2.0))


def test_a_row_is_added_by_the_product_itself() -> None:
    a, b, row = tensors((50, 70), (70, 90), (90,))
    close(
        torch.addmm(row.to("wgpu"), a.to("wgpu"), b.to("wgpu"), alpha=0.5),
        torch.addmm(row, a, b, alpha=0.5),
    )


def test_sums_of_nothing_are_zero() -> None:
    empty = torch.zeros(3, 0, device="wgpu")
    assert (empty @ empty.T).tolist() == [[0.0] * 3] * 3
    row = torch.ones(3, device="wgpu")
    assert torch.addmm(row, empty, empty.T).tolist() == [[1.0] * 3] * 3
    assert (torch.zeros(0, 4, device="wgpu") @ torch.zeros(4, 2, device="wgpu")).shape == (0, 2)


def test_halves_are_summed_in_float32() -> None:
    rows = torch.full((1, 4096), 0.25, dtype=torch.float16)
    columns = torch.ones(4096, 2, dtype=torch.float16)
    product = rows.to("wgpu") @ columns.to("wgpu")
    assert product.dtype == torch.float16
    assert product.tolist() == [[1024.0, 1024.0]]


def test_what_does_not_fit_is_refused() -> None:
    a, b = (t.to("wgpu") for t in tensors((3, 4), (5, 6)))
    with pytest.raises(RuntimeError, match=r"\(3, 4\) and \(5, 6\) cannot be multiplied"):
        torch.mm(a, b)
    with pytest.raises(RuntimeError, match="same dtype"):
        torch.mm(a, b.half())
    with pytest.raises(DeviceError, match=r"not torch\.int64: convert them with \.float\(\)"):
        torch.mm(a.long(), a.T.long())
    with pytest.raises(RuntimeError, match="expected operands of 2 and 2 dimensions"):
        torch.mm(a, b[0])
