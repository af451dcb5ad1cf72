"""Matrix products: mm, bmm, addmm, baddbmm, mv, addmv, dot, and what torch makes of them.

A transpose is read where it stands, as is one matrix that serves a whole batch; other views are
copied first. `linear`, `matmul` and `einsum` are torch's own compositions of these. Sums are in
float32 for float16 operands too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ebm_wgpu.errors import DeviceError
from ebm_wgpu.kernels import DeviceArray
from ebm_wgpu.kernels.products import multiply
from ebm_wgpu.torch_device import state
from ebm_wgpu.torch_device.elementwise import implements_all
from ebm_wgpu.torch_device.reductions import deliver
from ebm_wgpu.torch_device.registration import claim
from ebm_wgpu.torch_device.tensors import as_array, empty, is_bindable


def operand(tensor: torch.Tensor) -> tuple[DeviceArray, bool]:
    """A matrix or a batch (Z, R, C) as the kernels read it, and whether as its transpose."""
    if tensor.dim() == 3 and tensor.stride(0) == 0 and tensor.shape[0] > 1:
        tensor = tensor[0]
    flipped = not tensor.is_contiguous() and tensor.mT.is_contiguous()
    return as_array(tensor.mT if flipped else tensor), flipped


def _check(
    name: str, left: torch.Tensor, right: torch.Tensor, dims: tuple[int, int] = (2, 2)
) -> None:
    """Nothing, for operands that can be multiplied.

    Raises:
        RuntimeError: shapes or types that do not fit together, as torch has it.
        DeviceError: whole numbers.
    """
    if (left.dim(), right.dim()) != dims:
        raise RuntimeError(
            f"{name}: expected operands of {dims[0]} and {dims[1]} dimensions, but got "
            f"{left.dim()}D and {right.dim()}D"
        )
    if left.dtype != right.dtype:
        raise RuntimeError(
            f"{name}: expected both operands to have the same dtype, but got {left.dtype} and "
            f"{right.dtype}"
        )
    depth = right.shape[-2] if dims[1] > 1 else right.shape[0]
    if left.shape[-1] != depth or (dims == (3, 3) and left.shape[0] != right.shape[0]):
        raise RuntimeError(
            f"{name}: shapes {tuple(left.shape)} and {tuple(right.shape)} cannot be multiplied"
        )
    if not left.is_floating_point():
        raise DeviceError(
            f'torch.device("wgpu") multiplies float32 and float16 matrices, not {left.dtype}: '
            "convert them with .float()"
        )


def _multiply(
    left: torch.Tensor,
    right: torch.Tensor,
    out: torch.Tensor | None = None,
    *,
    alpha: float = 1.0,
    bias: torch.Tensor | None = None,
    accumulate: bool = False,
) -> torch.Tensor:
    """alpha left right + bias [+ out] of checked operands, in `out` or in a new tensor."""
    shape = (*left.shape[:-1], right.shape[-1])
    if out is None:
        out = empty(shape, left.dtype)
    elif tuple(out.shape) != shape:
        out.resize_(shape)
    if out.numel() == 0:
        return out
    if not is_bindable(out) or out.dtype != left.dtype:
        held = out.to(left.dtype, memory_format=torch.contiguous_format, copy=True)
        return out.copy_(
            _multiply(left, right, held, alpha=alpha, bias=bias, accumulate=accumulate)
        )
    if left.shape[-1] == 0:
        if not accumulate:
            out.zero_()
        return out if bias is None else out.add_(bias)
    (a, trans_a), (b, trans_b) = operand(left), operand(right)
    multiply(
        state.device(),
        a,
        b,
        trans_a=trans_a,
        trans_b=trans_b,
        bias=None if bias is None else as_array(bias),
        alpha=alpha,
        out=as_array(out),
        accumulate=accumulate,
    )
    return out


def _shares_memory(out: torch.Tensor, *operands: torch.Tensor) -> bool:
    storage = out.untyped_storage()._cdata
    return any(tensor.untyped_storage()._cdata == storage for tensor in operands)


def _product(
    left: torch.Tensor, right: torch.Tensor, out: torch.Tensor | None, **ending: Any
) -> torch.Tensor:
    """`_multiply` where `out` may be an operand as well."""
    if out is not None and _shares_memory(out, left, right):
        held = out.clone(memory_format=torch.contiguous_format)
        fresh = _multiply(left, right, held, **ending)
        if out.shape != fresh.shape:
            out.resize_(fresh.shape)
        return out.copy_(fresh)
    return _multiply(left, right, out, **ending)


def _added(
    self: torch.Tensor,
    left: torch.Tensor,
    right: torch.Tensor,
    beta: float,
    alpha: float,
    out: torch.Tensor | None,
) -> torch.Tensor:
    """beta self + alpha left right, where `self` broadcasts.

    Raises:
        RuntimeError: it does not, or has another type.
    """
    if self.dtype != left.dtype:
        raise RuntimeError(f"expected self of dtype {left.dtype}, but got {self.dtype}")
    if beta == 0:
        return _product(left, right, out, alpha=alpha)
    shape = (*left.shape[:-1], right.shape[-1])
    if self.dim() == 1 and self.shape[0] == shape[-1] and beta == 1:
        return _product(left, right, out, alpha=alpha, bias=self)
    start = self.expand(shape)
    if out is self and not _shares_memory(out, left, right):
        held = out if beta == 1 else out.mul_(beta)
        return _multiply(left, right, held, alpha=alpha, accumulate=True)
    held = empty(shape, left.dtype).copy_(start)
    if beta != 1:
        held.mul_(beta)
    total = _multiply(left, right, held, alpha=alpha, accumulate=True)
    if out is None:
        return total
    if out.shape != total.shape:
        out.resize_(total.shape)
    return out.copy_(total)


def mm(self: torch.Tensor, mat2: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """The product of matrices (M, K) and (K, N)."""
    _check("mm", self, mat2)
    return _product(self, mat2, out)


def bmm(self: torch.Tensor, mat2: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """The products of batches (Z, M, K) and (Z, K, N)."""
    _check("bmm", self, mat2, (3, 3))
    return _product(self, mat2, out)


def addmm(
    self: torch.Tensor,
    mat1: torch.Tensor,
    mat2: torch.Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """beta self + alpha mat1 mat2; a row `self` is added by the product's own kernel."""
    _check("addmm", mat1, mat2)
    return _added(self, mat1, mat2, float(beta), float(alpha), out)


def baddbmm(
    self: torch.Tensor,
    batch1: torch.Tensor,
    batch2: torch.Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """beta self + alpha batch1 batch2, batch by batch."""
    _check("baddbmm", batch1, batch2, (3, 3))
    return _added(self, batch1, batch2, float(beta), float(alpha), out)


def mv(self: torch.Tensor, vec: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """The product of a matrix (M, K) and a vector (K,)."""
    _check("mv", self, vec, (2, 1))
    product = _multiply(self, vec[:, None])[:, 0]
    return deliver(product, out)


def addmv(
    self: torch.Tensor,
    mat: torch.Tensor,
    vec: torch.Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """beta self + alpha mat vec."""
    _check("addmv", mat, vec, (2, 1))
    held = self.expand(mat.shape[0])[:, None]
    total = _added(held, mat, vec[:, None], float(beta), float(alpha), None)[:, 0]
    return deliver(total, out)


def dot(
    self: torch.Tensor, tensor: torch.Tensor, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """The sum of products of two vectors (K,)."""
    _check("dot", self, tensor, (1, 1))
    product = _multiply(self[None, :], tensor[:, None])[0, 0]
    return deliver(product, out)


_FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "mm": mm,
    "bmm": bmm,
    "addmm": addmm,
    "baddbmm": baddbmm,
    "mv": mv,
    "addmv": addmv,
    "dot": dot,
    "vdot": dot,
}
for _operator, _function in _FUNCTIONS.items():
    implements_all(_operator, _function, without=("dtype", "dtype_out"))

claim(
    *("mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot", "vdot", "matmul", "__rmatmul__"),
    *("nn.functional.linear", "einsum", "tensordot", "inner", "outer", "linalg.multi_dot"),
)
