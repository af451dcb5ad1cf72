"""Registration of the device "wgpu" with torch, and the module torch.wgpu."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

from ebm_wgpu.errors import DeviceError
from ebm_wgpu.torch_device import generator, state

NAME = "wgpu"


class WgpuModule(_DummyBackendModule):
    """What stands at torch.wgpu: one device, in-order, no streams."""

    _initialized = True
    """torch.utils.checkpoint saves the random state of devices that say so."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Types that torch.autocast("wgpu") may choose."""
        return [torch.float16]

    @contextlib.contextmanager
    def device(self, *_: Any) -> Iterator[None]:
        """There is one device, so that nothing is to be chosen."""
        yield

    def set_device(self, _: Any) -> None:
        """There is one device, so that nothing is to be chosen."""

    def synchronize(self, *_: Any) -> None:
        """Wait until the device has run everything asked of it."""
        state.synchronize()

    def memory_allocated(self, *_: Any) -> int:
        """Bytes in use by tensors."""
        return state.device().runtime.pool.live_bytes if state.is_open() else 0

    def max_memory_allocated(self, *_: Any) -> int:
        """Most bytes in use by tensors at once since `reset_peak_memory_stats`."""
        return state.device().runtime.pool.peak_bytes if state.is_open() else 0

    def memory_reserved(self, *_: Any) -> int:
        """Bytes of all device buffers, those that wait for reuse too."""
        return state.device().runtime.pool.allocated_bytes if state.is_open() else 0

    def reset_peak_memory_stats(self, *_: Any) -> None:
        """Begin a new measurement of `max_memory_allocated`."""
        if state.is_open():
            state.device().runtime.pool.reset_peak()

    def empty_cache(self) -> None:
        """Give memory that waits for reuse back to the driver."""
        if state.is_open():
            state.device().runtime.trim()

    def manual_seed(self, seed: int) -> None:
        """Begin the stream of random numbers of a seed."""
        generator.seed_all(int(seed))

    def manual_seed_all(self, seed: int) -> None:
        """The same; torch.manual_seed calls it."""
        generator.seed_all(int(seed))

    def get_rng_state(self, device: Any = NAME) -> torch.Tensor:
        """Where the stream of random numbers stands."""
        return generator.state()

    def set_rng_state(self, new_state: torch.Tensor, device: Any = NAME) -> None:
        """Continue the stream of random numbers where a saved state stands."""
        generator.set_state(new_state)

    def _is_in_bad_fork(self) -> bool:
        """torch.manual_seed asks for it."""
        return False

    def _lazy_init(self) -> None:
        """torch.utils.checkpoint asks for it."""


def register() -> None:
    """Make torch.device("wgpu") known.

    Raises:
        DeviceError: another package has claimed torch's slot for a private device.
    """
    claimed = torch._C._get_privateuse1_backend_name()
    if claimed not in ("privateuseone", NAME):
        raise DeviceError(
            f'torch has one slot for a private device, and "{claimed}" holds it: import '
            "ebm_wgpu.torch_device in a process of its own"
        )
    _setup_privateuseone_for_python_backend(NAME, backend_module=WgpuModule())
    # Without it Module.to() copies parameters and so unties those that are shared.
    torch.__future__.set_swap_module_params_on_conversion(True)
    _keep_attributes()
    # The fused operators of modules in evaluation mode exist for some devices only.
    torch.backends.mha.set_fastpath_enabled(False)
    _print_from_host()


def _keep_attributes() -> None:
    """Parameters keep their Python attributes where modules are moved or loaded by swapping."""
    swap = torch.utils.swap_tensors

    def swap_values(first: torch.Tensor, second: torch.Tensor) -> None:
        attributes = dict(vars(first))
        swap(first, second)
        vars(first).update(attributes)

    torch.utils.swap_tensors = swap_values


def _print_from_host() -> None:
    """repr() of a tensor formats a copy on the processor, as torch does for its lazy devices."""
    module = torch._tensor_str
    format_values = module._tensor_str

    def formatted(self: torch.Tensor, indent: int) -> str:
        return str(format_values(self.cpu() if self.device.type == NAME else self, indent))

    module._tensor_str = formatted
