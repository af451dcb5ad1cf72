"""Shader modules without wgpu's checks: the same results and errors, in pipelines of their own."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_wgpu.errors import KernelError
from ebm_wgpu.gpu.runtime import GpuRuntime

SUMS = """
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
var<workgroup> shared_sums: array<u32, 8>;
@compute @workgroup_size(8)
fn main(@builtin(local_invocation_index) local: u32) {
    var sum = 0u;
    for (var i = 0u; i <= local; i += 1u) { sum += x[i]; }
    shared_sums[local] = sum;
    workgroupBarrier();
    out[local] = shared_sums[7u - local];
}
"""


@pytest.fixture(scope="module")
def runtime() -> GpuRuntime:
    return GpuRuntime()


@pytest.mark.parametrize("checked", [True, False])
def test_running_sums_backwards(runtime: GpuRuntime, checked: bool) -> None:
    x = np.arange(1, 9, dtype=np.uint32)
    out = runtime.pool.lease(32)
    pipeline = runtime.pipeline(SUMS, [False, True], 0, "sums", checked)
    runtime.dispatch(pipeline, [runtime.upload(x), out], b"", 1)
    found = runtime.read(out, x.dtype, x.shape)
    assert found.tolist() == x.cumsum()[::-1].tolist()


def test_checked_and_unchecked_code_are_two_pipelines(runtime: GpuRuntime) -> None:
    pipelines = [
        runtime.pipeline(SUMS, [False, True], 0, "sums", checked)
        for checked in (True, False, True, False)
    ]
    assert pipelines[0] is pipelines[2]
    assert pipelines[1] is pipelines[3]
    assert pipelines[0] is not pipelines[1]


@pytest.mark.parametrize("checked", [True, False])
def test_code_that_does_not_compile_is_refused_in_the_compilers_words(
    runtime: GpuRuntime, checked: bool
) -> None:
    with pytest.raises(KernelError, match=r"kernel sums does not compile(.|\n)*nonsense"):
        runtime.pipeline(
            SUMS.replace("sum += x[i]", "nonsense()"), [False, True], 0, "sums", checked
        )
