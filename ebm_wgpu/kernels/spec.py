"""The declaration of a kernel: one record drives both devices, the WGSL header and all proofs.

A dimension is a name in a binding's shape; its value is read off the arrays, given by the caller,
or derived; "*" is an axis of any length that the kernel needs no name for. In WGSL every dimension
and parameter is a field of `params`, a binding `x` is an array `x` with an accessor `load_x(i)`
that returns its declared type whatever the storage type (and `store_x(i, value)` if it is written
and may be stored otherwise), and constants are `const`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Array = np.ndarray
Arrays = dict[str, Array]
Dims = Mapping[str, int]
Scalar = int | float
DTYPES: Mapping[str, np.dtype] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "i32": np.dtype(np.int32),
    "u32": np.dtype(np.uint32),
}


@dataclass(frozen=True)
class Binding:
    """One array of a kernel.

    Attributes:
        name: keyword of the call and name of the WGSL array.
        dtype: "f32", "i32" or "u32".
        shape: one entry an axis, a dimension's name or a number.
        access: "in", "out" (allocated by the call) or "inout" (updated in place).
        half: the array may also be stored as float16 (the f16-storage variant).
        also: further types the array may be stored in; the accessors convert.
        lanes: 4 makes the WGSL array one of vec4s, which the accessors count; the kernel's `derive`
            sees to it that rows hold whole ones.
    """

    name: str
    dtype: Literal["f32", "i32", "u32"]
    shape: tuple[str | int, ...]
    access: Literal["in", "out", "inout"] = "in"
    half: bool = False
    also: tuple[Literal["f32", "i32", "u32"], ...] = ()
    lanes: Literal[1, 4] = 1

    @functools.cached_property
    def storage(self) -> frozenset[str]:
        """Types the array may be stored in."""
        return frozenset({self.dtype, *self.also, *(("f16",) if self.half else ())})


@dataclass(frozen=True)
class Param:
    """One scalar; "u64" arrives in WGSL as `<name>_lo` and `<name>_hi`."""

    name: str
    dtype: Literal["f32", "i32", "u32", "u64"]


@dataclass(frozen=True)
class Tolerance:
    """|value - reference| <= atol + rtol * |reference|, and why that much is right."""

    atol: float
    rtol: float
    reason: str

    def excess(self, value: Array, reference: Array) -> Array:
        """|value - reference| / (atol + rtol |reference|): <= 1 where it holds, inf for NaN."""
        value64 = np.asarray(value, np.float64)
        reference64 = np.asarray(reference, np.float64)
        same = (value64 == reference64) | (np.isnan(value64) & np.isnan(reference64))
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.abs(value64 - reference64)
            allowed = self.atol + self.rtol * np.abs(reference64)
            ratio = np.where(same, 0.0, error / allowed)
        return np.where(np.isnan(ratio), np.inf, ratio)


EXACT = Tolerance(0.0, 0.0, "integers or copies: nothing is rounded")


@dataclass(frozen=True)
class Case:
    """One proof: shapes, parameters, how inputs are drawn, and the tolerance for each output.

    Attributes:
        name: says what is special about it.
        dims: value of every dimension.
        inputs: (generator, dims) -> one array for each "in" and "inout" binding.
        tolerance: one for all outputs, or one by output name.
        params: value of every parameter.
    """

    name: str
    dims: Dims
    inputs: Callable[[np.random.Generator, Dims], Arrays]
    tolerance: Tolerance | Mapping[str, Tolerance]
    params: Mapping[str, Scalar] = field(default_factory=dict)

    def tolerance_for(self, output: str) -> Tolerance:
        """The tolerance that holds for one output."""
        return self.tolerance if isinstance(self.tolerance, Tolerance) else self.tolerance[output]


Run = Callable[..., Arrays]


@dataclass(frozen=True)
class Gradient:
    """How to prove a backward kernel: its vector-Jacobian product against central differences.

    Attributes:
        wrt: inputs that have a gradient.
        vjp: (run, inputs, params, cotangents) -> gradient for each name in `wrt`, where
            `run(stem, **arrays)` executes any kernel on the device under test and returns host
            arrays, and `cotangents` holds dL/d(output) for each differentiable output.
        outputs: the differentiable outputs.
        tolerance: relative to the largest entry of the gradient (atol) and to the entry (rtol).
        tangent: name of an input on the sphere: differences are taken along tangent directions.
        step: size of the central difference in float64.
        cases: names of the cases to take, where some have no derivative or are not of order one;
            none named means all.
    """

    wrt: tuple[str, ...]
    vjp: Callable[[Run, Arrays, Mapping[str, Scalar], Arrays], Arrays]
    outputs: tuple[str, ...]
    tolerance: Tolerance
    tangent: tuple[str, ...] = ()
    step: float = 1e-5
    cases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Work:
    """Cost of one call: floating-point operations and bytes that must cross the memory bus."""

    flops: float
    nbytes: float


@dataclass(frozen=True)
class Kernel:
    """Everything there is to know about a kernel but its WGSL.

    Attributes:
        stem: name of the call; of wgsl/<stem>.wgsl and of this module too, but in a family.
        bindings: in the order of the WGSL bindings.
        workgroups: (dims, params) -> number of workgroups, or (x, y, z).
        mirror: Numba implementation; takes by keyword those bindings, parameters and dimensions it
            names, and writes its outputs in place. Half-stored arrays arrive widened to float32.
        reference: float64 NumPy implementation; takes keywords likewise (inputs as float64 or
            integers) and returns the outputs by name.
        cases: the proofs. Shapes with odd sizes and edge values belong here.
        params: scalars, after the dimensions in the immediate block.
        constants: WGSL constants; `WG`, the workgroup size, is among them.
        source: for a member of a family, the stem of the WGSL and module they share.
        defines: for a member of a family, the text that replaces each `$NAME` in the WGSL; the
            names are flags of `//!if` as well.
        subgroup: the WGSL uses `lib/reduce` and so has a subgroup variant.
        stays_inside: no invocation ever reads or writes outside an array, those of the workgroup
            included, so that the WGSL may do without wgpu's checks.
        rounds: (dims, params) -> an upper bound on how often all loops of one invocation together
            go round (see `_rounds`); None where that does not grow with a dimension.
        derive: (dims, params) -> dimensions that follow from others; raises KernelError on shapes
            that do not fit together.
        comparable: (outputs, inputs, params) -> outputs in a form that can be compared, where
            equally right results may differ (ties, order).
        gradient: the proof of its backward kernel, if it has one.
        work: dims -> cost, for speed mode.
        speed_case: shapes for speed mode on hardware; `cases[0]` supplies inputs and parameters.
    """

    stem: str
    bindings: tuple[Binding, ...]
    workgroups: Callable[[Dims, Mapping[str, Scalar]], int | tuple[int, int, int]]
    mirror: Callable[..., None]
    reference: Callable[..., Arrays]
    cases: tuple[Case, ...]
    params: tuple[Param, ...] = ()
    constants: Mapping[str, int] = field(default_factory=lambda: {"WG": 64})
    subgroup: bool = False
    stays_inside: bool = False
    rounds: Callable[[Dims, Mapping[str, Scalar]], int] | None = None
    derive: Callable[[dict[str, int], Mapping[str, Scalar]], dict[str, int]] | None = None
    comparable: Callable[[Arrays, Arrays, Mapping[str, Scalar]], Arrays] | None = None
    gradient: Gradient | None = None
    work: Callable[[Dims], Work] | None = None
    speed_case: Dims | None = None
    source: str | None = None
    defines: Mapping[str, str] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[Binding, ...]:
        """Bindings the caller supplies."""
        return tuple(b for b in self.bindings if b.access != "out")

    @property
    def outputs(self) -> tuple[Binding, ...]:
        """Bindings the kernel writes."""
        return tuple(b for b in self.bindings if b.access != "in")

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the dimensions in order of appearance, each once."""
        names = (axis for b in self.bindings for axis in b.shape if isinstance(axis, str))
        names = (name for name in names if name != "*")
        return tuple(dict.fromkeys(names))

    def reference_outputs(
        self, inputs: Arrays, params: Mapping[str, Scalar], dims: Dims
    ) -> dict[str, Any]:
        """The float64 reference's outputs for the given inputs."""
        widened = {
            name: value.astype(np.float64) if value.dtype.kind == "f" else value
            for name, value in inputs.items()
        }
        return call_by_name(self.reference, {**dims, **params, **widened})


def call_by_name(function: Callable[..., Any], available: Mapping[str, Any]) -> Any:
    """Call `function` with those of the available values that its signature names."""
    return function(**{n: available[n] for n in _parameter_names(function) if n in available})


@functools.cache
def _parameter_names(function: Callable[..., Any]) -> tuple[str, ...]:
    # Inspecting takes longer than a small kernel.
    return tuple(inspect.signature(function).parameters)
