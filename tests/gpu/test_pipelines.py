"""Pipelines by their code, and bind groups by the memory they refer to."""

import numpy as np
import pytest

from ebm_wgpu.gpu import pipelines
from ebm_wgpu.gpu.runtime import GpuRuntime

ADD_ONE = """
@group(0) @binding(0) var<storage, read_write> x: array<u32>;
@compute @workgroup_size(1)
fn main(@builtin(workgroup_id) group: vec3<u32>) { x[group.x] += 1u; }
"""


@pytest.fixture(scope="module")
def runtime() -> GpuRuntime:
    return GpuRuntime()


def test_the_same_code_is_compiled_once(runtime: GpuRuntime) -> None:
    first = runtime.pipeline(ADD_ONE, [True], 0, "first")
    assert runtime.pipeline(ADD_ONE, [True], 0, "second") is first
    assert runtime.pipeline(ADD_ONE.replace("1u", "2u"), [True], 0, "third") is not first


def test_bind_groups_beyond_the_bound_are_made_anew(
    runtime: GpuRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines, "MAX_BIND_GROUPS", 3)
    pipeline = runtime.pipeline(ADD_ONE, [True], 0, "add_one")
    pipeline.bind_groups.clear()
    buffers = [runtime.upload(np.zeros(2, np.uint32)) for _ in range(5)]
    for _ in range(2):
        for buffer in buffers:
            runtime.dispatch(pipeline, [buffer], b"", 2)
            assert 0 < len(pipeline.bind_groups) <= 3
    for buffer in buffers:
        assert runtime.read(buffer, np.dtype(np.uint32), (2,)).tolist() == [2, 2]
