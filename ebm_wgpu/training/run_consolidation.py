"""Consolidation of a trained run: its training states become the stored splats of its model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ebm_wgpu.config import Config, apply_overrides
from ebm_wgpu.errors import CheckpointError, ConfigError, DataError
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models.recall import Neighbours
from ebm_wgpu.models.splat_transformer import SplatTransformer
from ebm_wgpu.splats.consolidation import Consolidation, Round
from ebm_wgpu.splats.search_quality import Float32Array, SearchQuality, measure_search
from ebm_wgpu.splats.store import SplatStore
from ebm_wgpu.text.datasets import TokenStream, evaluation_batches
from ebm_wgpu.training.checkpoints import read_checkpoint, write_checkpoint
from ebm_wgpu.training.loading import load_run
from ebm_wgpu.training.model_state import model_weights
from ebm_wgpu.training.run_data import RunData

_FIT_POSITIONS = 16384
"""Held-out positions by which the gate to the stored splats is chosen."""
_QUALITY_QUERIES = 512
"""Of them, those by which the search among the splats is judged."""
_LOADING_SHARE = 0.6
"""Share of the time that reading states may take; the rest is for the gate and the checkpoint."""


@dataclass(frozen=True)
class ConsolidationReport:
    """What consolidation did.

    Attributes:
        rounds: of the buffer.
        states: training states read.
        splats: splats kept.
        gain: of the splats on the held-out text, nats a token.
        tilt_length: fitted length of the tilt h.
        search: what the search among the splats finds and drops on that text, weights as fitted.
        seconds: all it took.
    """

    rounds: tuple[Round, ...]
    states: int
    splats: int
    gain: float
    tilt_length: float
    search: SearchQuality
    seconds: float


@torch.no_grad()
def consolidate(
    model: SplatTransformer,
    data: RunData,
    config: Config,
    seconds: float | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> ConsolidationReport:
    """Give `model` stored splats made of training states, and a gate fitted on held-out text.

    Windows are those of evaluation without overlap, in random order, so that what is read when the
    time is over is a sample of the whole text.

    Args:
        model: the model; splats it had are replaced.
        data: the texts; `data.heldout` must not be empty.
        config: of the run: sections memory, data and train, and model.n_splats, the most splats.
        seconds: time for all of it, roughly.
        on_batch: called with the number of states read so far.

    Raises:
        DataError: no training text was held out.
    """
    start = time.perf_counter()
    if len(data.heldout) == 0:
        raise DataError(
            "no training text was held out to fit the gate on: train with data.heldout_tokens=32768"
        )
    model.eval()
    model.store_splats(None)
    memory = config.memory
    soc = Consolidation(
        model.config.dim,
        config.model.n_splats,
        buffer=memory.buffer,
        merge_cosine=memory.merge_cosine,
        weight_decay=memory.weight_decay,
    )
    block = config.data.block_size
    starts = np.arange(0, len(data.train) - block - 1, block, dtype=np.int64)
    starts = np.random.default_rng(config.train.seed).permutation(starts)
    rows, read = max(1, config.train.batch_size), 0
    # Some batches fill the buffer, and then a round of merging takes far longer than the others.
    slowest, before = 0.0, start
    for first in range(0, len(starts), rows):
        now = time.perf_counter()
        slowest, before = max(slowest, now - before), now
        late = seconds is not None and now - start + slowest > _LOADING_SHARE * seconds
        if late or read >= memory.states:
            break
        window = data.train.windows(starts[first : first + rows], block + 1)
        tokens = torch.from_numpy(window).long()
        reading = model.read(tokens[:, :-1], tokens[:, 1:])
        keys = reading.keys.flatten(0, 1).numpy()
        soc.observe(keys, -reading.log_p.flatten().numpy(), window[:, 1:].reshape(-1))
        read += len(keys)
        if on_batch is not None:
            on_batch(read)
    soc.consolidate()
    gain, quality = _fit_gate(model, soc, data.heldout, config, data.tokenizer.start_id)
    return ConsolidationReport(
        rounds=tuple(soc.rounds),
        states=read,
        splats=len(soc),
        gain=gain,
        tilt_length=float(model.recall.log_length.exp()),
        search=quality,
        seconds=time.perf_counter() - start,
    )


def _fit_gate(
    model: SplatTransformer, soc: Consolidation, text: TokenStream, config: Config, start_id: int
) -> tuple[float, SearchQuality]:
    """Store the splats, choose tilt and gate; nats a token gained on the text, and the search."""
    log_p, queries, targets, count = [], [], [], 0
    data = config.data
    for window in evaluation_batches(text, data.eval_context, data.eval_stride, 1, start_id):
        tokens = torch.from_numpy(window.tokens).long()
        scored = torch.from_numpy(window.scored)
        reading = model.read(tokens[:, :-1], tokens[:, 1:])
        log_p.append(reading.log_p[scored])
        queries.append(reading.queries[scored])
        targets.append(tokens[:, 1:][scored])
        count += len(targets[-1])
        if count >= _FIT_POSITIONS:
            break
    store = soc.store(model.kappa, model.kappa_range)
    model.store_splats(store)
    found = [model.neighbours(part) for part in queries]
    neighbours = Neighbours(*(torch.cat(part) for part in zip(*found, strict=True)))
    gain = model.recall.fit(torch.cat(log_p), neighbours, torch.cat(targets))
    every = max(1, count // _QUALITY_QUERIES)
    return gain, _search_quality(model, store, torch.cat(queries)[::every][:_QUALITY_QUERIES])


def _search_quality(
    model: SplatTransformer, store: SplatStore, queries: torch.Tensor
) -> SearchQuality:
    """Recall of the search among stored splats, and the share of the weights W_k that it drops."""
    sids, prior = torch.from_numpy(store.sid), torch.from_numpy(np.log(store.alpha))

    def log_weights(cosines: Float32Array) -> Float32Array:
        every = Neighbours(torch.from_numpy(cosines), prior.expand(cosines.shape), sids)
        return model.recall.log_weights(every).numpy()

    k = min(model.n_neighbours, len(store))
    return measure_search(model.stored_search, store, queries.numpy(), k, log_weights)


def consolidate_run(
    path: str | Path,
    device: KernelDevice,
    seconds: float | None = None,
    on_batch: Callable[[int], None] | None = None,
    overrides: Iterable[str] = (),
) -> ConsolidationReport:
    """Consolidate the last checkpoint of a run, and write the result as its next and best one.

    Args:
        path: run folder.
        device: runs the model's kernels.
        seconds, on_batch: as for `consolidate`.
        overrides: values of the section memory, and of model.n_splats, that the run has from now
            on.

    Raises:
        CheckpointError: no run or checkpoint there, or it cannot be written.
        ConfigError: a model of another kind, or an override of anything else.
        DataError: no training text was held out.
    """
    loaded = load_run(path, device, "last")
    model, run = loaded.model, loaded.run
    config = _changed(loaded.config, tuple(overrides))
    if not isinstance(model, SplatTransformer):
        raise ConfigError(
            f"model.family={config.model.family} with model.context={config.model.context} stores "
            "no states: train with model.family=splat model.context=transformer"
        )
    model.n_neighbours, model.search_kind = config.memory.n_neighbours, config.memory.search
    data = RunData.load(config, loaded.tokenizer)
    report = consolidate(model, data, config, seconds, on_batch)
    state = read_checkpoint(run.checkpoint_path(loaded.step)).trainer_state()
    step = loaded.step + 1
    try:
        state["progress"] |= {"step": step, "best_step": step}
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{run.checkpoint_path(loaded.step)} was written by another version of the trainer: "
            "use that version, or start a new run"
        ) from error
    state["config"] = config.to_json()
    store, weights = model_weights(model)
    with run.lock():
        run.write_config(config)
        tokenizer = loaded.tokenizer.fingerprint
        write_checkpoint(run.checkpoints, step, store, weights, state, tokenizer)
        run.commit(step, step)
    return report


def _changed(config: Config, overrides: tuple[str, ...]) -> Config:
    """`config` with overrides of what consolidation goes by."""
    for override in overrides:
        key = override.partition("=")[0].strip()
        if not key.startswith("memory.") and key != "model.n_splats":
            raise ConfigError(
                f"{key} of a trained run stays as it is: change memory.* or model.n_splats"
            )
    return apply_overrides(config, overrides)
