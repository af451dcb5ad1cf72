"""Splats: the store and its file, initial directions, EM, and neighbour search.

`SplatStore` and `History` can be imported from here; they are loaded when first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebm_wgpu.splats.store import History, SplatStore

__all__ = ["History", "SplatStore"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from ebm_wgpu.splats import store

        return getattr(store, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
