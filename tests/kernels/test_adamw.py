"""AdamW over several tensors against torch's, with gradients that are scaled."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import DeviceArray, KernelDevice
from ebm_wgpu.kernels.adamw import TENSORS, adamw_params

SIZES = (5000, 3, 64)
STEPS = 6


def test_steps_are_those_of_torch(any_device: KernelDevice) -> None:
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(size).astype(np.float32) for size in SIZES]
    truth = [torch.from_numpy(w.copy()).double().requires_grad_() for w in start]
    optimizer = torch.optim.AdamW(truth, lr=0.02, betas=(0.9, 0.95), weight_decay=0.1)

    spare = any_device.array(np.zeros(1))
    arrays: dict[str, DeviceArray] = {}
    for t in range(TENSORS):
        used = t < len(SIZES)
        for name in ("weight", "mean", "square"):
            values = start[t] if used and name == "weight" else np.zeros(SIZES[t] if used else 1)
            arrays[f"{name}{t}"] = any_device.array(values)
        arrays[f"grad{t}"] = spare
    for step in range(1, STEPS + 1):
        gradients = [rng.standard_normal(size).astype(np.float32) for size in SIZES]
        for t, gradient in enumerate(gradients):
            truth[t].grad = torch.from_numpy(gradient).double() / step
            arrays[f"grad{t}"] = any_device.array(gradient)
        optimizer.step()
        scale = any_device.array(np.array([1 / step]))
        params = adamw_params(step, 0.02, (0.9, 0.95), weight_decay=0.1)
        any_device.run("adamw", **arrays, scale=scale, **params)
    for t, right in enumerate(truth):
        exact = right.detach().numpy()
        weight = arrays[f"weight{t}"].numpy()
        np.testing.assert_allclose(weight, exact, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(("step", "betas"), [(0, (0.9, 0.999)), (1, (1.0, 0.999))])
def test_impossible_rates_are_refused(step: int, betas: tuple[float, float]) -> None:
    with pytest.raises(KernelError, match="step >= 1 and betas"):
        adamw_params(step, 1e-3, betas)
