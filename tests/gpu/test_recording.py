"""Recorded commands: what wgpu refuses is an error and is dropped; threads do not mix theirs."""

import struct
import threading

import numpy as np
import pytest

from ebm_wgpu.errors import DeviceError
from ebm_wgpu.gpu.pipelines import Pipeline
from ebm_wgpu.gpu.runtime import GpuRuntime

SCALE = """
struct Params { factor: u32, term: u32 }
var<immediate> params: Params;
@group(0) @binding(0) var<storage, read_write> x: array<u32>;
@compute @workgroup_size(1)
fn main(@builtin(workgroup_id) group: vec3<u32>) {
    x[group.x] = x[group.x] * params.factor + params.term;
}
"""
COUNT = 5
N_THREADS = 4
N_STEPS = 300


@pytest.fixture(scope="module")
def runtime() -> GpuRuntime:
    return GpuRuntime()


@pytest.fixture(scope="module")
def scale(runtime: GpuRuntime) -> Pipeline:
    return runtime.pipeline(SCALE, [True], 8, "scale")


@pytest.mark.parametrize(
    ("immediates", "words"),
    [(bytes(6), "aligned to 4 bytes"), (bytes(16), "overruns")],
)
def test_what_wgpu_refuses_is_an_error_and_leaves_the_runtime_whole(
    runtime: GpuRuntime, scale: Pipeline, immediates: bytes, words: str
) -> None:
    buffer = runtime.upload(np.ones(COUNT, np.uint32))
    runtime.dispatch(scale, [buffer], immediates, COUNT)
    with pytest.raises(DeviceError, match=f"refused 1 recorded commands.*{words}") as raised:
        runtime.flush()
    assert "\n" not in str(raised.value)
    runtime.dispatch(scale, [buffer], struct.pack("<2I", 3, 4), COUNT)
    assert runtime.read(buffer, np.dtype(np.uint32), (COUNT,)).tolist() == [7] * COUNT


def test_threads_that_share_a_runtime_get_the_results_of_one_after_the_other(
    runtime: GpuRuntime, scale: Pipeline
) -> None:
    results: dict[int, np.ndarray] = {}

    def work(seed: int) -> None:
        buffer = runtime.upload(np.arange(COUNT, dtype=np.uint32))
        for step in range(N_STEPS):
            runtime.dispatch(scale, [buffer], struct.pack("<2I", 2 * seed + 3, step), COUNT)
            if step % 97 == seed:
                runtime.write(buffer, np.full(1, step, np.uint32), offset=4)
                runtime.upload(np.zeros(COUNT, np.uint32))
        results[seed] = runtime.read(buffer, np.dtype(np.uint32), (COUNT,))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(N_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(N_THREADS):
        expected = np.arange(COUNT, dtype=np.uint32)
        for step in range(N_STEPS):
            expected = expected * np.uint32(2 * seed + 3) + np.uint32(step)
            if step % 97 == seed:
                expected[1] = step
        np.testing.assert_array_equal(results[seed], expected)
