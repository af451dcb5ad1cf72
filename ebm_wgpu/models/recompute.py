"""Computing twice instead of keeping: checkpointing for functions that differentiate inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Function = Callable[[Sequence[Tensor], bool], tuple[Tensor, ...]]
"""From inputs, and whether its result will be differentiated, to a tuple of tensors."""


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, function: Function, n_inputs: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.function, ctx.n_inputs = function, n_inputs
        ctx.save_for_backward(*tensors)
        outputs = function([tensor.detach() for tensor in tensors[:n_inputs]], False)
        return tuple(output.detach() for output in outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        inputs = [
            tensor.detach().requires_grad_(wants)
            for tensor, wants in zip(tensors[: ctx.n_inputs], wanted, strict=False)
        ]
        with torch.enable_grad():
            outputs = ctx.function(inputs, True)
        pairs = [pair for pair in zip(outputs, gradients, strict=True) if pair[0].requires_grad]
        sources = [*inputs, *tensors[ctx.n_inputs :]]
        chosen = [source for source, wants in zip(sources, wanted, strict=True) if wants]
        found = iter(
            torch.autograd.grad(
                [output for output, _ in pairs],
                chosen,
                [gradient for _, gradient in pairs],
                allow_unused=True,
            )
        )
        return (None, None, *(next(found) if wants else None for wants in wanted))


def recomputed(
    function: Function, inputs: Sequence[Tensor], parameters: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """function(inputs, True), of which nothing is kept: the backward pass computes it again.

    Unlike `torch.utils.checkpoint`, which computes anew at each inner derivative, `function` may
    call `torch.autograd.grad` at the price of one more evaluation in all.

    Args:
        function: gives the same values each time, whether they will be differentiated or not.
        inputs: tensors handed to it, which may be results of other computations.
        parameters: leaves that it reads by itself and that want gradients.
    """
    result: tuple[Tensor, ...] = _Recomputed.apply(function, len(inputs), *inputs, *parameters)
    return result
