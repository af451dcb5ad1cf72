"""Fused causal attention on wgpu, forward and backward, beside torch's own devices.

Heads of 64 in sequences of growing length, at an equal number of tokens. wgpu's times are the
device's own where it has timestamps; torch runs `scaled_dot_product_attention` on the processor,
and on CUDA where there is one. GFLOP/s count the products of the pairs that causality leaves: two
forward and five backward. "matrix MB" is what the matrix of scores would take, which nothing of
this stores.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from _common import FULL_SETTING, SMALL_SETTING, parse_arguments, print_table, write_result

from ebm_wgpu.errors import DeviceError
from ebm_wgpu.kernels import open_device
from ebm_wgpu.kernels._attention import attention_params
from ebm_wgpu.kernels.device import Launch, WgpuDevice
from ebm_wgpu.kernels.speed import measure_speed

WIDTH = 64
HARDWARE = {512: 320, 1024: 160, 2048: 80, 4096: 40}
"""Heads of all batches, by length."""
SOFTWARE = {32: 8, 64: 4, 128: 2}
FORWARD_PRODUCTS, BACKWARD_PRODUCTS = 2, 5
SLOW_FLOPS = 3e10


def prepare(device: WgpuDevice, heads: int, length: int, kind: str) -> tuple[Launch, list[Launch]]:
    """Launches of the forward and of the backward pass."""
    rng = np.random.default_rng(0)
    shape = (heads, length, WIDTH)
    q, k, v, grad_out = (
        device.array(rng.standard_normal(shape, np.float32), kind) for _ in range(4)
    )
    mask = device.array(np.zeros((1, 1, 1)))
    params = attention_params(WIDTH**-0.5, causal=True)
    inputs: dict[str, Any] = {"q": q, "k": k, "v": v, "mask": mask, **params}
    forward = device.prepare("attention", **inputs, out=device.empty(shape, kind))
    shared = {**inputs, "grad_out": grad_out, "lse": forward.outputs["lse"]}
    queries = device.prepare(
        "attention_query_backward",
        **shared,
        out=forward.outputs["out"],
        grad_q=device.empty(shape, kind),
    )
    keys = device.prepare(
        "attention_key_backward",
        **shared,
        delta=queries.outputs["delta"],
        grad_k=device.empty(shape, kind),
        grad_v=device.empty(shape, kind),
    )
    return forward, [queries, keys]


def torch_seconds(
    heads: int, length: int, place: str, dtype: torch.dtype, repeats: int
) -> tuple[float, float]:
    """Least times of forward and of backward passes of torch's own attention."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn((1, heads, length, WIDTH), generator=generator)
        .to(place, dtype)
        .requires_grad_()
        for _ in range(3)
    )
    cotangent = torch.ones_like(q)

    def now() -> float:
        if place == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    times = []
    for _ in range(repeats + 1):
        start = now()
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        middle = now()
        out.backward(cotangent)
        times.append((middle - start, now() - middle))
    forward, backward = zip(*times[1:], strict=True)
    return min(forward), min(backward)


def least_seconds(device: WgpuDevice, record: Callable[[], object], repeats: int) -> float:
    """Least time of one call, after one that does not count."""
    record()
    return min(device.runtime.measure(record) for _ in range(repeats))


def measure(
    device: WgpuDevice, heads: int, length: int, kind: str, peak: float, repeats: int
) -> dict[str, Any]:
    """One row: milliseconds and GFLOP/s of wgpu, milliseconds of torch."""
    forward, backward = prepare(device, heads, length, kind)

    def record_backward() -> None:
        for part in backward:
            part()

    ahead = least_seconds(device, forward, repeats)
    back = least_seconds(device, record_backward, repeats)
    pairs = 2.0 * heads * WIDTH * length * (length + 1) / 2
    row: dict[str, Any] = {
        "heads x length": f"{heads} x {length}",
        "storage": kind,
        "forward ms": 1e3 * ahead,
        "backward ms": 1e3 * back,
        "forward GFLOP/s": FORWARD_PRODUCTS * pairs / ahead / 1e9,
        "backward GFLOP/s": BACKWARD_PRODUCTS * pairs / back / 1e9,
        "forward share of peak": FORWARD_PRODUCTS * pairs / ahead / peak,
        "backward share of peak": BACKWARD_PRODUCTS * pairs / back / peak,
        "matrix MB": heads * length**2 * (4 if kind == "f32" else 2) / 1e6,
    }
    dtype = torch.float32 if kind == "f32" else torch.float16
    places = ["cpu"] if kind == "f32" and pairs < SLOW_FLOPS else []
    for place in places + (["cuda"] if torch.cuda.is_available() else []):
        ahead, back = torch_seconds(heads, length, place, dtype, repeats)
        row[f"torch {place} forward ms"] = 1e3 * ahead
        row[f"torch {place} backward ms"] = 1e3 * back
    return row


def main() -> None:
    arguments = parse_arguments("attention", __doc__, device="wgpu", repeats=5)
    device = open_device(arguments.device)
    if not isinstance(device, WgpuDevice):
        raise SystemExit("this benchmark measures wgpu; give --device wgpu or vulkan")
    (probe,) = measure_speed(device, ("probe_fma",))
    peak = 1e9 * probe.gflops / probe.share_of_fma
    software = device.runtime.info.is_software
    shapes = SOFTWARE if software else HARDWARE
    setting = SMALL_SETTING if software else FULL_SETTING
    rows, too_large = [], []
    for kind in ("f32", "f16") if device.supports_half else ("f32",):
        for length, heads in shapes.items():
            try:
                rows.append(measure(device, heads, length, kind, peak, arguments.repeats))
            except DeviceError as error:
                too_large.append(f"{heads} x {length}, {kind}: {error}")
                print(f"left out: {too_large[-1]}")
    keys = list(dict.fromkeys(key for row in rows for key in row if "share" not in key))
    print_table(
        f"Causal attention, heads of {WIDTH}, {device.description}\nSetting: {setting}",
        [{key: row.get(key, "") for key in keys} for row in rows],
    )
    payload = {
        "setting": setting,
        "multiply_add_peak_gflops": peak / 1e9,
        "statistic": "least time of one pass",
        "repeats": arguments.repeats,
        "torch_threads": torch.get_num_threads(),
        "rows": rows,
        "left_out": too_large,
    }
    write_result("attention", payload, device, output=arguments.output)


if __name__ == "__main__":
    main()
