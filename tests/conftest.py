"""For every test: one device of each kind, opened once, and a repeatable hypothesis profile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from ebm_wgpu.kernels import KernelDevice, open_device

settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    max_examples=40,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def numba_device() -> KernelDevice:
    return open_device("numba")


@pytest.fixture(scope="session")
def wgpu_device() -> KernelDevice:
    """Any adapter, a software one too; without one the test fails with the reason."""
    return open_device("wgpu")


@pytest.fixture(params=["numba", "wgpu"])
def any_device(request: pytest.FixtureRequest) -> KernelDevice:
    """Each device in turn."""
    device: KernelDevice = request.getfixturevalue(f"{request.param}_device")
    return device


@pytest.fixture
def no_fallbacks() -> Iterator[None]:
    """The test fails if an operator of torch.device("wgpu") runs on the processor during it."""
    from ebm_wgpu import torch_device

    before = torch_device.fallbacks()
    yield
    assert torch_device.fallbacks() == before
