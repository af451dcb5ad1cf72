"""The search over segments gives what the search over the whole gives, ties included."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.kernels.topk import similarity_topk


@pytest.mark.parametrize(("queries", "splats", "k"), [(1, 1100, 128), (6, 2053, 33), (3, 90, 90)])
def test_segments_do_not_show(any_device: KernelDevice, queries: int, splats: int, k: int) -> None:
    rng = np.random.default_rng(splats)
    x = rng.integers(-1, 2, (queries, 9)).astype(np.float32)
    mu = any_device.array(rng.integers(-1, 2, (splats, 9)))
    values, indices = similarity_topk(any_device, x, mu, k)
    whole = any_device.run("similarity_topk", x=x, mu=mu, K=k)
    np.testing.assert_array_equal(values.numpy(), whole["values"].numpy())
    np.testing.assert_array_equal(indices.numpy(), whole["indices"].numpy())


def test_devices_agree(numba_device: KernelDevice, wgpu_device: KernelDevice) -> None:
    rng = np.random.default_rng(0)
    mu = rng.standard_normal((1700, 24)).astype(np.float32)
    results = [similarity_topk(d, mu[5:10], mu, 40) for d in (numba_device, wgpu_device)]
    (values, indices), (gpu_values, gpu_indices) = ((v.numpy(), i.numpy()) for v, i in results)
    assert indices[:, 0].tolist() == [5, 6, 7, 8, 9]
    np.testing.assert_array_equal(indices, gpu_indices)
    np.testing.assert_allclose(values, gpu_values, rtol=1e-5, atol=1e-5)


def test_a_long_search_uses_several_workgroups(wgpu_device: KernelDevice) -> None:
    mu = np.zeros((2048, 8), np.float32)
    before = wgpu_device.runtime.dispatches
    similarity_topk(wgpu_device, mu[:1], mu, 3)
    assert wgpu_device.runtime.dispatches == before + 2


def test_no_queries(any_device: KernelDevice) -> None:
    mu = np.ones((4, 8), np.float32)
    values, _ = similarity_topk(any_device, np.zeros((0, 8), np.float32), mu, 2)
    assert values.shape == (0, 2)


def test_more_than_there_are_is_refused(any_device: KernelDevice) -> None:
    mu = np.zeros((2048, 8), np.float32)
    with pytest.raises(KernelError, match="K=5 exceeds N=4"):
        similarity_topk(any_device, mu[:1], mu[:4], 5)
