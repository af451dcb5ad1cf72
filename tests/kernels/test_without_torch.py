"""Kernels and the runtime below them work where torch is not installed."""

from __future__ import annotations

import subprocess
import sys

_IMPORT_ALL = """
import importlib, pkgutil, sys
sys.modules["torch"] = None  # whoever imports it now gets an ImportError
import ebm_wgpu.gpu, ebm_wgpu.kernels
count = 0
for package in (ebm_wgpu.gpu, ebm_wgpu.kernels):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
        count += 1
assert not [name for name in sys.modules if name.startswith("torch.")]
print(count)
"""


def test_no_module_of_gpu_or_kernels_imports_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100
