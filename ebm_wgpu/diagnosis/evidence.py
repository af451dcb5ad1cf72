"""What a run folder tells about a run, whatever the family of its model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ebm_wgpu.config import Config
from ebm_wgpu.errors import CheckpointError
from ebm_wgpu.splats.health import SplatHealth, splat_health
from ebm_wgpu.splats.store import SplatStore
from ebm_wgpu.training.checkpoints import Checkpoint, read_checkpoint
from ebm_wgpu.training.run_folder import LOG_FILE, RunFolder

_HISTOGRAM_BINS = 40


@dataclass(frozen=True)
class Spread:
    """A histogram: counts (n,) of values between edges (n + 1,)."""

    counts: tuple[int, ...]
    edges: tuple[float, ...]


@dataclass(frozen=True)
class CheckpointState:
    """One checkpoint of a run.

    Attributes:
        step: optimiser steps behind it.
        names: "best", "last", both or none.
        damage: what is wrong with it, or none.
        splats: the state of its splats, none for a model without.
        changed: |w - w'| / |w'| over all tensors but the splats' directions, w' those of the
            checkpoint before; none for the first, and after a damaged one.
        moved: mean angle, in degrees, from the direction each splat had in the checkpoint before;
            none where the number of splats is another.
        spreads: histograms of the splats: "kappa", "log10 weight" and "log10 use", both as
            multiples of the even share.
    """

    step: int
    names: tuple[str, ...]
    damage: str | None = None
    splats: SplatHealth | None = None
    changed: float | None = None
    moved: float | None = None
    spreads: Mapping[str, Spread] | None = None


@dataclass(frozen=True)
class Evidence:
    """All that is known of a run.

    Attributes:
        path: its folder.
        config: its configuration.
        records: its metrics, up to the step that was asked for.
        log: lines of its log.
        checkpoints: by step, ascending, up to the step that was asked for.
    """

    path: Path
    config: Config
    records: tuple[Mapping[str, Any], ...]
    log: tuple[str, ...]
    checkpoints: tuple[CheckpointState, ...]

    @property
    def step(self) -> int:
        """The last step anything is known of."""
        steps = [record["step"] for record in self.records[-1:]]
        return max([*steps, *(state.step for state in self.checkpoints)], default=0)

    @property
    def elapsed(self) -> float | None:
        """Seconds of training so far, none before the first line that tells."""
        known = (record["elapsed"] for record in reversed(self.records) if "elapsed" in record)
        return next(known, None)

    @property
    def latest(self) -> CheckpointState | None:
        """The last checkpoint that is whole."""
        return next((state for state in reversed(self.checkpoints) if not state.damage), None)


def gather(path: str | Path) -> Evidence:
    """The evidence of a run, or of one of its checkpoints and what came before it.

    Every checkpoint is verified. A damaged one is evidence, too.

    Raises:
        CheckpointError: no run there, or its configuration or metrics cannot be read.
    """
    run, step = RunFolder.locate(path)
    limit = math.inf if step is None else step
    records = [record for record in run.read_metrics() if record["step"] <= limit]
    log_path = run.path / LOG_FILE
    log = log_path.read_text("utf-8", errors="replace") if log_path.is_file() else ""
    return Evidence(
        path=run.path,
        config=run.read_config(),
        records=tuple(records),
        log=tuple(log.splitlines()),
        checkpoints=tuple(_checkpoints(run, limit)),
    )


def _checkpoints(run: RunFolder, limit: float) -> Iterator[CheckpointState]:
    names: dict[int, tuple[str, ...]] = {}
    for name in ("best", "last"):
        try:
            step = run.pointer(name)
        except CheckpointError:
            continue
        if step is not None:
            names[step] = (*names.get(step, ()), name)
    before: Checkpoint | None = None
    for step in run.steps():
        if step > limit:
            return
        try:
            checkpoint = read_checkpoint(run.checkpoint_path(step))
        except CheckpointError as error:
            before = None
            yield CheckpointState(step, names.get(step, ()), damage=str(error))
            continue
        store = checkpoint.store
        yield CheckpointState(
            step=step,
            names=names.get(step, ()),
            splats=None if store is None else splat_health(store),
            changed=None if before is None else _change(before.weights, checkpoint.weights),
            moved=None if before is None else _movement(before.store, store),
            spreads=None if store is None else _spreads(store),
        )
        before = checkpoint


def _change(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> float | None:
    """|after - before| / |before| over the tensors of floating point that both have."""
    moved = size = 0.0
    for name, old in before.items():
        new = after.get(name)
        if new is not None and new.shape == old.shape and old.is_floating_point():
            moved += float((new.double() - old.double()).square().sum())
            size += float(old.double().square().sum())
    return math.sqrt(moved / size) if size > 0 else None


def _movement(before: SplatStore | None, after: SplatStore | None) -> float | None:
    """Mean angle between the rows of two stores, degrees."""
    if before is None or after is None or before.mu.shape != after.mu.shape:
        return None
    chord = np.linalg.norm(before.mu.astype(np.float64) - after.mu, axis=1)
    return float(np.degrees(2 * np.arcsin(np.clip(chord / 2, 0, 1))).mean())


def _spreads(store: SplatStore) -> dict[str, Spread]:
    count = len(store)
    use = store.frequency[store.frequency > 0]
    values = {
        "kappa": store.kappa.astype(np.float64),
        "log10 weight": (store.log_pi + math.log(count)) / math.log(10),
        "log10 use": np.log10(use * (count / use.sum())) if len(use) else use,
    }
    return {name: _histogram(array) for name, array in values.items() if len(array)}


def _histogram(values: np.ndarray[Any, np.dtype[np.float64]]) -> Spread:
    counts, edges = np.histogram(values, bins=_HISTOGRAM_BINS)
    return Spread(tuple(counts.tolist()), tuple(edges.tolist()))
