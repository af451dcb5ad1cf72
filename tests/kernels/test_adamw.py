"""AdamW over several tensors against torch's, clipped on the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import DeviceArray, KernelDevice
from ebm_wgpu.kernels._many import NAMES
from ebm_wgpu.kernels.adamw import TENSORS, adamw_params
from ebm_wgpu.kernels.square_sums import PARTS

SIZES = (5000, 3, 64)
STEPS = 6


def _clip(device: KernelDevice, gradients: list[np.ndarray], max_norm: float) -> DeviceArray:
    arrays = {name: np.zeros(1, np.float32) for name in NAMES}
    arrays |= dict(zip(NAMES, gradients, strict=False))
    partials = device.empty((len(gradients), PARTS))
    device.run("square_sums", **arrays, partials=partials, first=0)
    flat = partials.numpy().reshape(-1)
    return device.run("clip_factor", partials=flat, max_norm=max_norm)["factor"]


@pytest.mark.parametrize("stem", ["adamw_plain", "adamw_master"])
def test_steps_are_those_of_torch(any_device: KernelDevice, stem: str) -> None:
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
        if stem == "adamw_master":
            arrays[f"copy{t}"] = any_device.empty((SIZES[t] if used else 1,), "f16")
        arrays[f"grad{t}"] = spare
    for step in range(1, STEPS + 1):
        gradients = [rng.standard_normal(size).astype(np.float32) for size in SIZES]
        for t, gradient in enumerate(gradients):
            truth[t].grad = torch.from_numpy(gradient).double()
            arrays[f"grad{t}"] = any_device.array(gradient)
        max_norm = 1.0 if step < STEPS else 1e6
        torch.nn.utils.clip_grad_norm_(truth, max_norm)
        optimizer.step()
        params = adamw_params(step, 0.02, (0.9, 0.95), weight_decay=0.1)
        scale = _clip(any_device, gradients, max_norm)
        any_device.run(stem, **arrays, scale=scale, **params)
    for t, right in enumerate(truth):
        exact = right.detach().numpy()
        weight = arrays[f"weight{t}"].numpy()
        np.testing.assert_allclose(weight, exact, rtol=1e-5, atol=2e-6)
        if stem == "adamw_master":
            np.testing.assert_array_equal(arrays[f"copy{t}"].numpy(), weight.astype(np.float16))


@pytest.mark.parametrize(("step", "betas"), [(0, (0.9, 0.999)), (1, (1.0, 0.999))])
def test_impossible_rates_are_refused(step: int, betas: tuple[float, float]) -> None:
    with pytest.raises(KernelError, match="step >= 1 and betas"):
        adamw_params(step, 1e-3, betas)


def test_sums_that_have_no_row_are_refused(any_device: KernelDevice) -> None:
    arrays = {name: np.zeros(9) for name in NAMES}
    with pytest.raises(KernelError, match="row 4 does not lie in an array of 4"):
        any_device.run("square_sums", **arrays, partials=np.zeros((4, 3)), first=4)
