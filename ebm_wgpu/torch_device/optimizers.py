"""Adam and AdamW with `fused=True`: a few tensors a dispatch, and nothing read back.

torch counts steps in tensors on the device, and the kernel takes the count as a number. So counts
that have been read once, all together, are followed on the host from then on (`foreach.known`); any
other change of such a tensor shows in its version, and it is read again. Under a
`torch.amp.GradScaler` a step also waits for the one number that says whether it is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ebm_wgpu.errors import DeviceError
from ebm_wgpu.kernels.adamw import TENSORS, adamw_params
from ebm_wgpu.kernels.device import DeviceArray
from ebm_wgpu.kernels.spec import Scalar
from ebm_wgpu.torch_device import state
from ebm_wgpu.torch_device.foreach import padded, values_of
from ebm_wgpu.torch_device.registration import implements
from ebm_wgpu.torch_device.tensors import as_array, constant, flat_array, is_bindable


def _staged(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as the kernel takes it: itself, or a float32 copy."""
    if tensor.dtype == torch.float32 and is_bindable(tensor):
        return tensor
    return tensor.detach().to(torch.float32).contiguous()


def _update(
    weights: Sequence[torch.Tensor],
    grads: Sequence[torch.Tensor],
    means: Sequence[torch.Tensor],
    squares: Sequence[torch.Tensor],
    scale: torch.Tensor,
    params: dict[str, Scalar],
) -> None:
    """One step of at most `TENSORS` tensors."""
    originals = {"weight": weights, "grad": grads, "mean": means, "square": squares}
    arrays: dict[str, DeviceArray] = {"scale": as_array(scale)}
    copied: list[tuple[torch.Tensor, torch.Tensor]] = []
    for name, tensors in originals.items():
        for t, tensor in enumerate(padded(tensors, TENSORS)):
            held = _staged(tensor)
            arrays[f"{name}{t}"] = flat_array(held)
            if held is not tensor and name != "grad":
                copied.append((tensor, held))
    state.device().run("adamw", **arrays, **params)
    for original, held in copied:
        original.copy_(held)


def _left_out(found_inf: torch.Tensor | None) -> bool:
    """Whether a scaler has found a gradient that is not finite; waits for the device."""
    return found_inf is not None and values_of([found_inf])[0] != 0.0


@implements("_fused_adamw_", "_fused_adamw_.tensor_lr")
def fused_adamw_(
    self: Sequence[torch.Tensor],
    grads: Sequence[torch.Tensor],
    exp_avgs: Sequence[torch.Tensor],
    exp_avg_sqs: Sequence[torch.Tensor],
    max_exp_avg_sqs: Sequence[torch.Tensor],
    state_steps: Sequence[torch.Tensor],
    *,
    lr: Any,
    beta1: float,
    beta2: float,
    weight_decay: float,
    eps: float,
    amsgrad: bool,
    maximize: bool,
    grad_scale: torch.Tensor | None = None,
    found_inf: torch.Tensor | None = None,
) -> None:
    """One step of AdamW on all tensors; see `kernels.adamw`.

    Raises:
        DeviceError: amsgrad, for which there is no kernel.
    """
    if amsgrad:
        raise DeviceError('fused AdamW on torch.device("wgpu") has no amsgrad: use fused=False')
    if _left_out(found_inf):
        return
    sign = -1.0 if maximize else 1.0
    scale = constant(sign, 1) if grad_scale is None else (sign / grad_scale).reshape(1)
    groups: dict[float, list[int]] = {}
    for index, count in enumerate(values_of(state_steps)):
        if self[index].numel():
            groups.setdefault(count, []).append(index)
    for count, members in groups.items():
        params = adamw_params(int(count), float(lr), (beta1, beta2), eps, weight_decay)
        for start in range(0, len(members), TENSORS):
            part = members[start : start + TENSORS]
            weights, slopes, means, squares = (
                [tensors[i] for i in part] for tensors in (self, grads, exp_avgs, exp_avg_sqs)
            )
            _update(weights, slopes, means, squares, scale, params)


@implements("_fused_adam_", "_fused_adam_.tensor_lr")
def fused_adam_(
    self: Sequence[torch.Tensor],
    grads: Sequence[torch.Tensor],
    *moments: Sequence[torch.Tensor],
    weight_decay: float,
    maximize: bool,
    grad_scale: torch.Tensor | None = None,
    found_inf: torch.Tensor | None = None,
    **options: Any,
) -> None:
    """One step of Adam on all tensors: the decay is part of the gradient.

    Raises:
        DeviceError: as `fused_adamw_`.
    """
    if _left_out(found_inf):
        return
    if weight_decay:
        sign = -1.0 if maximize else 1.0
        slopes = [grad.float() for grad in grads]
        if grad_scale is not None:
            # The decay belongs to the gradient of the loss itself, not of the scaled one.
            slopes, grad_scale = [slope / grad_scale for slope in slopes], None
        grads = [
            slope.add(weight, alpha=sign * weight_decay)
            for slope, weight in zip(slopes, self, strict=True)
        ]
    fused_adamw_(
        self,
        grads,
        *moments,
        weight_decay=0.0,
        maximize=maximize,
        grad_scale=grad_scale,
        **options,
    )
