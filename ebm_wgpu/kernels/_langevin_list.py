"""The loop of the kernel `langevin_baoab_list` in Numba, one thread a chain."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from ebm_wgpu.kernels._langevin import FAST, drift_thermalise_drift, reproject
from ebm_wgpu.kernels._philox import seeded, split_seed
from ebm_wgpu.kernels.spec import Array

Listed = tuple[Array, Array, Array, Array]

# Splats with a smaller share of the list's mass do not pull: together less than rounding.
_NEGLIGIBLE = np.float32(1e-12)


@njit(cache=True, fastmath=FAST)
def _logits(x: Array, rows: Array, a: Array, log_w: Array, similarity: Array, logit: Array) -> None:
    for j in range(rows.shape[0]):
        total = np.float32(0)
        for i in range(x.shape[0]):
            total += rows[j, i] * x[i]
        similarity[j] = total
        logit[j] = log_w[j] + a[j] * (total - np.float32(1))


@njit(cache=True, fastmath=FAST)
def _chord_and_tilt(x: Array, anchor: Array, h: Array) -> tuple[np.float32, np.float32]:
    chord = np.float32(0)
    tilt = np.float32(0)
    for i in range(x.shape[0]):
        apart = x[i] - anchor[i]
        chord += apart * apart
        tilt += x[i] * h[i]
    return chord, tilt


@njit(cache=True)
def _certified(chord: np.float32, outer: Array, envelope: Array, allowed: np.float32) -> bool:
    one = np.float32(1)
    if outer[0] < -one:
        return True
    turned = one - np.float32(0.5) * chord
    below_one = np.float32(0)
    if turned > outer[0]:
        sine = np.sqrt(max(chord * (one - np.float32(0.25) * chord), np.float32(0)))
        below_one = outer[0] * turned + outer[1] * sine - one
    dropped = envelope[0, 0] + envelope[0, 1] * below_one
    for t in range(1, envelope.shape[0]):
        dropped = max(dropped, envelope[t, 0] + envelope[t, 1] * below_one)
    return dropped <= allowed


@njit(cache=True, fastmath=FAST)
def _kick(
    x: Array, v: Array, h: Array, rows: Array, pull: Array, outward: np.float32, kick: np.float32
) -> None:
    for i in range(x.shape[0]):
        v[i] += kick * (h[i] - outward * x[i])
    for j in range(pull.shape[0]):
        if pull[j] > 0:
            for i in range(x.shape[0]):
                v[i] += kick * pull[j] * rows[j, i]


@njit(cache=True)
def _gather(mu: Array, a: Array, log_w: Array, idx: Array) -> Listed:
    """Numbers, directions, concentrations and log weights of the splats that a list names."""
    used = 0
    for j in range(idx.shape[0]):
        used += idx[j] >= 0
    # The list's rows side by side fit the core's own cache; scattered over mu they do not.
    splats = np.empty(used, np.int32)
    rows = np.empty((used, mu.shape[1]), np.float32)
    a_list = np.empty(used, np.float32)
    log_w_list = np.empty(used, np.float32)
    used = 0
    for j in range(idx.shape[0]):
        k = idx[j]
        if k >= 0:
            splats[used] = k
            a_list[used] = a[k]
            log_w_list[used] = log_w[k]
            for i in range(mu.shape[1]):
                rows[used, i] = mu[k, i]
            used += 1
    return splats, rows, a_list, log_w_list


@njit(cache=True)
def _chain(
    x: Array,
    v: Array,
    state: Array,
    listed: Listed,
    h: Array,
    bounds: tuple[Array, Array, Array],
    move: tuple[np.float32, np.float32, np.float32],
    log_eps: np.float32,
    draw: tuple[np.uint32, tuple[np.uint32, np.uint32]],
    n_steps: int,
    end: int,
) -> np.float32:
    """Move one chain until its list fails or `end` forces are used; returns the last energy.

    Args:
        x, v, state, h: its row of each.
        listed: its splats, by `_gather`.
        bounds: its anchor and outer cosine, and the envelope.
        move: half_step, decay and noise.
        log_eps: as the kernel's.
        draw: its number and the key of the seed.
        n_steps: as the kernel's.
        end: forces to have used.
    """
    splats, rows, a, log_w = listed
    anchor, outer, envelope = bounds
    half_step, decay, noise = move
    chain, key = draw
    used = splats.shape[0]
    similarity = np.empty(used, np.float32)
    logit = np.empty(used, np.float32)
    pull = np.empty(used, np.float32)
    g = np.empty(x.shape[0], np.float32)
    log_mass = np.float32(0)
    tilt = np.float32(0)
    best = 0
    done = state[0]
    while done < end:
        _logits(x, rows, a, log_w, similarity, logit)
        chord, tilt = _chord_and_tilt(x, anchor, h)
        best = 0
        for j in range(1, used):
            if logit[j] > logit[best]:
                best = j
        peak = logit[best]
        total = np.float32(0)
        for j in range(used):
            pull[j] = np.exp(logit[j] - peak)
            total += pull[j]
        log_mass = peak + np.log(total)
        if not _certified(chord, outer, envelope, log_eps + log_mass):
            break
        outward = tilt
        for j in range(used):
            share = pull[j] / total
            pull[j] = share * a[j] if share > _NEGLIGIBLE else np.float32(0)
            outward += pull[j] * similarity[j]
        interior = done > 0 and done < n_steps
        _kick(x, v, h, rows, pull, outward, half_step + half_step if interior else half_step)
        if done < n_steps:
            drift_thermalise_drift(x, v, half_step, decay, noise, np.uint32(done), chain, key, g)
        else:
            reproject(x, v)
        done += 1
    state[0] = done
    state[1] = splats[best]
    return -log_mass - tilt


@seeded
@njit(parallel=True, cache=True)
def move_chains(
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
    energy: Array,
    half_step: float,
    decay: float,
    noise: float,
    log_eps: float,
    seed: int,
    n_steps: int,
    forces: int,
) -> None:
    """Move every chain until its list fails, it is done or `forces` more forces are used."""
    move = (np.float32(half_step), np.float32(decay), np.float32(noise))
    allowed = np.float32(log_eps)
    key = split_seed(seed)
    for b in prange(x.shape[0]):
        end = min(state[b, 0] + forces, n_steps + 1)
        if state[b, 0] < end:
            listed = _gather(mu, a, log_w, idx[b])
            bounds = (anchor[b], outer[b], envelope)
            draw = (np.uint32(chain[b]), key)
            energy[b] = _chain(
                x[b], v[b], state[b], listed, h[b], bounds, move, allowed, draw, n_steps, end
            )
