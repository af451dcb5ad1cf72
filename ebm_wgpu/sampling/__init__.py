"""Sampling from p(x | c): exact draws, and Langevin dynamics for what has no closed form.

The names below can be imported from here; they are loaded when first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebm_wgpu.sampling.exact import Draws, sample_exact
    from ebm_wgpu.sampling.langevin import LangevinResult, sample_langevin
    from ebm_wgpu.sampling.neighbour_lists import NeighbourLists

__all__ = ["Draws", "LangevinResult", "NeighbourLists", "sample_exact", "sample_langevin"]

_HOMES = {
    "Draws": "exact",
    "sample_exact": "exact",
    "LangevinResult": "langevin",
    "sample_langevin": "langevin",
    "NeighbourLists": "neighbour_lists",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
