"""Consolidation of a trained run: its training states become the stored splats of its model."""

from __future__ import annotations

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
from ebm_wgpu.training.placement import host_reading, place_of
from ebm_wgpu.training.run_data import RunData
from ebm_wgpu.training.time_budget import TimeBudget

_FIT_POSITIONS = 16384
"""Held-out positions by which the gate to the stored splats is chosen."""
_QUALITY_QUERIES = 512
"""Of them, those by which the search among the splats is judged, where there is no time limit."""
_QUICK_QUERIES = 64
"""The same under a time limit: each is compared with all splats."""
_READING_SHARE = 0.6
"""Share of the time by which training and held-out states are read, and the former merged."""
_SEARCHING_SHARE = 0.85
"""Share by which stored splats near the held-out states are found; the rest is for the gate."""


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
    time is over is a sample of the whole text. With a time limit, fewer held-out positions fit the
    gate as well, where finding their splats takes long.

    Args:
        model: the model; splats it had are replaced.
        data: the texts; `data.heldout` must not be empty.
        config: of the run: sections memory, data and train, and model.n_splats, the most splats.
        seconds: time for all of it, roughly.
        on_batch: called with the number of states read so far.

    Raises:
        DataError: no training text was held out.
    """
    budget = TimeBudget(seconds)
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
    # What is ahead: this batch, which may fill the buffer; what then waits; and held-out windows.
    windows = min(_FIT_POSITIONS, len(data.heldout)) / config.data.eval_stride
    tokens_ahead = rows * block + windows * config.data.eval_context
    reading_seconds = slowest_merge = 0.0
    for first in range(0, len(starts), rows):
        ahead = tokens_ahead * reading_seconds / max(read, 1) + 2 * slowest_merge
        late = read > 0 and not budget.allows(ahead, _READING_SHARE)
        if late or read >= memory.states:
            break
        begin = budget.spent
        window = data.train.windows(starts[first : first + rows], block + 1)
        tokens = torch.from_numpy(window).long()
        reading = host_reading(model, tokens[:, :-1], tokens[:, 1:])
        keys = reading.keys.flatten(0, 1).numpy()
        reading_seconds += budget.spent - begin
        begin = budget.spent
        soc.observe(keys, -reading.log_p.flatten().numpy(), window[:, 1:].reshape(-1))
        slowest_merge = max(slowest_merge, budget.spent - begin)
        read += len(keys)
        if on_batch is not None:
            on_batch(read)
    soc.consolidate()
    gain, quality = _fit_gate(model, soc, data.heldout, config, data.tokenizer.start_id, budget)
    return ConsolidationReport(
        rounds=tuple(soc.rounds),
        states=read,
        splats=len(soc),
        gain=gain,
        tilt_length=float(model.recall.log_length.exp()),
        search=quality,
        seconds=budget.spent,
    )


def _fit_gate(
    model: SplatTransformer,
    soc: Consolidation,
    text: TokenStream,
    config: Config,
    start_id: int,
    budget: TimeBudget,
) -> tuple[float, SearchQuality]:
    """Store the splats, choose tilt and gate; nats a token gained on the text, and the search."""
    log_p, queries, targets, count = [], [], [], 0
    data = config.data
    for window in evaluation_batches(text, data.eval_context, data.eval_stride, 1, start_id):
        tokens = torch.from_numpy(window.tokens).long()
        scored = torch.from_numpy(window.scored)
        reading = host_reading(model, tokens[:, :-1], tokens[:, 1:])
        log_p.append(reading.log_p[scored])
        queries.append(reading.queries[scored])
        targets.append(tokens[:, 1:][scored])
        count += len(targets[-1])
        if count >= _FIT_POSITIONS:
            break
    store = soc.store(model.kappa, model.kappa_range)
    model.store_splats(store)
    found: list[Neighbours] = []
    slowest = 0.0
    for part in queries:
        if found and not budget.allows(slowest, _SEARCHING_SHARE):
            break
        begin = budget.spent
        found.append(model.neighbours(part))
        slowest = max(slowest, budget.spent - begin)
    neighbours = Neighbours(*(torch.cat(part) for part in zip(*found, strict=True)))
    place = place_of(model)
    model.recall.cpu()
    used = slice(len(found))
    gain = model.recall.fit(torch.cat(log_p[used]), neighbours, torch.cat(targets[used]))
    judged = torch.cat(queries)
    most = _QUICK_QUERIES if budget.limited else _QUALITY_QUERIES
    quality = _search_quality(model, store, judged[:: max(1, len(judged) // most)][:most])
    model.recall.to(place)
    return gain, quality


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
        seconds: time for all of it but writing the checkpoint, roughly.
        on_batch: as for `consolidate`.
        overrides: values of the section memory, and of model.n_splats, that the run has from now
            on.

    Raises:
        CheckpointError: no run or checkpoint there, or it cannot be written.
        ConfigError: a model of another kind, or an override of anything else.
        DataError: no training text was held out.
    """
    budget = TimeBudget(seconds)
    loaded = load_run(path, device, "last")
    model, run = loaded.model.storing_model, loaded.run
    config = _changed(loaded.config, tuple(overrides))
    if model is None:
        raise ConfigError(
            f"model.family={config.model.family} with model.context={config.model.context} stores "
            "no states: train with model.family=splat model.context=transformer"
        )
    model.n_neighbours, model.search_kind = config.memory.n_neighbours, config.memory.search
    data = RunData.load(config, loaded.tokenizer)
    report = consolidate(model, data, config, budget.left, on_batch)
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
