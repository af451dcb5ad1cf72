"""Kernels by name: wgsl/<stem>.wgsl beside kernels/<stem>.py is all it takes to be one.

A family is one WGSL text, whose first line is `//!family`, beside a module that declares `KERNELS`:
any number of kernels named <stem>_<member>.
"""

from __future__ import annotations

import difflib
import importlib
from functools import cache
from importlib.resources import files

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels.spec import Kernel

FAMILY_MARK = "//!family"


@cache
def _sources() -> dict[str, bool]:
    """Stems of all WGSL files, and whether each is a family."""
    found = {}
    for entry in files("ebm_wgpu.wgsl").iterdir():
        if entry.name.endswith(".wgsl"):
            text = entry.read_text(encoding="utf-8")
            found[entry.name.removesuffix(".wgsl")] = text.startswith(FAMILY_MARK)
    return found


@cache
def _family(source: str) -> dict[str, Kernel]:
    """The kernels of one family by stem."""
    members: dict[str, Kernel] = {}
    for kernel in importlib.import_module(f"ebm_wgpu.kernels.{source}").KERNELS:
        if kernel.source != source or not kernel.stem.startswith(f"{source}_"):
            raise KernelError(f"kernels/{source}.py declares {kernel.stem!r} of another family")
        if kernel.stem in members or kernel.stem in _sources():
            raise KernelError(f"kernels/{source}.py declares {kernel.stem!r} a second time")
        members[kernel.stem] = kernel
    return members


@cache
def kernel_names() -> tuple[str, ...]:
    """Stems of all kernels, sorted."""
    names: list[str] = []
    for source, is_family in _sources().items():
        names += _family(source) if is_family else [source]
    return tuple(sorted(names))


def _find(stem: str) -> Kernel | None:
    sources = _sources()
    if sources.get(stem) is False:
        kernel: Kernel = importlib.import_module(f"ebm_wgpu.kernels.{stem}").KERNEL
        if kernel.stem != stem:
            raise KernelError(f"kernels/{stem}.py declares {kernel.stem!r}; the stems must agree")
        return kernel
    for source, is_family in sources.items():
        if is_family and stem.startswith(f"{source}_"):
            member = _family(source).get(stem)
            if member is not None:
                return member
    return None


@cache
def get_kernel(stem: str) -> Kernel:
    """The declaration of one kernel.

    Raises:
        KernelError: no kernel has that name, or its module and its WGSL do not belong together.
    """
    kernel = _find(stem)
    if kernel is None:
        near = difflib.get_close_matches(stem, kernel_names(), 1)
        hint = f"did you mean {near[0]}?" if near else "see `ebm verify-kernels --list`"
        raise KernelError(f"no kernel is called {stem!r}; {hint}")
    if not kernel.cases:
        raise KernelError(f"kernel {stem} has no cases; nothing may run unproven")
    return kernel
