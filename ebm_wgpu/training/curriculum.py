"""The curriculum: few splats at a high temperature first, then more of them, at a lower one.

A phase ends when its share of the run is over; the model then grows (`ebm_wgpu.splats.growth`) and
goes on with weights, optimiser state and data position as they are. What grows depends on the
weights, the seed and the step alone, so that a run that is killed, in a phase or between two, ends
with the same bits as one that never was. A checkpoint belongs to the phase with its number of
splats, and is used at the temperature of that phase.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ebm_wgpu.config import Config
from ebm_wgpu.models.base import SplatModel
from ebm_wgpu.models.ops import chunks
from ebm_wgpu.splats.growth import Growth, States, grow
from ebm_wgpu.splats.store import SplatStore
from ebm_wgpu.text.datasets import TokenStream
from ebm_wgpu.training.placement import place_of
from ebm_wgpu.training.run_data import RunData
from ebm_wgpu.training.score_matching import Mixture, TiltedMixture
from ebm_wgpu.training.state import TrainingState

SOC_STATES = 1024
"""Training states that a measurement of the need for new splats looks at."""
_CHUNK_ENTRIES = 2**22
_STREAM = 0xC0A5E


@dataclass(frozen=True)
class Phase:
    """A part of a run.

    Attributes:
        number: from 1.
        config: the run with the splats and the temperature of this phase, and no curriculum.
        stop: share of the run at which it ends.
    """

    number: int
    config: Config
    stop: float


class Curriculum:
    """The phases of a run; a run without a curriculum has one.

    Attributes:
        phases: in order.
    """

    def __init__(self, config: Config) -> None:
        """The phases of a valid configuration."""
        given = config.curriculum
        if given.splats is None:
            self.phases: tuple[Phase, ...] = (Phase(1, config, 1.0),)
            return
        total = sum(given.shares)
        ends = [end / total for end in accumulate(given.shares)]
        parts = zip(given.splats, given.temperatures, ends, strict=True)
        self.phases = tuple(
            Phase(
                number,
                replace(
                    config,
                    model=replace(config.model, n_splats=n_splats),
                    energy=replace(config.energy, temperature=temperature),
                    curriculum=replace(given, splats=None),
                ),
                end,
            )
            for number, (n_splats, temperature, end) in enumerate(parts, 1)
        )

    def at(self, share: float) -> Phase:
        """The phase of a run of which `share` is over."""
        return next((phase for phase in self.phases if share < phase.stop), self.phases[-1])

    def of(self, store: SplatStore | None) -> Phase:
        """The phase that these splats were trained in: the last one if their number fits none."""
        n_splats = None if store is None else len(store)
        fitting = (p for p in self.phases if p.config.model.n_splats == n_splats)
        return next(fitting, self.phases[-1])

    def enter(self, state: TrainingState, data: RunData, share: float) -> TrainingState:
        """The state a run goes on from when `share` of it is over: another one where it grows.

        Its progress then holds what the next line of metrics tells of the growth.
        """
        phase, splats = self.at(share), state.model.splat_model
        before, after = state.config.model.n_splats, phase.config.model.n_splats
        if splats is None or after <= before:
            return state
        growth = grown_splats(splats, phase, data)
        state.progress.growth = {
            "from": before,
            "to": after,
            "uncovered": growth.uncovered,
            "critical": growth.critical,
            "used": growth.used,
        }
        return state.grown(phase.config, growth)

    def record(self, state: TrainingState) -> dict[str, Any]:
        """What a line of metrics says of the phase; nothing in a run without a curriculum."""
        if len(self.phases) == 1:
            return {}
        phase = next(p for p in self.phases if p.config == state.config)
        temperature = phase.config.energy.temperature
        return {"phase": {"number": phase.number, "temperature": temperature}}

    def soc(self, state: TrainingState, data: RunData) -> dict[str, Any]:
        """The rate at which splats were added, and the need for more, for a line of metrics.

        "rate", new splats a step since the last such line; "critical", the share of `SOC_STATES`
        training states that ask for a splat (`States.critical_share`). Nothing in a run without a
        curriculum.
        """
        splats, progress, config = state.model.splat_model, state.progress, state.config
        if splats is None or len(self.phases) == 1:
            return {}
        step, count = progress.soc_mark or (0, self.phases[0].config.model.n_splats)
        progress.soc_mark = (progress.step, config.model.n_splats)
        rng = np.random.default_rng([_STREAM, config.train.seed, progress.step, 0])
        states = read_states(splats, data.train, config, SOC_STATES, rng)
        return {
            "soc": {
                "rate": (config.model.n_splats - count) / max(progress.step - step, 1),
                "critical": states.critical_share(data.token_counts),
            }
        }


def checkpoint_config(config: Config, store: SplatStore | None) -> Config:
    """The configuration that a checkpoint of the run `config` with these splats is used with."""
    return Curriculum(config).of(store).config


@torch.no_grad()
def read_states(
    model: SplatModel, text: TokenStream, config: Config, count: int, rng: np.random.Generator
) -> States:
    """Contexts of random windows of a text, as the splats of `model` see them.

    Args:
        model: reads them.
        text: what to read; it has room for a window.
        config: length of the windows, and how many are read at a time.
        count: contexts, at most.
        rng: chooses the windows, none of which overlap.
    """
    length = config.data.block_size
    starts = np.arange(0, len(text) - length, length, dtype=np.int64)
    starts = rng.permutation(starts)[: -(-count // length)]
    sid = model.state_dict()["sid"].cpu().numpy()
    mixture = model.splats()
    directions, tokens, masses, splats = [], [], [], []
    for rows in chunks(len(starts), 1, config.train.batch_size):
        window = text.windows(starts[rows], length + 1)
        h = model.features(torch.from_numpy(window[:, :-1]).long().to(place_of(model))).h
        h = h.flatten(0, 1)
        target = window[:, 1:].reshape(-1).astype(np.int64)
        directions.append(torch.nn.functional.normalize(h, dim=-1).cpu().numpy())
        tokens.append(target)
        for part in chunks(len(h), len(sid), _CHUNK_ENTRIES):
            weight = TiltedMixture(Mixture(*mixture, h[part]), model.product).log_weight
            log_p = torch.log_softmax(weight.cpu().double(), 1).numpy()
            mass, splat = _of_tokens(log_p, sid, target[part])
            masses.append(mass)
            splats.append(splat)
    parts = (directions, tokens, masses, splats)
    return States(*(np.concatenate(part)[:count] for part in parts))


def _of_tokens(
    log_p: NDArray[np.float64], sid: NDArray[np.int64], tokens: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """log sum and argmax of log p(k|c) (B, N) over the splats of each token (B,)."""
    first, last = (np.searchsorted(sid, tokens, side) for side in ("left", "right"))
    mass, splat = np.full(len(tokens), -np.inf), np.full(len(tokens), -1)
    for row, (low, high) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        if low < high:
            held = log_p[row, low:high]
            mass[row] = np.logaddexp.reduce(held)
            splat[row] = low + held.argmax()
    return mass, splat


def grown_splats(model: SplatModel, phase: Phase, data: RunData) -> Growth:
    """The splats of `model` as it enters `phase`: more of them, see `ebm_wgpu.splats.growth`.

    Args:
        model: has the splats.
        phase: what is entered.
        data: gives the training text.
    """
    config, counts = phase.config, data.token_counts
    rng = np.random.default_rng([_STREAM, config.train.seed, phase.number])
    states = read_states(model, data.train, config, config.curriculum.states, rng)
    tokens = torch.arange(len(counts), device=place_of(model))
    with torch.no_grad():
        directions = model.token_latents(tokens).cpu().numpy()
    return grow(model.to_store(), config.model.n_splats, states, directions, counts, rng)
