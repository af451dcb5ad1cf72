"""A curriculum as options a configuration can hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from ebm_wgpu.models.registry import learns_splats
from ebm_wgpu.options import option

if TYPE_CHECKING:
    from ebm_wgpu.config import Config


@dataclass(frozen=True)
class CurriculumConfig:
    """Phases of training with more and more splats, at a falling temperature."""

    splats: tuple[int, ...] | None = option(
        None,
        "number of splats in each phase, such as 5000,30000,50000, the last being model.n_splats "
        "(none: all of them from the start)",
        ge=1,
    )
    temperatures: tuple[float, ...] = option(
        (1.2, 1.1, 1.0), "temperature of each phase, the last being energy.temperature", gt=0
    )
    shares: tuple[float, ...] = option(
        (0.2, 0.3, 0.5),
        "how the phases share the steps of the run, or its minutes where these end it; any scale",
        gt=0,
    )
    states: int = option(
        32768, "training states looked at to choose the new splats of a phase", ge=1
    )


def curriculum_disagreements(config: Config) -> Iterator[tuple[bool, str]]:
    """What of a configuration its curriculum does not go with."""
    curriculum, model, energy = config.curriculum, config.model, config.energy
    splats, temperatures = curriculum.splats, curriculum.temperatures
    if splats is None:
        return
    for name, values in (("temperatures", temperatures), ("shares", curriculum.shares)):
        yield (
            len(values) != len(splats),
            f"curriculum.{name} has {len(values)} values and curriculum.splats {len(splats)}: give "
            "one a phase",
        )
    yield (
        any(before >= after for before, after in pairwise(splats)) or splats[-1] != model.n_splats,
        f"curriculum.splats={_listed(splats)} must rise to model.n_splats={model.n_splats}",
    )
    yield (
        any(before < after for before, after in pairwise(temperatures))
        or temperatures[-1] != energy.temperature,
        f"curriculum.temperatures={_listed(temperatures)} must fall to "
        f"energy.temperature={energy.temperature:g}",
    )
    yield (
        not learns_splats(config),
        f"curriculum.splats must be none for model.family={model.family} with "
        f"model.context={model.context}: its splats do not learn",
    )
    yield (
        energy.form != "normalized",
        f"curriculum.splats needs energy.form=normalized: in energy.form={energy.form} a weight is "
        "a depth as well, which cannot be shared",
    )
    for key, size in (
        ("energy.n_neighbours", energy.n_neighbours),
        ("sampler.list_size", config.sampler.list_size),
        ("energy.term_neighbours", energy.term_neighbours),
    ):
        yield size > splats[0], f"{key}={size} must be <= {splats[0]}, the first curriculum.splats"


def _listed(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
