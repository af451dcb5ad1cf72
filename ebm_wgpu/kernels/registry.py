"""Kernels by name: wgsl/<stem>.wgsl beside kernels/<stem>.py is all it takes to be one."""

from __future__ import annotations

import difflib
import importlib
from functools import cache
from importlib.resources import files

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels.spec import Kernel


@cache
def kernel_names() -> tuple[str, ...]:
    """Stems of all kernels, sorted."""
    entries = files("ebm_wgpu.wgsl").iterdir()
    return tuple(sorted(e.name.removesuffix(".wgsl") for e in entries if e.name.endswith(".wgsl")))


@cache
def get_kernel(stem: str) -> Kernel:
    """The declaration of one kernel.

    Raises:
        KernelError: no kernel has that name, or its module and its WGSL do not belong together.
    """
    if stem not in kernel_names():
        near = difflib.get_close_matches(stem, kernel_names(), 1)
        hint = f"did you mean {near[0]}?" if near else "see `ebm verify-kernels --list`"
        raise KernelError(f"no kernel is called {stem!r}; {hint}")
    kernel = importlib.import_module(f"ebm_wgpu.kernels.{stem}").KERNEL
    if kernel.stem != stem:
        raise KernelError(f"kernels/{stem}.py declares {kernel.stem!r}; the stems must agree")
    if not kernel.cases:
        raise KernelError(f"kernel {stem} has no cases; nothing may run unproven")
    return kernel
