"""The state of the random numbers: saved, restored, forked, seeded."""

from __future__ import annotations

import pytest
import torch

import ebm_wgpu.torch_device  # noqa: F401
from ebm_wgpu.errors import DeviceError


def test_states_are_saved_and_restored_apart_from_the_processor() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    saved = torch.wgpu.get_rng_state()
    first = torch.rand(9, device="wgpu").cpu()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    torch.wgpu.set_rng_state(saved)
    assert torch.equal(torch.rand(9, device="wgpu").cpu(), first)
    torch.wgpu.set_rng_state(saved)
    with torch.random.fork_rng(devices=[0], device_type="wgpu"):
        torch.rand(4, device="wgpu")
    assert torch.equal(torch.rand(9, device="wgpu").cpu(), first)
    with pytest.raises(DeviceError, match="16 bytes"):
        torch.wgpu.set_rng_state(torch.zeros(3, dtype=torch.uint8))


def test_a_generator_of_the_processor_gives_the_seed() -> None:
    draws = [
        torch.empty(8, device="wgpu").uniform_(generator=torch.Generator().manual_seed(seed)).cpu()
        for seed in (1, 1, 2)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
