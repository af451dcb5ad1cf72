"""softmax, layer norm and RMS norm with their backwards, by the kernels of those names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from ebm_wgpu.kernels._rows import row_parts
from ebm_wgpu.torch_device.reductions import axes, deliver, reduce
from ebm_wgpu.torch_device.registration import claim, implements
from ebm_wgpu.torch_device.tensors import constant, empty, run_kernel

Maybe = torch.Tensor | None


def _by_rows(
    stem: str, arrays: dict[str, torch.Tensor], output: str, dim: int, dtype: torch.dtype
) -> torch.Tensor:
    """A kernel of (R, N) arrays on tensors of one shape, whose rows lie along a dimension."""
    first = next(iter(arrays.values()))
    if first.numel() == 0:
        return empty(first.shape, dtype)
    (axis,) = axes(first, dim) or (0,)
    wide = [a.movedim(axis, -1) if a.dim() else a.view(1) for a in arrays.values()]
    shape = wide[0].shape
    result = empty((math.prod(shape[:-1]), shape[-1]), dtype)
    rows = [a.reshape(result.shape) for a in wide]
    run_kernel(stem, **dict(zip(arrays, rows, strict=True)), **{output: result})
    return result.view(shape).movedim(-1, axis).contiguous() if first.dim() else result.view(())


def _softmax(stem: str) -> tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]:
    def forward(
        self: torch.Tensor, dim: int, half_to_float: bool, *, out: Maybe = None
    ) -> torch.Tensor:
        dtype = torch.float32 if half_to_float else self.dtype
        return deliver(_by_rows(stem, {"x": self}, "out", dim, dtype), out)

    def backward(
        grad_output: torch.Tensor, output: torch.Tensor, dim: int, input_dtype: torch.dtype
    ) -> torch.Tensor:
        arrays = {"y": output, "grad_out": grad_output}
        return _by_rows(f"{stem}_backward", arrays, "grad_x", dim, input_dtype)

    return forward, backward


for _stem in ("softmax", "log_softmax"):
    _forward, _backward = _softmax(_stem)
    implements(f"_{_stem}", f"_{_stem}.out")(_forward)
    implements(f"_{_stem}_backward_data")(_backward)


def _rows(input: torch.Tensor, normalized_shape: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
    """The tensor as rows to normalise, and the shape of what is one number a row.

    Raises:
        RuntimeError: the shape to normalise is not the tensor's last dimensions.
    """
    wide = len(normalized_shape)
    if not wide or list(input.shape[-wide:]) != list(normalized_shape):
        raise RuntimeError(
            f"Given normalized_shape={list(normalized_shape)}, expected input with shape "
            f"[*, {', '.join(map(str, normalized_shape))}], but got input of size"
            f"{list(input.shape)}"
        )
    kept = list(input.shape[:-wide])
    rows = input.reshape(math.prod(kept), math.prod(normalized_shape))
    return rows, kept + [1] * wide


def _column_sums(parts: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Sums over the first dimension, in the shape and type of a tensor."""
    return reduce("sum", parts, (0,), like.dtype).view(like.shape)


@implements("native_layer_norm")
def native_layer_norm(
    input: torch.Tensor,
    normalized_shape: Sequence[int],
    weight: Maybe,
    bias: Maybe,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(x - mean) rstd weight + bias over the last dimensions, mean and rstd."""
    rows, statistics = _rows(input, normalized_shape)
    out = empty(rows.shape, input.dtype)
    mean, rstd = (empty((len(rows),), torch.float32) for _ in range(2))
    if rows.numel():
        run_kernel(
            "layer_norm",
            x=rows,
            weight=constant(1.0, rows.shape[1]) if weight is None else weight.reshape(-1),
            bias=constant(0.0, rows.shape[1]) if bias is None else bias.reshape(-1),
            epsilon=eps,
            out=out,
            mean=mean,
            rstd=rstd,
        )
    return out.view(input.shape), mean.view(statistics), rstd.view(statistics)


@implements("native_layer_norm_backward")
def native_layer_norm_backward(
    grad_out: torch.Tensor,
    input: torch.Tensor,
    normalized_shape: Sequence[int],
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: Maybe,
    bias: Maybe,
    output_mask: Sequence[bool],
) -> tuple[Maybe, Maybe, Maybe]:
    """Gradients of `native_layer_norm` for input, weight and bias, those that are asked for."""
    rows, _ = _rows(input, normalized_shape)
    shared = {
        "x": rows,
        "mean": mean.reshape(-1),
        "rstd": rstd.reshape(-1),
        "grad_out": grad_out.reshape(rows.shape),
    }
    grad_x = grad_weight = grad_bias = None
    if output_mask[0]:
        grad_x = empty(rows.shape, input.dtype)
        scale = constant(1.0, rows.shape[1]) if weight is None else weight.reshape(-1)
        if rows.numel():
            run_kernel("layer_norm_backward", **shared, weight=scale, grad_x=grad_x)
        grad_x = grad_x.view(input.shape)
    if any(output_mask[1:]):
        parts = [empty((row_parts(len(rows)), rows.shape[1]), torch.float32) for _ in range(2)]
        if rows.numel():
            run_kernel(
                "layer_norm_weight_backward", **shared, grad_weight=parts[0], grad_bias=parts[1]
            )
        else:
            parts = [part.zero_() for part in parts]
        if output_mask[1] and weight is not None:
            grad_weight = _column_sums(parts[0], weight)
        if output_mask[2] and bias is not None:
            grad_bias = _column_sums(parts[1], bias)
    return grad_x, grad_weight, grad_bias


@implements("_fused_rms_norm")
def fused_rms_norm(
    input: torch.Tensor, normalized_shape: Sequence[int], weight: Maybe, eps: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """x rstd weight over the last dimensions, and rstd."""
    rows, statistics = _rows(input, normalized_shape)
    out = empty(rows.shape, input.dtype)
    rstd = empty((len(rows),), torch.float32)
    if rows.numel():
        run_kernel(
            "rms_norm",
            x=rows,
            weight=constant(1.0, rows.shape[1]) if weight is None else weight.reshape(-1),
            epsilon=torch.finfo(torch.float32).eps if eps is None else eps,
            out=out,
            rstd=rstd,
        )
    return out.view(input.shape), rstd.view(statistics)


@implements("_fused_rms_norm_backward")
def fused_rms_norm_backward(
    grad_out: torch.Tensor,
    input: torch.Tensor,
    normalized_shape: Sequence[int],
    rstd: torch.Tensor,
    weight: Maybe,
    output_mask: Sequence[bool],
) -> tuple[Maybe, Maybe]:
    """Gradients of `fused_rms_norm` for input and weight, those that are asked for."""
    rows, _ = _rows(input, normalized_shape)
    shared = {"x": rows, "rstd": rstd.reshape(-1), "grad_out": grad_out.reshape(rows.shape)}
    grad_x = grad_weight = None
    if output_mask[0]:
        grad_x = empty(rows.shape, input.dtype)
        scale = constant(1.0, rows.shape[1]) if weight is None else weight.reshape(-1)
        if rows.numel():
            run_kernel("rms_norm_backward", **shared, weight=scale, grad_x=grad_x)
        grad_x = grad_x.view(input.shape)
    if output_mask[1] and weight is not None:
        parts = empty((row_parts(len(rows)), rows.shape[1]), torch.float32)
        if rows.numel():
            run_kernel("rms_norm_weight_backward", **shared, grad_weight=parts)
        else:
            parts.zero_()
        grad_weight = _column_sums(parts, weight)
    return grad_x, grad_weight


claim("softmax", "log_softmax", "nn.functional.softmin", "_softmax_backward_data")
claim("nn.functional.rms_norm", "nn.functional.layer_norm", "native_layer_norm")
