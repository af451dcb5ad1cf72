"""Choose among equally right kernels by timing them once on each adapter.

Choices are kept in one JSON file an adapter in the user's cache folder, so that later processes
start with them. A file that is missing, damaged, or of another version counts as empty, and a
folder that cannot be written costs no more than measuring again. EBM_WGPU_AUTOTUNE=0 switches
measuring off and takes the first candidate; EBM_WGPU_AUTOTUNE=1 switches it on for software
adapters too, where it is off by default.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ebm_wgpu.errors import CheckpointError, DeviceError
from ebm_wgpu.files import locked, write_atomically
from ebm_wgpu.kernels.device import KernelDevice, WgpuDevice

VERSION = 1
"""Of the files; raised when kernels change so much that old choices mean nothing."""
VARIABLE = "EBM_WGPU_AUTOTUNE"
"""Environment variable: 0 never measures, 1 always does; unset, hardware adapters alone are
measured."""


def cache_folder() -> Path:
    """Where choices are kept: the `ebm-wgpu` folder of the user's cache folder."""
    from platformdirs import user_cache_path

    return user_cache_path("ebm-wgpu", appauthor=False)


class Autotuner:
    """Remembered choices of one adapter.

    Attributes:
        adapter: name and driver of the adapter.
        enabled: whether unknown choices are measured.
        path: the file of the choices, None to keep them in memory alone.
    """

    def __init__(self, adapter: str, enabled: bool, path: Path | None) -> None:
        """Choices are read when the first one is asked for."""
        self.adapter = adapter
        self.enabled = enabled
        self.path = path
        self._choices: dict[str, str] = {}
        self._loaded = False
        self._lock = threading.RLock()

    def choose(self, key: str, candidates: Sequence[str], seconds: Callable[[str], float]) -> str:
        """The fastest candidate, from memory where the key was measured before.

        Args:
            key: the problem, such as a class of shapes.
            candidates: equally right ways to solve it, the best guess first.
            seconds: measures one candidate; infinity rules it out.

        Returns:
            One of the candidates: the first where measuring is off, a single one unmeasured.
        """
        if not self.enabled or len(candidates) == 1:
            return candidates[0]
        with self._lock:
            if not self._loaded:
                self._choices = {**self._read(), **self._choices}
                self._loaded = True
            known = self._choices.get(key)
            if known is not None and known in candidates:
                return known
            times = {candidate: seconds(candidate) for candidate in candidates}
            best = min(candidates, key=times.__getitem__)
            if math.isfinite(times[best]):
                self._choices[key] = best
                self._write()
            return best

    def _read(self) -> dict[str, str]:
        if self.path is None:
            return {}
        try:
            document: Any = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        if not isinstance(document, dict) or document.get("version") != VERSION:
            return {}
        choices = document.get("choices")
        if document.get("adapter") != self.adapter or not isinstance(choices, dict):
            return {}
        return {key: value for key, value in choices.items() if isinstance(value, str)}

    def _write(self) -> None:
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Another process that holds the lock saves its choices; ours follow with the next one.
            with locked(self.path.with_suffix(".lock")):
                choices = {**self._read(), **self._choices}
                document = {"version": VERSION, "adapter": self.adapter, "choices": choices}
                text = json.dumps(document, indent=1, sort_keys=True) + "\n"
                write_atomically(self.path, text.encode())
        except (OSError, CheckpointError):
            return


def is_wanted(is_software: bool) -> bool:
    """Whether an adapter is to be measured, by its kind and the environment.

    Raises:
        DeviceError: EBM_WGPU_AUTOTUNE is neither 0 nor 1.
    """
    setting = os.environ.get(VARIABLE, "")
    if setting not in ("", "0", "1"):
        raise DeviceError(f"{VARIABLE}={setting!r} must be 0, 1 or unset")
    return setting == "1" or (setting == "" and not is_software)


def tuner_of(device: KernelDevice) -> Autotuner:
    """A tuner for a device; mirrors have nothing to choose, so that Numba's never measures.

    Raises:
        DeviceError: EBM_WGPU_AUTOTUNE is neither 0 nor 1.
    """
    if not isinstance(device, WgpuDevice):
        return Autotuner(device.description, False, None)
    enabled = is_wanted(device.runtime.info.is_software)
    adapter = device.runtime.info.summary
    name = hashlib.sha256(adapter.encode()).hexdigest()[:16]
    return Autotuner(adapter, enabled, cache_folder() / f"kernels-{name}.json")
