"""Memory and disk space a run has and uses."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil

from ebm_wgpu.files import writing
from ebm_wgpu.kernels.device import KernelDevice, WgpuDevice


def memory(device: KernelDevice) -> dict[str, int]:
    """Bytes in use: "resident" of this process, and "device" where the kernels have a GPU."""
    used = {"resident": int(psutil.Process().memory_info().rss)}
    if isinstance(device, WgpuDevice):
        used["device"] = device.runtime.pool.allocated_bytes
    return used


def free_space(folder: Path) -> int:
    """Bytes free on the disk of `folder`.

    Raises:
        CheckpointError: the folder is gone.
    """
    with writing(folder):
        return shutil.disk_usage(folder).free


def size_of(folder: Path) -> int:
    """Bytes of the files in `folder`; 0 where it is gone."""
    if not folder.is_dir():
        return 0
    return sum(file.stat().st_size for file in folder.iterdir())
