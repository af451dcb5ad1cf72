"""Matrix products on a device: the kernel, tile and splits that suit the shape.

Many kernels make the same product (`_matmul`): tiles of several sizes, strips for few rows, and a
depth split over workgroups where the output alone would leave a GPU idle. Which is fastest depends
on the adapter and is measured once for each class of shapes (`autotune`). Different kernels add in
different orders, so results agree to rounding only from one choice to the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from ebm_wgpu.errors import DeviceError, KernelError
from ebm_wgpu.kernels._activation import activation_number
from ebm_wgpu.kernels._matmul import check_shapes
from ebm_wgpu.kernels.autotune import Autotuner, tuner_of
from ebm_wgpu.kernels.device import DeviceArray, KernelDevice, WgpuDevice
from ebm_wgpu.kernels.matmul_rows import ROWS, rows_stem, strip_width
from ebm_wgpu.kernels.matmul_tiled import TILES, tile_constants, tiled_stem
from ebm_wgpu.kernels.spec import Scalar

_INVOCATIONS = 32_768
_MOST_SPLITS = 32
_SHORTEST_SHARE = 256
_MOST_CANDIDATES = 6
_REPEATS = 3
_TRIAL_FLOPS = 1e10
_MOST_LAUNCHES = 8
_NO_ENDING: Mapping[str, Any] = {"alpha": 1.0, "activation": 0, "accumulate": 0}
_SPEED: Mapping[tuple[int, int], float] = {
    (32, 32): 0.5,
    (64, 64): 0.8,
    (128, 64): 0.9,
    (128, 128): 1.0,
}


class Shape(NamedTuple):
    """A product: `batch` times op(a) (m, k) by op(b) (k, n), how it is stored, and how read."""

    batch: int
    m: int
    n: int
    k: int
    trans_a: bool
    trans_b: bool
    lanes: int
    kinds: str

    @property
    def key(self) -> str:
        """Name of its class: sizes up to the next power of two."""
        sizes = (1 << max(size - 1, 0).bit_length() for size in self[:4])
        ways = "".join("t" if flag else "n" for flag in self[4:6])
        return f"product {'x'.join(map(str, sizes))} {ways} {self.lanes} {self.kinds}"


class Plan(NamedTuple):
    """A kernel and the number of shares of the depth."""

    stem: str
    splits: int

    @property
    def label(self) -> str:
        """Name in the tuner's file."""
        return f"{self.stem} / {self.splits}"


@dataclass
class _State:
    """What is remembered of a device; nothing here holds on to the device itself."""

    tuner: Autotuner
    no_bias: Any
    plans: dict[Shape, Plan] = field(default_factory=dict)


_STATES: WeakKeyDictionary[KernelDevice, _State] = WeakKeyDictionary()


def _state_of(device: KernelDevice) -> _State:
    state = _STATES.get(device)
    if state is None:
        state = _STATES[device] = _State(tuner_of(device), device.empty((0,)).storage)
    return state


def _splits(groups: int, invocations: int, k: int) -> int:
    wanted = _INVOCATIONS // max(groups * invocations, 1)
    return max(1, min(wanted, k // _SHORTEST_SHARE, _MOST_SPLITS))


def _tiled_plans(shape: Shape) -> list[tuple[float, Plan]]:
    """Plans with tiles and their costs: rounds over the whole GPU, times work of an invocation."""
    plans = []
    for tile_m, tile_n in TILES[shape.lanes]:
        workgroup = tile_constants(tile_m, tile_n)["WG"]
        groups = shape.batch * -(-shape.m // tile_m) * -(-shape.n // tile_n)
        for splits in sorted({1, _splits(groups, workgroup, shape.k)}):
            rounds = math.ceil(groups * splits * workgroup / _INVOCATIONS)
            each = tile_m * tile_n / workgroup * (shape.k / splits) / _SPEED[tile_m, tile_n]
            joining = 2.0 * splits * shape.batch * shape.m * shape.n / _INVOCATIONS
            cost = rounds * each + (joining if splits > 1 else 0.0)
            plans.append((cost, Plan(tiled_stem(tile_m, tile_n, shape.lanes), splits)))
    return sorted(plans)


def _rows_plans(shape: Shape) -> list[Plan]:
    rows = next((rows for rows in ROWS if rows >= shape.m), ROWS[-1])
    strips = -(-shape.n // strip_width(shape.trans_b))
    groups = shape.batch * strips * -(-shape.m // rows)
    splits = _splits(groups, 64, shape.k)
    return [Plan(rows_stem(rows, shape.lanes), n) for n in sorted({1, splits}, reverse=True)]


def candidates(shape: Shape) -> list[Plan]:
    """Plans worth timing on a hardware GPU, the best guess first."""
    tiled = [plan for _, plan in _tiled_plans(shape)]
    if shape.m <= ROWS[-1]:
        return [*_rows_plans(shape), *tiled[:2]]
    if shape.m <= 2 * ROWS[-1]:
        return [*tiled[: _MOST_CANDIDATES - 1], _rows_plans(shape)[0]]
    return tiled[:_MOST_CANDIDATES]


def _fixed_plan(shape: Shape) -> Plan:
    """The plan of mirrors and of software adapters, which gain nothing from more workgroups."""
    if shape.m <= ROWS[-1]:
        return _rows_plans(shape)[-1]._replace(splits=1)
    return Plan(tiled_stem(64, 64, shape.lanes), 1)


def _plan_of(
    device: KernelDevice, state: _State, shape: Shape, launch: Callable[[Plan], None]
) -> Plan:
    if not isinstance(device, WgpuDevice):
        return _fixed_plan(shape)
    software = device.runtime.info.is_software
    if software and not state.tuner.enabled:
        return _fixed_plan(shape)
    plans = {plan.label: plan for plan in candidates(shape)}
    runtime = device.runtime
    flops = 2.0 * shape.batch * shape.m * shape.n * shape.k
    launches = max(1, min(_MOST_LAUNCHES, int(_TRIAL_FLOPS / max(flops, 1.0))))
    repeats = _REPEATS if flops < 10 * _TRIAL_FLOPS else 1

    def seconds(label: str) -> float:
        def record() -> None:
            for _ in range(launches):
                launch(plans[label])

        try:
            launch(plans[label])
            return min(runtime.measure(record) for _ in range(repeats))
        except (DeviceError, KernelError):
            return math.inf

    return plans[state.tuner.choose(shape.key, list(plans), seconds)]


def _as_batch(array: DeviceArray, name: str) -> DeviceArray:
    if len(array.shape) == 3:
        return array
    if len(array.shape) != 2:
        raise KernelError(
            f"a product takes matrices or batches of them; {name} has shape {array.shape}"
        )
    return _viewed(array, (1, *array.shape))


def _viewed(array: DeviceArray, shape: tuple[int, ...]) -> DeviceArray:
    storage = array.storage
    if isinstance(storage, np.ndarray):
        storage = storage.reshape(shape)
    return DeviceArray(array._device, shape, array.dtype, storage)


def _sizes(
    a: tuple[int, ...], b: tuple[int, ...], trans_a: bool, trans_b: bool
) -> tuple[int, int, int, int]:
    """Batch, M, N and K of the product of two batches."""
    dims = {"AR": a[1], "AC": a[2], "BR": b[1], "BC": b[2]}
    found = check_shapes("matmul", dims, {"trans_a": int(trans_a), "trans_b": int(trans_b)})
    batch = b[0] if a[0] == 1 else a[0]
    if b[0] not in (1, batch):
        raise KernelError(f"batches of {a[0]} and {b[0]} matrices cannot be multiplied")
    return batch, found["M"], found["N"], a[1 if trans_a else 2]


def _lanes(*rows: int) -> int:
    """How many entries can be read at once where rows have these lengths."""
    return 4 if min(rows) and not any(length % 4 for length in rows) else 1


def multiply(
    device: KernelDevice,
    a: DeviceArray,
    b: DeviceArray,
    *,
    trans_a: bool = False,
    trans_b: bool = False,
    bias: DeviceArray | None = None,
    activation: str = "none",
    alpha: float = 1.0,
    out: DeviceArray | None = None,
    accumulate: bool = False,
    dtype: str = "f32",
) -> DeviceArray:
    """out = act(alpha op(a) op(b) + bias [+ out]), op(m) = m or its transpose; sums in float32.

    Args:
        device: where the arrays live.
        a: (R, C) or a batch (Z, R, C), float32 or float16; one matrix serves a whole batch.
        b: likewise.
        trans_a: take the transpose of a.
        trans_b: take the transpose of b.
        bias: (N,), added to each row.
        activation: "none", "relu", "gelu", "gelu_tanh" or "silu".
        alpha: factor of the product.
        out: (M, N) or (Z, M, N) to write to; must not share memory with the operands.
        accumulate: add what `out` holds, before the activation.
        dtype: storage of a new `out`, "f32" or "f16".

    Returns:
        `out`, or a new array of shape (M, N) if both operands are single matrices, else (Z, M, N).

    Raises:
        KernelError: shapes that do not fit together, an unknown activation, or accumulate
            without `out`.
    """
    if accumulate and out is None:
        raise KernelError("a product can only accumulate onto an array given as 'out'")
    left, right = _as_batch(a, "a"), _as_batch(b, "b")
    batch, m, n, k = _sizes(left.shape, right.shape, trans_a, trans_b)
    if out is None:
        single = len(a.shape) == len(b.shape) == 2
        out = device.empty((m, n) if single else (batch, m, n), dtype)
    target = _as_batch(out, "out")
    if target.shape != (batch, m, n):
        raise KernelError(f"the product has shape {(batch, m, n)}, but 'out' has {target.shape}")
    if min(batch, m, n) == 0:
        return out
    state = _state_of(device)
    none = DeviceArray(device, (0,), "f32", state.no_bias)
    flags: dict[str, Scalar] = {"trans_a": int(trans_a), "trans_b": int(trans_b)}
    if n == 1 and m > 1 and bias is None:
        # A column is stored like a row: the product of the transposes reads the matrix by strips.
        left, right, m, n = right, left, n, m
        flags = {"trans_a": 1 - int(trans_b), "trans_b": 1 - int(trans_a)}
        target = _viewed(target, (batch, m, n))
    ending: dict[str, Any] = {
        "bias": none if bias is None else bias,
        "alpha": alpha,
        "activation": activation_number(activation),
        "accumulate": int(accumulate),
    }

    def launch(plan: Plan, onto: DeviceArray = target) -> None:
        whole = ending if plan.splits == 1 else {**_NO_ENDING, "bias": none}
        sums = onto if plan.splits == 1 else device.empty((batch * plan.splits, m, n))
        device.run(plan.stem, a=left, b=right, out=sums, splits=plan.splits, **flags, **whole)
        if plan.splits > 1:
            device.run("matmul_sum", partial=sums, out=onto, **ending)

    shape = Shape(
        batch,
        m,
        n,
        k,
        flags["trans_a"] == 1,
        flags["trans_b"] == 1,
        _lanes(left.shape[2], right.shape[2]),
        f"{left.dtype} {right.dtype} {target.dtype}",
    )
    plan = state.plans.get(shape)
    if plan is None:
        # Timing must not write to `out`, which may hold what is to be added.
        scratch: list[DeviceArray] = []

        def trial(plan: Plan) -> None:
            if not scratch:
                scratch.append(device.empty((batch, m, n), target.dtype))
            launch(plan, scratch[0])

        plan = state.plans[shape] = _plan_of(device, state, shape, trial)
    launch(plan)
    return out
