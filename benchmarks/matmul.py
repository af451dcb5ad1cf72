"""GFLOP/s of matrix products on wgpu, as a share of the measured multiply-add peak, beside torch's.

Square products and those of a transformer's training step and generation, each with the plan that
`multiply` chooses and, on a hardware adapter, with all plans it chooses among. wgpu's times are the
device's own where it has timestamps; torch runs on the processor, and on CUDA where there is one.
Both are means over series of launches that last about as long. "unchecked" is the same plan without
wgpu's checks of indices and loops (EBM_WGPU_UNCHECKED=1), which these kernels do not need.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from _common import (
    FULL_SETTING,
    SMALL_SETTING,
    Claim,
    parse_arguments,
    print_table,
    seconds,
    write_result,
)

from ebm_wgpu.errors import DeviceError
from ebm_wgpu.kernels import open_device
from ebm_wgpu.kernels.device import DeviceArray, WgpuDevice
from ebm_wgpu.kernels.products import Plan, Shape, candidates, multiply
from ebm_wgpu.kernels.speed import measure_speed

TARGET_SHARE = 0.6
LEAST_SECONDS = 0.02
MOST_LAUNCHES = 64
SLOW_FLOPS = 3e10


class Product(NamedTuple):
    """op(a) (m, k) by op(b) (k, n), `batch` times."""

    name: str
    m: int
    n: int
    k: int
    trans_a: bool = False
    trans_b: bool = False
    batch: int = 1

    @property
    def flops(self) -> float:
        """Multiplications and additions."""
        return 2.0 * self.batch * self.m * self.n * self.k

    def shapes(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Shapes of the stored operands."""
        a = (self.k, self.m) if self.trans_a else (self.m, self.k)
        b = (self.n, self.k) if self.trans_b else (self.k, self.n)
        return (self.batch, *a), (self.batch, *b)


def squares(sizes: list[int]) -> list[Product]:
    return [Product(f"{size} cubed", size, size, size) for size in sizes]


def model(tokens: int, width: int, vocabulary: int, length: int) -> list[Product]:
    """Products of a transformer: a linear map and its gradients, attention, logits, generation."""
    wide, heads = 4 * width, max(width // 64, 1) * tokens // length
    return [
        Product("linear", tokens, wide, width, trans_b=True),
        Product("linear, input gradient", tokens, width, wide),
        Product("linear, weight gradient", wide, width, tokens, trans_a=True),
        Product("attention scores", length, length, 64, trans_b=True, batch=heads),
        Product("attention values", length, 64, length, batch=heads),
        Product("logits", tokens, vocabulary, width, trans_b=True),
        Product("logits, weight gradient", vocabulary, width, tokens, trans_a=True),
        Product("one token, linear", 1, wide, width, trans_b=True),
        Product("one token, logits", 1, vocabulary, width, trans_b=True),
        Product("eight tokens, logits", 8, vocabulary, width, trans_b=True),
    ]


def least_seconds(
    clock: Callable[[Callable[[], object]], float], record: Callable[[], object], repeats: int
) -> float:
    """Mean time of one call over a series, the least of `repeats` series; `clock` times any."""
    record()
    one = clock(record)
    launches = max(1, min(MOST_LAUNCHES, math.ceil(LEAST_SECONDS / max(one, 1e-7))))

    def series() -> None:
        for _ in range(launches):
            record()

    return min(clock(series) / launches for _ in range(repeats))


def torch_seconds(product: Product, device: str, dtype: torch.dtype, repeats: int) -> float:
    a_shape, b_shape = product.shapes()
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(a_shape, generator=generator).to(device, dtype)
    b = torch.randn(b_shape, generator=generator).to(device, dtype)
    left = a.transpose(1, 2) if product.trans_a else a
    right = b.transpose(1, 2) if product.trans_b else b

    def record() -> None:
        torch.bmm(left, right)

    def clock(work: Callable[[], object]) -> float:
        def whole() -> None:
            work()
            if device == "cuda":
                torch.cuda.synchronize()

        return seconds(whole)

    if device == "cpu" and product.flops > SLOW_FLOPS:
        return clock(record)
    return least_seconds(clock, record, repeats)


def run_plan(
    device: WgpuDevice, plan: Plan, product: Product, a: DeviceArray, b: DeviceArray
) -> Callable[[], None]:
    """Launches of one plan, without bias and activation."""
    batch, m, n = product.batch, product.m, product.n
    ending = {"bias": device.empty((0,)), "alpha": 1.0, "activation": 0, "accumulate": 0}
    out = device.empty((batch, m, n))
    sums = out if plan.splits == 1 else device.empty((batch * plan.splits, m, n))
    ways = {"trans_a": int(product.trans_a), "trans_b": int(product.trans_b)}
    parts = [device.prepare(plan.stem, a=a, b=b, out=sums, splits=plan.splits, **ways, **ending)]
    if plan.splits > 1:
        parts.append(device.prepare("matmul_sum", partial=sums, out=out, **ending))

    def record() -> None:
        for part in parts:
            part()

    return record


def measure(
    device: WgpuDevice, product: Product, kind: str, peak: float, repeats: int, every_plan: bool
) -> dict[str, Any]:
    """One row: GFLOP/s of the chosen plan, of torch, and of all plans where asked for."""
    rng = np.random.default_rng(0)
    a_shape, b_shape = product.shapes()
    a = device.array(rng.standard_normal(a_shape, np.float32), kind)
    b = device.array(rng.standard_normal(b_shape, np.float32), kind)
    out = device.empty((product.batch, product.m, product.n))

    def record() -> None:
        multiply(device, a, b, out=out, trans_a=product.trans_a, trans_b=product.trans_b)

    gflops = product.flops / 1e9
    taken = least_seconds(device.runtime.measure, record, repeats)
    device.unchecked = True
    freely = least_seconds(device.runtime.measure, record, repeats)
    device.unchecked = False
    row: dict[str, Any] = {
        "product": product.name,
        "shape": f"{product.batch} x {product.m} x {product.n} x {product.k}",
        "storage": kind,
        "ms": 1e3 * taken,
        "GFLOP/s": gflops / taken,
        "share of peak": gflops / taken / peak,
        "unchecked GFLOP/s": gflops / freely,
    }
    dtype = torch.float32 if kind == "f32" else torch.float16
    if kind == "f32":
        row["torch CPU GFLOP/s"] = gflops / torch_seconds(product, "cpu", dtype, repeats)
    if torch.cuda.is_available():
        row["torch CUDA GFLOP/s"] = gflops / torch_seconds(product, "cuda", dtype, repeats)
    if every_plan:
        lanes = 1 if a_shape[2] % 4 or b_shape[2] % 4 else 4
        shape = Shape(
            product.batch,
            product.m,
            product.n,
            product.k,
            product.trans_a,
            product.trans_b,
            lanes,
            f"{kind} {kind} f32",
        )
        row["plans"] = {
            plan.label: gflops
            / least_seconds(device.runtime.measure, run_plan(device, plan, product, a, b), repeats)
            for plan in candidates(shape)
        }
    return row


def main() -> None:
    arguments = parse_arguments("matmul", __doc__, device="wgpu", repeats=3)
    device = open_device(arguments.device)
    if not isinstance(device, WgpuDevice):
        raise SystemExit("this benchmark measures wgpu; give --device wgpu or vulkan")
    hardware = not device.runtime.info.is_software
    (probe,) = measure_speed(device, ("probe_fma",))
    peak = probe.gflops / probe.share_of_fma
    products = (
        [*squares([256, 512, 1024, 2048, 4096]), *model(4096, 640, 50257, 512)]
        if hardware
        else [*squares([64, 128, 256]), *model(64, 64, 257, 32)]
    )
    kinds = ["f32", "f16"] if device.supports_half else ["f32"]
    rows, too_large = [], []
    for kind in kinds:
        for product in products:
            try:
                rows.append(measure(device, product, kind, peak, arguments.repeats, hardware))
            except DeviceError as error:
                too_large.append(f"{product.name}, {kind}: {error}")
                print(f"left out: {too_large[-1]}")
    shown = dict.fromkeys(key for row in rows for key in row if key != "plans")
    setting = FULL_SETTING if hardware else SMALL_SETTING
    print_table(
        f"Products on {device.description}; measured multiply-add peak {peak:.4g} GFLOP/s\n"
        f"Setting: {setting}",
        [{key: row.get(key, "") for key in shown} for row in rows],
    )
    claims = [
        Claim("of the multiply-add peak, 2048 cubed, f32", row["share of peak"], TARGET_SHARE)
        for row in rows
        if row["product"] == "2048 cubed" and row["storage"] == "f32"
    ]
    payload = {
        "setting": setting,
        "multiply_add_peak_gflops": peak,
        "statistic": "mean time of a launch in a series, the least of the series",
        "repeats": arguments.repeats,
        "torch_threads": torch.get_num_threads(),
        "rows": rows,
        "left_out": too_large,
    }
    write_result("matmul", payload, device, claims=claims, output=arguments.output)


if __name__ == "__main__":
    main()
