"""Certified neighbour lists: the few splats that matter near a point, and what the rest can weigh.

A list holds the M splats nearest to an anchor y on the sphere. At x, an angle delta away from y, no
splat outside the list has a cosine above c = cos(theta - delta), theta being the angle between y
and the last splat listed; so together they weigh at most G(c) = sum_k w_k exp(a_k (c - 1)) over
all splats. log G is convex in c, and chords between points of its graph lie above it: a handful of
straight lines bounds it from above everywhere, for any mixture of weights and concentrations. The
kernel `langevin_baoab_list` compares that bound with the mass of the list at every step.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ebm_wgpu.energy import Energy
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.kernels.langevin_baoab_list import FORCES_PER_DISPATCH
from ebm_wgpu.kernels.topk import similarity_topk
from ebm_wgpu.sampling.integrators import Chains, Schedule

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

MAX_LIST_SIZE = 128
# Forces between two looks at the chains: rare enough that waiting for the device costs nothing.
_FORCES_PER_LOOK = 256
_MAX_LINES = 64
_GAP = 0.05
_EPS32 = float(np.finfo(np.float32).eps)


class Lists(NamedTuple):
    """Neighbour lists of B chains, as `langevin_baoab_list` takes them.

    anchor: (B, d) float32 unit rows. idx: (B, M) int32 splats. outer: (B, 2) float32, cosine and
    sine of the angle beyond which all other splats lie; a cosine of -2 where there are no others.
    """

    anchor: Float32Array
    idx: NDArray[np.int32]
    outer: Float32Array


def mass_envelope(a: Float64Array, log_w: Float64Array) -> Float32Array:
    """Lines (T, 2) of value and slope with max_t(value_t + slope_t (c - 1)) >= log G(c).

    log G(c) = log sum_k w_k exp(a_k (c - 1)) for c in [-1, 1]. Chords are halved where they lie
    furthest above the curve, until none does by more than 0.05 nats or there are 64 of them. With
    equal concentrations one line is exact. Values are raised by what float32 may lose.

    Args:
        a: (N,) concentrations, natural units.
        log_w: (N,) log weights.
    """

    def mass(c: float) -> float:
        exponent = log_w + a * (c - 1)
        peak = exponent.max()
        return float(peak + np.log(np.exp(exponent - peak).sum()))

    # A chord is (-gap, left, middle, right, log G at each).
    def chord(left: float, right: float, at_left: float, at_right: float) -> tuple[float, ...]:
        middle = 0.5 * (left + right)
        at_middle = mass(middle)
        gap = 0.5 * (at_left + at_right) - at_middle
        return (-gap, left, middle, right, at_left, at_middle, at_right)

    chords = [chord(-1.0, 1.0, mass(-1.0), mass(1.0))]
    while len(chords) < _MAX_LINES and -chords[0][0] > _GAP:
        _, left, middle, right, at_left, at_middle, at_right = heapq.heappop(chords)
        heapq.heappush(chords, chord(left, middle, at_left, at_middle))
        heapq.heappush(chords, chord(middle, right, at_middle, at_right))
    lines = np.empty((len(chords), 2))
    for line, (_, left, _, right, at_left, _, at_right) in zip(lines, sorted(chords), strict=True):
        slope = (at_right - at_left) / (right - left)
        line[:] = at_right + slope * (1 - right), slope
    lines[:, 0] += 8 * _EPS32 * (np.abs(lines[:, 0]) + lines[:, 1])
    return lines.astype(np.float32)


class NeighbourLists:
    """Lists over the splats of one energy; those anchored at splats are found once and kept.

    Attributes:
        energy: the mixture that the lists are of.
        size: splats a list, at most the number of splats.
        envelope: (T, 2) bound of the mass outside, from `mass_envelope`.
        builds: lists searched for so far.
    """

    def __init__(self, energy: Energy, size: int = MAX_LIST_SIZE) -> None:
        """Lists of `size` splats.

        Raises:
            ConfigError: a size below 1 or above 128.
        """
        if not 1 <= size <= MAX_LIST_SIZE:
            raise ConfigError(f"list_size = {size}: use 1 to {MAX_LIST_SIZE}")
        self.energy = energy
        self._kept: dict[int, tuple[NDArray[np.int32], Float32Array]] = {}
        self.size = min(size, len(energy.store))
        self.envelope = mass_envelope(energy.concentration, energy.log_weight)
        self.builds = 0

    def around(self, points: Float32Array) -> Lists:
        """Lists anchored at the points, (B, d) unit rows."""
        if self.size == len(self.energy.store):
            idx = np.tile(np.arange(self.size, dtype=np.int32), (len(points), 1))
            return Lists(points, idx, np.full((len(points), 2), [-2, 0], np.float32))
        self.builds += len(points)
        energy = self.energy
        values, indices = similarity_topk(energy.device, points, energy.arrays["mu"], self.size)
        # A cosine rounded down would put the others further away than they are.
        last = np.clip(values.numpy()[:, -1].astype(np.float64) + 8 * _EPS32, -1, 1)
        outer = np.stack([last, np.sqrt((1 - last) * (1 + last))], axis=1)
        return Lists(points, indices.numpy(), outer.astype(np.float32))

    def at(self, splats: NDArray[np.int64], points: Float32Array) -> Lists:
        """Lists anchored at splats (B,), or at the points (B, d) where the splat is -1."""
        anchor = points.copy()
        anchor[splats >= 0] = self.energy.store.mu[splats[splats >= 0]]
        idx = np.empty((len(points), self.size), np.int32)
        outer = np.empty((len(points), 2), np.float32)
        wanted, first = np.unique(splats, return_index=True)
        new = [row for k, row in zip(wanted, first, strict=True) if k >= 0 and k not in self._kept]
        search = np.concatenate([np.flatnonzero(splats < 0), np.array(new, np.int64)])
        if len(search):
            found = self.around(anchor[search])
            idx[search], outer[search] = found.idx, found.outer
            self._kept |= {int(splats[row]): (idx[row].copy(), outer[row].copy()) for row in new}
        for row in np.flatnonzero(splats >= 0):
            idx[row], outer[row] = self._kept[int(splats[row])]
        return Lists(anchor, idx, outer)


@dataclass(frozen=True, eq=False)
class Followed:
    """How far chains came over their lists.

    forces: (B,) forces used; n_steps + 1 where a chain is done. component: (B,) the heaviest splat
    at the last position. energy: (B,) there, over the list.
    """

    forces: NDArray[np.int64]
    component: NDArray[np.int64]
    energy: Float32Array


def follow(
    lists: NeighbourLists,
    chains: Chains,
    schedule: Schedule,
    splats: NDArray[np.int64],
    log_eps: float,
    patience: int,
) -> Followed:
    """Run BAOAB over certified lists, with a new list wherever one fails.

    A new list is anchored at the heaviest splat if it is another than the last one tried, else at
    the chain's position. A chain is given up, before the force in question is used, where a list
    around its own position has lasted for fewer than `patience` forces.

    Args:
        lists: of a plain mixture energy.
        chains: updated in place.
        schedule: constants of the run.
        splats: (B,) splat to start each list from, -1 for the chain's position.
        log_eps: log of the fraction of the mass that a list may lose.
        patience: at least 1.
    """
    energy, device = lists.energy, lists.energy.device
    anchored, tried = splats.copy(), splats.copy()
    since = np.zeros(len(chains), np.int64)
    given_up = np.zeros(len(chains), bool)
    current = lists.at(anchored, chains.x)
    staged = {
        "anchor": device.array(current.anchor),
        "idx": device.array(current.idx, "i32"),
        "outer": device.array(current.outer),
    }
    x, v = device.array(chains.x), device.array(chains.v)
    per_launch = FORCES_PER_DISPATCH if device.name == "wgpu" else _FORCES_PER_LOOK
    launch = device.prepare(
        "langevin_baoab_list",
        x=x,
        v=v,
        chain=device.array(chains.ids, "i32"),
        h=device.array(chains.h),
        **energy.arrays,
        **staged,
        envelope=lists.envelope,
        state=np.zeros((len(chains), 2), np.int32),
        energy=np.zeros(len(chains), np.float32),
        half_step=schedule.dt / 2,
        decay=schedule.decay,
        noise=schedule.noise,
        log_eps=log_eps,
        seed=schedule.seed,
        n_steps=schedule.n_steps,
        forces=per_launch,
    )
    forces = np.zeros(len(chains), np.int64)
    while True:
        for _ in range(_FORCES_PER_LOOK // per_launch):
            launch()
        before = forces
        state = launch.outputs["state"].numpy().astype(np.int64)
        forces, heaviest = state[:, 0], state[:, 1]
        running = (forces <= schedule.n_steps) & ~given_up
        failing = running & (forces - before < _FORCES_PER_LOOK)
        given_up |= failing & (anchored < 0) & (forces - since < patience)
        renew = np.flatnonzero(failing & ~given_up)
        if len(renew):
            anchored[renew] = np.where(heaviest != tried, heaviest, -1)[renew]
            tried[renew] = heaviest[renew]
            since[renew] = forces[renew]
            fresh = lists.at(anchored[renew], x.numpy()[renew])
            for kept, new, on_device in zip(current, fresh, staged.values(), strict=True):
                kept[renew] = new
                on_device.write(kept)
        elif not (running & ~given_up).any():
            break
    chains.x[...], chains.v[...] = x.numpy(), v.numpy()
    return Followed(forces, heaviest, launch.outputs["energy"].numpy())
