import os

import numpy as np
import pytest

from ebm_wgpu.errors import CheckpointError
from ebm_wgpu.training.resources import free_space, memory, size_of


def test_memory_grows_with_what_is_held(numba_device):
    before = memory(numba_device)
    held = np.ones(1 << 24)
    after = memory(numba_device)
    # Half of it at least, whatever else the process gave back meanwhile.
    assert after["resident"] - before["resident"] > held.nbytes // 2
    assert "device" not in after


def test_a_gpu_has_memory_of_its_own(wgpu_device):
    before = memory(wgpu_device)["device"]
    held = wgpu_device.array(np.ones((1 << 20, 4), np.float32))
    assert memory(wgpu_device)["device"] - before >= held.numpy().nbytes


def test_space_and_sizes_are_bytes(tmp_path):
    stats = os.statvfs(tmp_path)
    assert free_space(tmp_path) == pytest.approx(stats.f_bavail * stats.f_frsize, rel=0.05)
    (tmp_path / "a").write_bytes(b"x" * 10)
    (tmp_path / "b").write_bytes(b"x" * 5)
    assert size_of(tmp_path) == 15
    assert size_of(tmp_path / "absent") == 0
    with pytest.raises(CheckpointError, match="absent"):
        free_space(tmp_path / "absent")
