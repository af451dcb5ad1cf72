"""torch.autocast("wgpu"): products from float16 operands, sums and losses in float32.

Weights and their gradients stay float32; what is stored between operators becomes half as large.
Products add in float32 either way. Gradients below 6e-8 vanish in float16:
`torch.amp.GradScaler("wgpu")` scales the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

_KEY = "AutocastPrivateUse1"
_WITHOUT = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, _KEY))

LOWER = (
    *("linear", "matmul", "mm", "bmm", "mv", "addmm", "addmv", "addbmm", "baddbmm"),
    "scaled_dot_product_attention",
)
"""Operators whose operands are taken in the lower type."""
SINGLE = (
    *("exp", "expm1", "log", "log1p", "pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar"),
    *("rsqrt", "reciprocal", "softmax.int", "log_softmax.int", "layer_norm", "rms_norm"),
    *("cross_entropy_loss", "nll_loss", "nll_loss_nd", "mse_loss", "sum", "sum.dim_IntList"),
    *("prod", "cumsum", "logsumexp", "linalg_vector_norm", "norm.Scalar"),
)
"""Operators whose operands are taken in float32."""

_library = torch.library.Library("aten", "IMPL")
_anything = torch.library.Library("_", "IMPL")


def _in_type(operator: Any, lower: bool) -> Callable[..., Any]:
    """The operator with its float operands in the lower type, or in float32."""

    def call(*args: Any, **kwargs: Any) -> Any:
        dtype = torch.get_autocast_dtype("wgpu") if lower else torch.float32

        def convert(value: Any) -> Any:
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                return value.to(dtype)
            return value

        with torch._C._ExcludeDispatchKeyGuard(_WITHOUT):
            host, named = pytree.tree_map(convert, (args, kwargs))
            return operator(*host, **named)

    return call


def install() -> None:
    """Let all operators pass under autocast, and those above choose their types."""
    _anything.fallback(torch.library.fallthrough_kernel, _KEY)
    for names, lower in ((LOWER, True), (SINGLE, False)):
        for name in names:
            packet, _, overload = name.partition(".")
            operator = getattr(getattr(torch.ops.aten, packet), overload or "default")
            _library.impl(name, _in_type(operator, lower), _KEY)
    _keep_scales_on_host()


def _keep_scales_on_host() -> None:
    """The scale of a `torch.amp.GradScaler`, which divides in float64, stays on the processor."""
    scaler = torch.amp.GradScaler
    begin = scaler._lazy_init_scale_growth_tracker

    def begin_on_host(self: torch.amp.GradScaler, device: torch.device) -> None:
        begin(self, torch.device("cpu") if device.type == "wgpu" else device)

    scaler._lazy_init_scale_growth_tracker = begin_on_host  # type: ignore[assignment, method-assign]
