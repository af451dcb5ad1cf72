"""Many BAOAB steps of Langevin chains in one call, each over its certified neighbour list.

The energy is E(x) = -log sum_k w_k exp(a_k (mu_k.x - 1)) - h.x, summed over the list of the chain
alone, and the step is that of `langevin_baoab`. With n = n_steps, iteration i = 0 .. n evaluates
the force at x_i, kicks by half_step (i = 0 and n) or 2 half_step, and for i < n goes on to x_{i+1}.

A force is used only if the list provably holds the mass. Let y be the anchor of the list, every
splat outside it at an angle of at least theta from y (outer = cos theta, sin theta), and
c = cos(max(0, theta - angle(x, y))). No dropped splat has mu_k.x > c, so all of them weigh at most
G(c) = sum_k w_k exp(a_k (c - 1)) over all splats, and the list is certified where

    max_t (value_t + slope_t (c - 1)) <= log_eps + log sum_list w_k exp(a_k (mu_k.x - 1)),

its left side being any upper bound of log G, a convex function, by straight lines. An outer cosine
below -1 says that nothing was dropped. A chain that is not certified stops before it uses the
force, with the number of forces used in state[:, 0]; called again with another list it goes on from
there, so that its trajectory does not depend on which lists it went through. A call uses at most
`forces` forces a chain; on wgpu let that be at most `FORCES_PER_DISPATCH`.

state: (B, 2) int32, forces used so far (0 at first, n_steps + 1 when done) and, on return, the
splat with the largest share of the mass at x. energy: (B,) of the last force evaluated, used or
not. idx: (B, M) splat numbers, -1 for none, at least one of them a splat.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import EPS32, normal, tangent_rows, unit_rows
from ebm_wgpu.kernels._langevin import (
    CHAIN,
    V,
    X,
    reference_drift_thermalise_drift,
    reference_reproject,
)
from ebm_wgpu.kernels._langevin_list import move_chains
from ebm_wgpu.kernels.spec import (
    EXACT,
    Array,
    Arrays,
    Binding,
    Case,
    Dims,
    Kernel,
    Param,
    Scalar,
    Tolerance,
    Work,
)

MAX_D = 1024
MAX_M = 256
FORCES_PER_DISPATCH = 16
"""Forces a chain that one dispatch can use, at any size allowed.

llvmpipe ends every loop of an invocation, without a word, once all of them together have gone round
65,535 times, and GPU drivers kill dispatches that take seconds. One force goes round at most 3,200
times (D = 1024, M = 256, subgroups of four).
"""


def reference(
    x: Array,
    v: Array,
    chain: Array,
    mu: Array,
    a: Array,
    log_w: Array,
    h: Array,
    idx: Array,
    anchor: Array,
    outer: Array,
    envelope: Array,
    state: Array,
    half_step: float,
    decay: float,
    noise: float,
    log_eps: float,
    seed: int,
    n_steps: int,
    forces: int,
) -> Arrays:
    """Float64 reference."""
    x, v, state = x.copy(), v.copy(), state.copy()
    energy = np.zeros(len(x))
    for b in range(len(x)):
        row = slice(b, b + 1)
        splats = idx[b][idx[b] >= 0]
        theta = np.arctan2(outer[b, 1], outer[b, 0])
        end = min(state[b, 0] + forces, n_steps + 1)
        while state[b, 0] < end:
            done = int(state[b, 0])
            logit = log_w[splats] + a[splats] * (mu[splats] @ x[b] - 1)
            weight = np.exp(logit - logit.max())
            log_mass = logit.max() + np.log(weight.sum())
            energy[b] = -log_mass - h[b] @ x[b]
            state[b, 1] = splats[np.argmax(logit)]
            if outer[b, 0] >= -1:
                turned = 2 * np.arcsin(min(1.0, float(np.linalg.norm(x[b] - anchor[b])) / 2))
                below_one = np.cos(max(0.0, theta - turned)) - 1
                if np.max(envelope[:, 0] + envelope[:, 1] * below_one) > log_eps + log_mass:
                    break
            force = (weight / weight.sum() * a[splats]) @ mu[splats] + h[b]
            force -= (force @ x[b]) * x[b]
            v[b] += half_step * (2 if 0 < done < n_steps else 1) * force
            if done < n_steps:
                x[row], v[row] = reference_drift_thermalise_drift(
                    x[row], v[row], half_step, decay, noise, seed, done, chain[row]
                )
            else:
                x[row], v[row] = reference_reproject(x[row], v[row])
            state[b, 0] = done + 1
    return {"x": x, "v": v, "state": state, "energy": energy}


def _limits(dims: dict[str, int], params: Mapping[str, Scalar]) -> dict[str, int]:
    for name, largest in (("D", MAX_D), ("M", MAX_M)):
        if dims[name] > largest:
            raise KernelError(
                f"kernel langevin_baoab_list: {name}={dims[name]} exceeds {largest}; "
                "use splat_energy and langevin_baoab instead"
            )
    return {}


def _cluster(
    rng: np.random.Generator, dims: Dims, kappa: Array | float, outer_cosine: float, speed: float
) -> Arrays:
    """Chains that leave the first splats at the given speed; lists of the M nearest to them."""
    b, d, n, m = dims["B"], dims["D"], dims["N"], dims["M"]
    mu = unit_rows(rng, n, d)
    mu[b : 2 * b] = mu[:b] + 0.1 * tangent_rows(rng, mu[:b])  # close rivals: the softmax is soft
    mu /= np.linalg.norm(mu, axis=1, keepdims=True)
    a = ((d - 1) * np.broadcast_to(kappa, n)).astype(np.float32)
    log_w = normal(rng, n)
    idx = np.argsort(-(mu[:b] @ mu.T), axis=1, kind="stable")[:, :m].astype(np.int32)
    total = np.log(np.sum(np.exp(log_w, dtype=np.float64)))
    lines = [[total, a.min()], [total - 5, 0.5 * a.min()], [total - 900, 0.0]]
    x = mu[:b] + tangent_rows(rng, mu[:b], 0.1)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return {
        "x": x,
        "v": tangent_rows(rng, x, speed * np.sqrt(d - 1)),
        "chain": np.arange(3, 3 + b, dtype=np.int32),
        "mu": mu,
        "a": a,
        "log_w": log_w,
        "h": normal(rng, b, d, scale=0.5),
        "idx": idx,
        "anchor": mu[:b].copy(),
        "outer": np.full((b, 2), [outer_cosine, np.sqrt(max(0, 1 - outer_cosine**2))], np.float32),
        "envelope": np.array(lines[: dims["T"]], np.float32),
        "state": np.zeros((b, 2), np.int32),
        "energy": np.zeros(b, np.float32),
    }


def _settled(rng: np.random.Generator, dims: Dims) -> Arrays:
    return _cluster(rng, dims, 5.0, 0.2, 1.0)


def _leaving(rng: np.random.Generator, dims: Dims) -> Arrays:
    inputs = _cluster(rng, dims, 5.0, 0.4, 1.0)
    inputs["v"][1:] *= 8  # the first chain stays, the others fly off
    return inputs


def _complete(rng: np.random.Generator, dims: Dims) -> Arrays:
    """Mixed concentrations, complete lists with empty entries, half-done and finished chains."""
    kappa = rng.uniform(1, 5, dims["N"]).astype(np.float32)
    inputs = _cluster(rng, {**dims, "M": dims["N"]}, kappa, -2.0, 1.0)
    empty = np.full((dims["B"], dims["M"] - dims["N"]), -1, np.int32)
    inputs["idx"] = rng.permuted(np.concatenate([inputs["idx"], empty], 1), axis=1)
    inputs["state"][:, 0] = 2
    inputs["state"][-1] = [99, 5]
    return inputs


def _tolerance(d: int, kappa: float, kicks: int) -> dict[str, Tolerance]:
    # A float32 dot product moves a logit by eps a / 2, hence the shares, and with them the force,
    # by a times that; a kick lasts 1/(4 sqrt(a)), along differences of splats, here 0.1 long.
    a = kappa * (d - 1)
    moved = 16 * EPS32 + 0.1 * 0.5 * EPS32 * a * a / (4 * np.sqrt(a)) / np.sqrt(d)
    reason = "float32 moves, and logits that a float32 dot product shifts by eps a / 2"
    return {
        "x": Tolerance(kicks * moved / (4 * np.sqrt(a)), 16 * EPS32, reason),
        "v": Tolerance(kicks * moved, 16 * EPS32, reason),
        "energy": Tolerance(kicks * EPS32 * a, 4 * EPS32, reason),
        "state": EXACT,
    }


def _params(kappa: float, d: int, **changed: float) -> dict[str, Scalar]:
    half_step = 0.125 / np.sqrt(kappa * (d - 1))
    return {
        "half_step": half_step,
        "decay": 0.78,
        "noise": 0.63,
        "log_eps": -13.8,
        "seed": 11,
        "n_steps": 3,
        "forces": 99,
    } | changed


def _count_rounds(dims: Dims, params: Mapping[str, Scalar]) -> int:
    d, m = dims["D"], dims["M"]
    strided = _rounds.strided
    cosines = strided(m, 16, strided(d, 16) + _rounds.loop(16))
    certificate = strided(d, 256) + 3 * strided(m, 256) + strided(dims["T"], 256)
    pulls = strided(-(-d // 4), 256, _rounds.loop(4, _rounds.loop(m)))
    reproject = 2 * _rounds.quads(d, 256)
    force = cosines + certificate + pulls + reproject + 6 * _rounds.reduction(256)
    ends = 2 * _rounds.quads(d, 256) + _rounds.loop(m)
    forces = min(int(params["forces"]), int(params["n_steps"]) + 1)
    return _rounds.loop(forces, force + _rounds.drifts(d, 256)) + ends


KERNEL = Kernel(
    stem="langevin_baoab_list",
    bindings=(
        X,
        V,
        CHAIN,
        Binding("mu", "f32", ("N", "D"), half=True),
        Binding("a", "f32", ("N",)),
        Binding("log_w", "f32", ("N",)),
        Binding("h", "f32", ("B", "D")),
        Binding("idx", "i32", ("B", "M")),
        Binding("anchor", "f32", ("B", "D")),
        Binding("outer", "f32", ("B", 2)),
        Binding("envelope", "f32", ("T", 2)),
        Binding("state", "i32", ("B", 2), "inout"),
        Binding("energy", "f32", ("B",), "inout"),
    ),
    params=(
        Param("half_step", "f32"),
        Param("decay", "f32"),
        Param("noise", "f32"),
        Param("log_eps", "f32"),
        Param("seed", "u64"),
        Param("n_steps", "u32"),
        Param("forces", "u32"),
    ),
    workgroups=lambda dims, params: dims["B"],
    mirror=move_chains,
    reference=reference,
    rounds=_count_rounds,
    constants={"WG": 256, "LANES": 16, "MAX_D": MAX_D, "MAX_M": MAX_M},
    subgroup=True,
    derive=_limits,
    cases=(
        Case(
            "settled and paused, d640",
            {"B": 3, "D": 640, "N": 300, "M": 128, "T": 1},
            _settled,
            _tolerance(640, 5, 4),
            _params(5, 640, n_steps=2**31, forces=4),
        ),
        Case(
            "stops where the list fails",
            {"B": 5, "D": 65, "N": 90, "M": 37, "T": 3},
            _leaving,
            _tolerance(65, 5, 4),
            _params(5, 65),
        ),
        Case(
            "resumes, mixed kappa, everything listed",
            {"B": 4, "D": 33, "N": 21, "M": 33, "T": 2},
            _complete,
            _tolerance(33, 5, 2),
            _params(5, 33),
        ),
        Case(
            "pauses, d8",
            {"B": 2, "D": 8, "N": 5, "M": 5, "T": 1},
            _complete,
            _tolerance(8, 5, 4),
            _params(5, 8, forces=1, seed=2**64 - 5),
        ),
        Case(
            "one splat, one entry",
            {"B": 1, "D": 9, "N": 2, "M": 1, "T": 2},
            _settled,
            _tolerance(9, 5, 4),
            _params(5, 9, log_eps=20.0),
        ),
    ),
    # Four forces, as the first case: its chains always have steps left.
    work=lambda dims: Work(
        4 * dims["B"] * dims["D"] * (4.0 * dims["M"] + 60.0),
        4 * 4.0 * dims["B"] * dims["D"] * dims["M"],
    ),
    speed_case={"B": 64, "D": 640, "N": 50000, "M": 128, "T": 1},
)
