"""Whether an index, what it reads or writes and where to fit together, in torch's words."""

from __future__ import annotations

import torch

from ebm_wgpu.torch_device.elementwise import type_name


def _sizes(tensor: torch.Tensor) -> tuple[int, ...]:
    """The shape, with one dimension at least."""
    return tuple(tensor.shape) or (1,)


def _exceeds(index: torch.Tensor, tensor: torch.Tensor, dim: int | None) -> int | None:
    """The first dimension, apart from `dim`, in which an index is larger than a tensor."""
    for axis, (wanted, there) in enumerate(zip(_sizes(index), _sizes(tensor), strict=True)):
        if axis != dim and wanted > there:
            return axis
    return None


def check_gather(self: torch.Tensor, dim: int, index: torch.Tensor) -> None:
    """Nothing, for an index that `gather` can follow.

    Raises:
        RuntimeError: it has other dimensions than the tensor, or is larger in one but `dim`.
    """
    if len(_sizes(index)) != len(_sizes(self)):
        raise RuntimeError("Index tensor must have the same number of dimensions as input tensor")
    axis = _exceeds(index, self, dim) if index.numel() else None
    if axis is not None:
        raise RuntimeError(
            f"Size does not match at dimension {axis} expected index {list(index.shape)} to be no "
            f"larger than self {list(self.shape)} apart from dimension {dim}"
        )


def check_scatter(
    name: str, self: torch.Tensor, dim: int, index: torch.Tensor, src: torch.Tensor | None
) -> None:
    """Nothing, for an index that `scatter` or `scatter_add` can follow.

    Args:
        name: of the operator.
        self: what is written to.
        dim: the dimension that the index counts.
        index: the places.
        src: the values, None for a number.

    Raises:
        RuntimeError: the index has other dimensions than the tensor or the values, is larger than
            the tensor in one but `dim`, or than the values; or the types differ.
    """
    if src is not None and src.dtype != self.dtype:
        raise RuntimeError(f"{name}(): Expected self.dtype to be equal to src.dtype")
    if not index.numel():
        return
    for other, called in ((self, "self"), (src, "src")):
        if other is not None and len(_sizes(index)) != len(_sizes(other)):
            raise RuntimeError(
                f"Index tensor must have the same number of dimensions as {called} tensor"
            )
    large = _exceeds(index, self, dim) is not None
    if large or (src is not None and _exceeds(index, src, None) is not None):
        values = "" if src is None else f" and to be no larger size than src {list(src.shape)}"
        raise RuntimeError(
            f"Expected index {list(index.shape)} to be no larger than self {list(self.shape)} "
            f"apart from dimension {dim}{values}"
        )


def check_slices(
    name: str, self: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor
) -> None:
    """Nothing, for slices of `source` that `index_copy` or `index_add` can put where an index says.

    Args:
        name: of the operator.
        self: what is written to.
        dim: the dimension that the index counts.
        index: the places, one for each slice.
        source: the slices.

    Raises:
        IndexError: the index is no vector, counts other slices than there are, or the dimensions
            differ.
        RuntimeError: the slices have another shape or type.
    """
    if index.dim() > 1:
        raise IndexError(
            f"{name}_(): Index is supposed to be a vector, but got {index.dim()} dimensions"
        )
    if source.dtype != self.dtype:
        raise RuntimeError(
            f"{name}_(): self ({type_name(self.dtype)}) and source ({type_name(source.dtype)}) "
            "must have the same scalar type"
        )
    there, given = _sizes(self), _sizes(source)
    if len(there) != len(given):
        raise IndexError(
            f"{name}_(): When source and destination are not scalars, their dimensionality must "
            f"match. Source dimensionality ({source.dim()}), destination dimensionality "
            f"({self.dim()})"
        )
    if index.numel() != given[dim]:
        raise IndexError(
            f"{name}_(): Number of indices ({index.numel()}) should be equal to "
            f"source.size(dim) ({given[dim]}), for dim: {dim}"
        )
    if there[:dim] + there[dim + 1 :] != given[:dim] + given[dim + 1 :]:
        raise RuntimeError(
            f"{name}_(): source tensor shape must match self tensor shape, excluding the specified "
            f"dimension. Got self.shape = {list(self.shape)} source.shape = {list(source.shape)}"
        )
