"""What every device shares: arrays, checked arguments, launches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels.registry import get_kernel
from ebm_wgpu.kernels.spec import DTYPES, Array, Binding, Kernel, Scalar


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
                if "*" in binding.shape:
                    raise KernelError(f"kernel {kernel.stem}: array {binding.name!r} is missing")
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
        if value.dtype not in binding.storage:
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
        if axis == "*":
            continue
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
