"""Prove kernels: parity with float64, and gradients against central differences.

The case tables drive both. A device is under test in every variant it has: plain, subgroup, and
float16 storage for each binding that allows it. A case may draw an array in another type that its
binding can be stored in.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from ebm_wgpu.errors import EbmError
from ebm_wgpu.kernels.device import DeviceArray, KernelDevice, WgpuDevice
from ebm_wgpu.kernels.registry import get_kernel
from ebm_wgpu.kernels.spec import DTYPES, Array, Arrays, Case, Kernel, Scalar, Tolerance

_KINDS = {dtype: kind for kind, dtype in DTYPES.items()}
HALF_ROUNDING = (2.0**-24, 2.0**-10)
N_COORDINATES = 6
N_DIRECTIONS = 2


@dataclass(frozen=True)
class Verdict:
    """The outcome of one case on one variant of one device.

    Attributes:
        kernel: stem.
        case: name of the case.
        subject: what was compared, such as "wgpu", "wgpu subgroup", "numba" or "wgpu-numba".
        mode: "parity" or "gradient".
        error: largest absolute error over all outputs.
        excess: largest error as a share of the tolerance; at most 1 passes.
        tolerance: the tolerance of the worst output, in words.
        detail: the first offending output and index, or the error raised; empty where it passes.
    """

    kernel: str
    case: str
    subject: str
    mode: str
    error: float
    excess: float
    tolerance: str
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether every output lies within its tolerance."""
        return not self.detail and self.excess <= 1.0


@dataclass(frozen=True)
class Variant:
    """A way to run a kernel: with subgroups or not, checked or not, some arrays stored as f16."""

    label: str
    subgroups: bool = False
    unchecked: bool = False
    half: frozenset[str] = field(default_factory=frozenset)


def variants(kernel: Kernel, device: KernelDevice) -> list[Variant]:
    """All variants of a kernel that a device can run, the plain one first."""
    found = [Variant(device.name)]
    halves = frozenset(b.name for b in kernel.bindings if b.half)
    if isinstance(device, WgpuDevice):
        if kernel.subgroup and "subgroup" in device.runtime.features:
            found.append(Variant(f"{device.name} subgroup", subgroups=True))
        if kernel.stays_inside:
            found.append(Variant(f"{device.name} unchecked", unchecked=True))
        if halves and device.supports_half:
            found.append(Variant(f"{device.name} f16", half=halves))
    elif halves:
        found.append(Variant(f"{device.name} f16", half=halves))
    return found


def _case_inputs(kernel: Kernel, case: Case, half: frozenset[str]) -> Arrays:
    seed = zlib.crc32(f"{kernel.stem}/{case.name}".encode())
    inputs = case.inputs(np.random.default_rng(seed), case.dims)
    with np.errstate(over="ignore"):
        return {
            n: v.astype(np.float16) if n in half and v.dtype.kind == "f" else v
            for n, v in inputs.items()
        }


def _run(
    kernel: Kernel, device: KernelDevice, variant: Variant, arguments: Mapping[str, Array | Scalar]
) -> Arrays:
    staged: dict[str, DeviceArray | Scalar] = {}
    bindings = {b.name: b for b in kernel.bindings}
    for name, value in arguments.items():
        if isinstance(value, np.ndarray):
            kind = _KINDS.get(value.dtype)
            binding = bindings[name]
            staged[name] = device.array(value, kind if kind in binding.storage else binding.dtype)
        else:
            staged[name] = value
    dims = {n: v for n, v in arguments.items() if n in kernel.dims and isinstance(v, int)}
    for binding in kernel.outputs:
        if binding.access == "out" and binding.name in variant.half:
            shape = tuple(dims[a] if isinstance(a, str) else a for a in binding.shape)
            staged[binding.name] = device.empty(shape, "f16")
    if not isinstance(device, WgpuDevice):
        outputs = device.run(kernel.stem, **staged)
    else:
        before = device.subgroups, device.unchecked
        device.subgroups, device.unchecked = variant.subgroups, variant.unchecked
        try:
            outputs = device.run(kernel.stem, **staged)
        finally:
            device.subgroups, device.unchecked = before
    return {name: array.numpy().copy() for name, array in outputs.items()}


def _allowed(case: Case, output: str, half: bool) -> Tolerance:
    """The tolerance, and one unit in the last place of float16 where that is what is stored."""
    exact = case.tolerance_for(output)
    if not half:
        return exact
    atol, rtol = HALF_ROUNDING
    return Tolerance(exact.atol + atol, exact.rtol + rtol, f"{exact.reason}, stored as float16")


def _compare(
    kernel: Kernel, case: Case, subject: str, outputs: Arrays, truth: Arrays, slack: float = 1.0
) -> Verdict:
    worst_error, worst_excess, tolerance, detail = 0.0, 0.0, "", ""
    for name, expected in truth.items():
        actual = outputs[name]
        half = actual.dtype == np.float16
        allowed = _allowed(case, name, half)
        if half:
            with np.errstate(over="ignore"):
                expected = expected.astype(np.float16).astype(np.float64)
        if actual.shape != expected.shape:
            return Verdict(
                kernel.stem,
                case.name,
                subject,
                "parity",
                np.inf,
                np.inf,
                allowed.reason,
                f"{name} has shape {actual.shape}, expected {expected.shape}",
            )
        excess = allowed.excess(actual, expected) / slack
        if excess.size == 0:
            continue
        with np.errstate(invalid="ignore"):
            error = np.abs(actual.astype(np.float64) - expected)
        finite = error[np.isfinite(error)]
        worst_error = max(worst_error, float(finite.max(initial=0.0)))
        if excess.max() >= worst_excess:
            worst_excess = float(excess.max())
            tolerance = f"{slack * allowed.atol:.1e} + {slack * allowed.rtol:.1e}|ref|"
        if excess.max() > 1.0 and not detail:
            where = tuple(int(i) for i in np.argwhere(excess > 1.0)[0])
            detail = f"{name}{list(where)} is {actual[where]!r}, expected {expected[where]!r}"
    return Verdict(
        kernel.stem, case.name, subject, "parity", worst_error, worst_excess, tolerance, detail
    )


def _failure(kernel: Kernel, case: Case, subject: str, mode: str, error: Exception) -> Verdict:
    return Verdict(
        kernel.stem,
        case.name,
        subject,
        mode,
        np.inf,
        np.inf,
        "",
        f"{type(error).__name__}: {error}",
    )


def verify_parity(stem: str, devices: list[KernelDevice]) -> Iterator[Verdict]:
    """Each case on each variant of each device against float64, and devices against each other.

    Two devices that both lie within the tolerance lie within twice the tolerance of each other;
    that is what the device-to-device comparison demands.
    """
    kernel = get_kernel(stem)
    for case in kernel.cases:
        plain: dict[str, Arrays] = {}
        for device in devices:
            for variant in variants(kernel, device):
                inputs = _case_inputs(kernel, case, variant.half)
                try:
                    outputs = _run(kernel, device, variant, {**case.dims, **case.params, **inputs})
                except EbmError as error:
                    yield _failure(kernel, case, variant.label, "parity", error)
                    continue
                truth = kernel.reference_outputs(inputs, case.params, case.dims)
                if kernel.comparable is not None:
                    outputs = kernel.comparable(outputs, inputs, case.params)
                    truth = kernel.comparable(truth, inputs, case.params)
                yield _compare(kernel, case, variant.label, outputs, truth)
                if variant.label == device.name:
                    plain[device.name] = outputs
        if len(plain) == 2:
            (first, a), (second, b) = plain.items()
            b64 = {n: v.astype(np.float64) if v.dtype.kind == "f" else v for n, v in b.items()}
            yield _compare(kernel, case, f"{first}-{second}", a, b64, slack=2.0)


def _directions(
    rng: np.random.Generator, value: Array, tangent: bool
) -> Iterator[tuple[str, Array]]:
    for _ in range(N_DIRECTIONS):
        yield "a random direction", rng.standard_normal(value.shape)
    if tangent:
        return
    for flat in rng.choice(value.size, min(N_COORDINATES, value.size), replace=False):
        unit = np.zeros(value.size)
        unit[flat] = 1.0
        index = [int(i) for i in np.unravel_index(flat, value.shape)]
        yield f"{index}", unit.reshape(value.shape)


def _retract(x: Array, v: Array) -> Array:
    moved = x + v
    return moved / np.linalg.norm(moved, axis=-1, keepdims=True)


def verify_gradient(stem: str, devices: list[KernelDevice]) -> Iterator[Verdict]:
    """Vector-Jacobian products of each case against central differences of the float64 reference.

    Checked along random directions and single coordinates; along tangent directions for inputs that
    live on the sphere. Yields nothing for a kernel without a gradient.
    """
    kernel = get_kernel(stem)
    proof = kernel.gradient
    if proof is None:
        return
    for case in kernel.cases:
        if proof.cases and case.name not in proof.cases:
            continue
        rng = np.random.default_rng(zlib.crc32(f"gradient/{stem}/{case.name}".encode()))
        inputs = _case_inputs(kernel, case, frozenset())
        exact = {n: v.astype(np.float64) if v.dtype.kind == "f" else v for n, v in inputs.items()}
        truth = kernel.reference_outputs(inputs, case.params, case.dims)
        cotangents = {
            n: rng.standard_normal(truth[n].shape).astype(np.float32) for n in proof.outputs
        }

        def loss(changed: Arrays, case: Case = case, cotangents: Arrays = cotangents) -> float:
            outputs = kernel.reference_outputs(changed, case.params, case.dims)
            return float(sum(np.sum(cotangents[n] * outputs[n]) for n in cotangents))

        for device in devices:

            def run(
                name: str, /, device: KernelDevice = device, **arguments: Array | Scalar
            ) -> Arrays:
                return _run(get_kernel(name), device, Variant(device.name), arguments)

            try:
                gradients = proof.vjp(run, inputs, {**case.params, **case.dims}, cotangents)
            except EbmError as error:
                yield _failure(kernel, case, device.name, "gradient", error)
                continue
            worst_error, worst_excess, detail = 0.0, 0.0, ""
            for name in proof.wrt:
                gradient, value = gradients[name].astype(np.float64), exact[name]
                on_sphere = name in proof.tangent
                scale = float(np.abs(gradient).max(initial=0.0))
                for where, direction in _directions(rng, value, on_sphere):
                    if on_sphere:
                        direction -= np.sum(direction * value, -1, keepdims=True) * value
                    move = _retract if on_sphere else np.add
                    plus = loss({**exact, name: move(value, proof.step * direction)})
                    minus = loss({**exact, name: move(value, -proof.step * direction)})
                    expected = (plus - minus) / (2 * proof.step)
                    actual = float(np.sum(gradient * direction))
                    size = float(np.linalg.norm(direction))
                    allowed = proof.tolerance.atol * scale * size + proof.tolerance.rtol * abs(
                        expected
                    )
                    miss = abs(actual - expected)
                    excess = 0.0 if miss == 0 else miss / allowed if allowed else np.inf
                    excess = excess if np.isfinite(miss) else np.inf
                    worst_error = max(worst_error, miss)
                    worst_excess = max(worst_excess, excess)
                    if excess > 1.0 and not detail:
                        detail = f"d/d{name} along {where} is {actual:.7g}, expected {expected:.7g}"
            yield Verdict(
                stem,
                case.name,
                device.name,
                "gradient",
                worst_error,
                worst_excess,
                f"{proof.tolerance.atol:.1e} max|g| + {proof.tolerance.rtol:.1e}|ref|",
                detail,
            )
