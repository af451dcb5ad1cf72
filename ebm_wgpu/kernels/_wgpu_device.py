"""A GPU as a device: kernels run as WGSL through wgpu."""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ebm_wgpu.errors import DeviceError, KernelError
from ebm_wgpu.gpu.replay import Drawn, Field
from ebm_wgpu.kernels._kernel_device import DeviceArray, KernelDevice
from ebm_wgpu.kernels._rounds import LLVMPIPE_ROUNDS
from ebm_wgpu.kernels.registry import get_kernel
from ebm_wgpu.kernels.source import assemble, immediate_fields
from ebm_wgpu.kernels.spec import DTYPES, Array, Kernel, Scalar

UNCHECKED_VARIABLE = "EBM_WGPU_UNCHECKED"
"""Environment variable: 1 runs kernels that stay inside their arrays without wgpu's checks."""
_MAX_CALLS = 4096
_PACK = {"u32": "I", "i32": "i", "f32": "f", "u64": "Q"}


class _Dispatch(NamedTuple):
    """A kernel on arrays of given shapes and types, with all that their parameters leave open.

    Attributes:
        kernel: the declaration.
        pipeline: it, compiled.
        dims: value of every dimension.
        pack: makes the parameter block of the parameters, in their order.
        params: their names.
        groups: number of workgroups; None where parameters may change it, and the rounds of loops.
        block: the parameter block; None where there are parameters.
    """

    kernel: Kernel
    pipeline: Any
    dims: Mapping[str, int]
    pack: Callable[..., bytes]
    params: tuple[str, ...]
    groups: int | tuple[int, int, int] | None
    block: bytes | None


class _Call(NamedTuple):
    """What `WgpuDevice.run` remembers of a call with given shapes and types."""

    dispatch: _Dispatch
    arrays: tuple[str, ...]
    outputs: tuple[tuple[str, tuple[int, ...], str], ...]


@functools.cache
def _kernel_and_varying(stem: str) -> tuple[Kernel, tuple[str, ...]]:
    """The kernel, and the numbers of a call that its dimensions may depend on."""
    kernel = get_kernel(stem)
    if kernel.derive is None:
        return kernel, kernel.dims
    return kernel, (*kernel.dims, *(p.name for p in kernel.params if p.dtype in ("i32", "u32")))


def _drawn(dispatch: _Dispatch, params: Mapping[str, Scalar]) -> tuple[Field, ...]:
    """Where in the parameter block of a launch there are numbers that count random draws."""
    fields = []
    offset = 4 * len(dispatch.kernel.dims)
    for param in dispatch.kernel.params:
        size = struct.calcsize("<" + _PACK[param.dtype])
        value = params[param.name]
        if isinstance(value, Drawn):
            fields.append(Field(offset, size, value.per_draw))
        offset += size
    return tuple(fields)


def _wants_unchecked() -> bool:
    setting = os.environ.get(UNCHECKED_VARIABLE, "0")
    if setting not in ("0", "1"):
        raise DeviceError(f"{UNCHECKED_VARIABLE}={setting!r} must be 0, 1 or unset")
    return setting == "1"


class WgpuDevice(KernelDevice):
    """Runs the WGSL through wgpu.

    Attributes:
        runtime: adapter, memory and commands.
        subgroups: whether subgroup variants are used where a kernel has one.
        unchecked: whether kernels that stay inside their arrays run without wgpu's checks.
    """

    name = "wgpu"

    def __init__(
        self,
        backend: str | None = None,
        allow_software: bool = True,
        memory_budget: int | None = None,
    ) -> None:
        """Open the best adapter; arguments as for `GpuRuntime`.

        Raises:
            DeviceError: there is none, or EBM_WGPU_UNCHECKED is neither 0 nor 1.
        """
        from ebm_wgpu.gpu.runtime import GpuRuntime

        self.runtime = GpuRuntime(backend, allow_software, memory_budget)
        self.description = self.runtime.info.summary
        self.subgroups = "subgroup" in self.runtime.features
        self.unchecked = _wants_unchecked()
        self._limits_rounds = self.runtime.info.name.startswith("llvmpipe")
        self._plans: dict[tuple[str, tuple[str, ...], bool, bool], tuple[Any, struct.Struct]] = {}
        self._calls: dict[tuple[Any, ...], _Call] = {}
        self._bodies: dict[str, str] = {}

    @property
    def supports_half(self) -> bool:
        """Whether arrays can be stored as float16."""
        return "shader-f16" in self.runtime.features

    def replace_body(self, stem: str, body: str) -> None:
        """Run `body` instead of wgsl/<stem>.wgsl on this device, to try a variant of a kernel."""
        self._bodies[stem] = body
        self._plans = {key: plan for key, plan in self._plans.items() if key[0] != stem}
        self._calls.clear()

    def synchronize(self) -> None:
        """Submit what is recorded and wait for the device."""
        self.runtime.synchronize()

    def _upload(self, host: Array, dtype: str) -> DeviceArray:
        if dtype == "f16" and not self.supports_half:
            raise DeviceError(f"{self.description} cannot store float16 (no shader-f16); use f32")
        return DeviceArray(self, host.shape, dtype, self.runtime.upload(host))

    def _allocate(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        nbytes = int(np.prod(shape, dtype=np.int64)) * DTYPES[dtype].itemsize
        return DeviceArray(self, shape, dtype, self.runtime.pool.lease(nbytes))

    def _download(self, array: DeviceArray) -> Array:
        return self.runtime.read(array.storage, DTYPES[array.dtype], array.shape)

    def _overwrite(self, array: DeviceArray, host: Array) -> None:
        self.runtime.write(array.storage, host)

    def run(self, stem: str, **arguments: Any) -> dict[str, DeviceArray]:
        """As `KernelDevice.run`; the checks are remembered by shapes and types."""
        parts: list[Any] = [stem, self.subgroups, self.unchecked]
        for name, value in arguments.items():
            if isinstance(value, DeviceArray):
                if value._device is not self:
                    return super().run(stem, **arguments)
                parts += (name, value.shape, value.dtype)
            elif isinstance(value, (int, float)):
                parts.append(name)
            else:
                return super().run(stem, **arguments)
        kernel, varying = _kernel_and_varying(stem)
        parts += [arguments[name] for name in varying if name in arguments]
        key = tuple(parts)
        call = self._calls.get(key)
        if call is None:
            if len(self._calls) >= _MAX_CALLS:
                self._calls.clear()
            arrays, params, dims = self._bind(kernel, dict(arguments))
            call = self._calls[key] = _Call(
                self._settle(kernel, arrays, params, dims),
                tuple(b.name for b in kernel.bindings),
                tuple((b.name, arrays[b.name].shape, b.dtype) for b in kernel.outputs),
            )
        outputs = {
            name: arguments.get(name) or self._allocate(shape, dtype)
            for name, shape, dtype in call.outputs
        }
        arguments.update(outputs)
        self._record(call.dispatch, [arguments[name].storage for name in call.arrays], arguments)
        return outputs

    def _settle(
        self,
        kernel: Kernel,
        arrays: Mapping[str, DeviceArray],
        params: Mapping[str, Scalar],
        dims: Mapping[str, int],
    ) -> _Dispatch:
        """What checked arguments leave to be done at each launch.

        Raises:
            KernelError: too many rounds for the adapter.
        """
        dtypes = tuple(arrays[b.name].dtype for b in kernel.bindings)
        pipeline, packer = self.plan(kernel.stem, dtypes)
        pack = functools.partial(packer.pack, *[dims[name] for name in kernel.dims])
        # Only whole numbers decide how much there is to do.
        settled = all(p.dtype == "f32" for p in kernel.params)
        self._check_rounds(kernel, dims, params)
        return _Dispatch(
            kernel,
            pipeline,
            dims,
            pack,
            tuple(p.name for p in kernel.params),
            kernel.workgroups(dims, params) if settled else None,
            None if kernel.params else pack(),
        )

    def _record(
        self, dispatch: _Dispatch, storages: list[Any], params: Mapping[str, Scalar]
    ) -> None:
        """Record one dispatch.

        Raises:
            KernelError: too many rounds for the adapter.
        """
        block, groups = dispatch.block, dispatch.groups
        if groups is None:
            self._check_rounds(dispatch.kernel, dispatch.dims, params)
            groups = dispatch.kernel.workgroups(dispatch.dims, params)
        if block is None:
            block = dispatch.pack(*[params[name] for name in dispatch.params])
        drawn = _drawn(dispatch, params) if self.runtime.tracing else ()
        self.runtime.dispatch(dispatch.pipeline, storages, block, groups, drawn)

    def plan(self, stem: str, dtypes: tuple[str, ...]) -> tuple[Any, struct.Struct]:
        """The compiled kernel for arrays stored as `dtypes`, and the packer of its parameter block.

        For callers that know shapes and types to be right and record dispatches on `runtime`.
        """
        kernel = get_kernel(stem)
        subgroup = kernel.subgroup and self.subgroups
        unchecked = kernel.stays_inside and self.unchecked
        key = (kernel.stem, dtypes, subgroup, unchecked)
        plan = self._plans.get(key)
        if plan is None:
            storage = {
                b.name: kind
                for b, kind in zip(kernel.bindings, dtypes, strict=True)
                if kind != b.dtype
            }
            flags = frozenset({"SUBGROUP"} if subgroup else ())
            code = assemble(kernel, storage, flags, self._bodies.get(kernel.stem))
            packer = struct.Struct(
                "<" + "I" * len(kernel.dims) + "".join(_PACK[p.dtype] for p in kernel.params)
            )
            pipeline = self.runtime.pipeline(
                code,
                [b.access != "in" for b in kernel.bindings],
                4 * len(immediate_fields(kernel)),
                kernel.stem,
                checked=not unchecked,
            )
            plan = self._plans[key] = (pipeline, packer)
        return plan

    def _launcher(
        self,
        kernel: Kernel,
        arrays: Mapping[str, DeviceArray],
        params: Mapping[str, Scalar],
        dims: Mapping[str, int],
    ) -> Callable[[Mapping[str, Scalar]], None]:
        dispatch = self._settle(kernel, arrays, params, dims)
        storages = [arrays[b.name].storage for b in kernel.bindings]
        return functools.partial(self._record, dispatch, storages)

    def _check_rounds(
        self, kernel: Kernel, dims: Mapping[str, int], params: Mapping[str, Scalar]
    ) -> None:
        # Beyond the limit llvmpipe ends the loops early and returns wrong numbers without an error.
        if not self._limits_rounds or kernel.rounds is None:
            return
        rounds = kernel.rounds(dims, params)
        if rounds > LLVMPIPE_ROUNDS:
            raise KernelError(
                f"kernel {kernel.stem}: up to {rounds:,} loop rounds an invocation, but llvmpipe "
                f"stops at {LLVMPIPE_ROUNDS:,}; use a hardware GPU, --device numba, or a smaller "
                "problem"
            )
