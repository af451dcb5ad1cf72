"""Run kernels by name on wgpu or on Numba, with the same arguments and the same results."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ebm_wgpu.errors import DeviceError, KernelError
from ebm_wgpu.kernels._rounds import LLVMPIPE_ROUNDS
from ebm_wgpu.kernels.registry import get_kernel
from ebm_wgpu.kernels.source import assemble, immediate_fields
from ebm_wgpu.kernels.spec import DTYPES, Array, Binding, Kernel, Scalar, call_by_name


class DeviceArray:
    """An array that lives on a device.

    Attributes:
        shape: sizes of the axes.
        dtype: "f32", "f16", "i32" or "u32".
        storage: the device's own handle.
    """

    __slots__ = ("_device", "dtype", "shape", "storage")

    def __init__(
        self, device: KernelDevice, shape: tuple[int, ...], dtype: str, storage: Any
    ) -> None:
        self._device = device
        self.shape = shape
        self.dtype = dtype
        self.storage = storage

    def numpy(self) -> Array:
        """The values on the host; waits for the device. On Numba this is the array itself."""
        return self._device._download(self)

    def write(self, values: Array) -> None:
        """Overwrite all values; the shape must agree.

        Raises:
            KernelError: the shape differs.
        """
        host = np.ascontiguousarray(values, DTYPES[self.dtype])
        if host.shape != self.shape:
            raise KernelError(
                f"cannot write shape {host.shape} into an array of shape {self.shape}"
            )
        self._device._overwrite(self, host)


class Launch:
    """A kernel bound to its arrays; each call runs it once more.

    Attributes:
        outputs: the "out" and "inout" arrays by name.
    """

    __slots__ = ("_params", "_start", "outputs")

    def __init__(
        self,
        start: Callable[[Mapping[str, Scalar]], None],
        params: dict[str, Scalar],
        outputs: dict[str, DeviceArray],
    ) -> None:
        self._start = start
        self._params = params
        self.outputs = outputs

    def __call__(self, **changed: Scalar) -> None:
        """Run the kernel, with some parameters changed from here on.

        Raises:
            KernelError: a name that is no parameter of the kernel.
        """
        if changed:
            unknown = changed.keys() - self._params.keys()
            if unknown:
                raise KernelError(f"a launch has no parameter {min(unknown)!r}")
            self._params.update(changed)
        self._start(self._params)


class KernelDevice(ABC):
    """A place where kernels run.

    Attributes:
        name: "wgpu" or "numba".
        description: one line for people.
    """

    name: str
    description: str

    def array(self, values: Any, dtype: str = "f32") -> DeviceArray:
        """Put values on the device as `dtype`; the device owns its copy."""
        host = np.array(values, DTYPES[dtype], order="C")
        return self._upload(host, dtype)

    def empty(self, shape: tuple[int, ...], dtype: str = "f32") -> DeviceArray:
        """An array with undefined contents."""
        return self._allocate(tuple(shape), dtype)

    def run(self, stem: str, **arguments: Any) -> dict[str, DeviceArray]:
        """Run a kernel.

        Args:
            stem: name of the kernel.
            **arguments: an array for each "in" and "inout" binding (DeviceArray of this device, or
                anything NumPy takes), a number for each parameter, and a number for each dimension
                that shapes do not tell. An "out" array may be given to be reused. "inout" device
                arrays are updated in place; host arrays never are.

        Returns:
            The "out" and "inout" arrays by name.

        Raises:
            KernelError: a missing, unknown or misshapen argument.
        """
        launch = self.prepare(stem, **arguments)
        launch()
        return launch.outputs

    def prepare(self, stem: str, **arguments: Any) -> Launch:
        """Check and bind the arguments of `run` once, to launch many times at little cost.

        Raises:
            KernelError: as `run`.
        """
        kernel = get_kernel(stem)
        arrays, params, dims = self._bind(kernel, arguments)
        outputs = {b.name: arrays[b.name] for b in kernel.outputs}
        return Launch(self._launcher(kernel, arrays, params, dims), params, outputs)

    def _bind(
        self, kernel: Kernel, arguments: dict[str, Any]
    ) -> tuple[dict[str, DeviceArray], dict[str, Scalar], dict[str, int]]:
        arrays: dict[str, DeviceArray] = {}
        dims: dict[str, int] = {}
        for binding in kernel.bindings:
            value = arguments.pop(binding.name, None)
            if value is None:
                if binding.access != "out":
                    raise KernelError(f"kernel {kernel.stem}: array {binding.name!r} is missing")
                continue
            array = self._adopt(kernel, binding, value)
            arrays[binding.name] = array
            _match_shape(kernel, binding, array.shape, dims)
        params: dict[str, Scalar] = {}
        for param in kernel.params:
            if param.name not in arguments:
                raise KernelError(f"kernel {kernel.stem}: parameter {param.name!r} is missing")
            params[param.name] = arguments.pop(param.name)
        for name, value in arguments.items():
            if name not in kernel.dims:
                raise KernelError(f"kernel {kernel.stem} has no argument {name!r}")
            if dims.setdefault(name, int(value)) != value:
                raise KernelError(
                    f"kernel {kernel.stem}: {name}={value} contradicts {name}={dims[name]}"
                )
        if kernel.derive is not None:
            dims.update(kernel.derive(dims, params))
        missing = [name for name in kernel.dims if name not in dims]
        if missing:
            raise KernelError(f"kernel {kernel.stem}: dimension {missing[0]!r} is not determined")
        for binding in kernel.outputs:
            if binding.name not in arrays:
                shape = tuple(dims[a] if isinstance(a, str) else a for a in binding.shape)
                arrays[binding.name] = self._allocate(shape, binding.dtype)
        return arrays, params, dims

    def _adopt(self, kernel: Kernel, binding: Binding, value: Any) -> DeviceArray:
        if not isinstance(value, DeviceArray):
            host = np.asarray(value)
            if host.dtype.kind == "f" and binding.dtype != "f32":
                raise KernelError(
                    f"kernel {kernel.stem}: {binding.name!r} must hold integers, not {host.dtype}"
                )
            return self._stage(host, binding)
        if value._device is not self:
            raise KernelError(
                f"kernel {kernel.stem}: array {binding.name!r} lives on another device"
            )
        if value.dtype != binding.dtype and not (binding.half and value.dtype == "f16"):
            raise KernelError(
                f"kernel {kernel.stem}: {binding.name!r} is {value.dtype}, not {binding.dtype}"
            )
        return value

    def _stage(self, host: Array, binding: Binding) -> DeviceArray:
        return self.array(host, binding.dtype)

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until all work asked for is done."""

    @abstractmethod
    def _upload(self, host: Array, dtype: str) -> DeviceArray: ...

    @abstractmethod
    def _allocate(self, shape: tuple[int, ...], dtype: str) -> DeviceArray: ...

    @abstractmethod
    def _download(self, array: DeviceArray) -> Array: ...

    @abstractmethod
    def _overwrite(self, array: DeviceArray, host: Array) -> None: ...

    @abstractmethod
    def _launcher(
        self,
        kernel: Kernel,
        arrays: Mapping[str, DeviceArray],
        params: Mapping[str, Scalar],
        dims: Mapping[str, int],
    ) -> Callable[[Mapping[str, Scalar]], None]: ...


def _match_shape(
    kernel: Kernel, binding: Binding, shape: tuple[int, ...], dims: dict[str, int]
) -> None:
    known = dict(dims)
    fits = len(shape) == len(binding.shape)
    for axis, size in zip(binding.shape, shape, strict=False):
        expected = dims.setdefault(axis, size) if isinstance(axis, str) else axis
        fits = fits and size == expected
    if not fits:
        wanted = ", ".join(
            f"{axis}={known[axis]}" if isinstance(axis, str) and axis in known else str(axis)
            for axis in binding.shape
        )
        raise KernelError(
            f"kernel {kernel.stem}: array {binding.name!r} has shape {shape}, expected ({wanted})"
        )


class NumbaDevice(KernelDevice):
    """Runs the Numba mirrors on the processor."""

    name = "numba"

    def __init__(self) -> None:
        """Numba itself is loaded with the first kernel."""
        import os

        self.description = f"Numba on {os.cpu_count()} processor cores"

    def synchronize(self) -> None:
        """Nothing to wait for: mirrors finish before they return."""

    def _upload(self, host: Array, dtype: str) -> DeviceArray:
        return DeviceArray(self, host.shape, dtype, host)

    def _allocate(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        return DeviceArray(self, shape, dtype, np.empty(shape, DTYPES[dtype]))

    def _stage(self, host: Array, binding: Binding) -> DeviceArray:
        # A mirror never writes an "in" array, so a contiguous one needs no copy.
        if binding.access == "in":
            host = np.ascontiguousarray(host, DTYPES[binding.dtype])
            return self._upload(host, binding.dtype)
        return super()._stage(host, binding)

    def _download(self, array: DeviceArray) -> Array:
        return array.storage

    def _overwrite(self, array: DeviceArray, host: Array) -> None:
        array.storage[...] = host

    def _launcher(
        self,
        kernel: Kernel,
        arrays: Mapping[str, DeviceArray],
        params: Mapping[str, Scalar],
        dims: Mapping[str, int],
    ) -> Callable[[Mapping[str, Scalar]], None]:
        def start(current: Mapping[str, Scalar]) -> None:
            hosts = {
                name: array.storage.astype(np.float32) if array.dtype == "f16" else array.storage
                for name, array in arrays.items()
            }
            call_by_name(kernel.mirror, {**dims, **current, **hosts})

        return start


_PACK = {"u32": "I", "i32": "i", "f32": "f", "u64": "Q"}


class WgpuDevice(KernelDevice):
    """Runs the WGSL through wgpu.

    Attributes:
        runtime: adapter, memory and commands.
        subgroups: whether subgroup variants are used where a kernel has one.
    """

    name = "wgpu"

    def __init__(self, backend: str | None = None, allow_software: bool = True) -> None:
        """Open the best adapter.

        Raises:
            DeviceError: there is none.
        """
        from ebm_wgpu.gpu.runtime import GpuRuntime

        self.runtime = GpuRuntime(backend, allow_software)
        self.description = self.runtime.info.summary
        self.subgroups = "subgroup" in self.runtime.features
        self._limits_rounds = self.runtime.info.name.startswith("llvmpipe")
        self._plans: dict[tuple[str, tuple[str, ...], bool], tuple[Any, struct.Struct]] = {}
        self._bodies: dict[str, str] = {}

    @property
    def supports_half(self) -> bool:
        """Whether arrays can be stored as float16."""
        return "shader-f16" in self.runtime.features

    def replace_body(self, stem: str, body: str) -> None:
        """Run `body` instead of wgsl/<stem>.wgsl on this device, to try a variant of a kernel."""
        self._bodies[stem] = body
        self._plans = {key: plan for key, plan in self._plans.items() if key[0] != stem}

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

    def _plan(self, kernel: Kernel, arrays: Mapping[str, DeviceArray]) -> tuple[Any, struct.Struct]:
        dtypes = tuple(arrays[b.name].dtype for b in kernel.bindings)
        subgroup = kernel.subgroup and self.subgroups
        key = (kernel.stem, dtypes, subgroup)
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
        self._check_rounds(kernel, dims, params)
        pipeline, packer = self._plan(kernel, arrays)
        sizes = [dims[name] for name in kernel.dims]
        names = [p.name for p in kernel.params]
        buffers = [arrays[b.name].storage for b in kernel.bindings]
        groups = kernel.workgroups(dims, params)
        dispatch = self.runtime.dispatch

        def start(current: Mapping[str, Scalar]) -> None:
            self._check_rounds(kernel, dims, current)
            block = packer.pack(*sizes, *[current[name] for name in names])
            dispatch(pipeline, buffers, block, groups)

        return start

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


def _open_auto() -> KernelDevice:
    try:
        return WgpuDevice(allow_software=False)
    except DeviceError:
        return NumbaDevice()


_OPENERS: Mapping[str, Callable[[], KernelDevice]] = {
    "auto": _open_auto,
    "wgpu": WgpuDevice,
    "vulkan": lambda: WgpuDevice(backend="Vulkan"),
    "numba": NumbaDevice,
    "cpu": NumbaDevice,
}
DEVICE_NAMES = tuple(_OPENERS)


def open_device(name: str = "auto") -> KernelDevice:
    """Open a device to run kernels on.

    Args:
        name: "auto" takes a hardware adapter if there is one and Numba otherwise; "wgpu" any
            adapter, software ones too; "vulkan" the same on Vulkan; "numba" or "cpu" the mirrors.

    Raises:
        DeviceError: unknown name, or no adapter where one was asked for.
    """
    opener = _OPENERS.get(name)
    if opener is None:
        raise DeviceError(f"unknown device {name!r}; choose one of {', '.join(DEVICE_NAMES)}")
    return opener()
