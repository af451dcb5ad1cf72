"""The proofs themselves: they must catch a kernel that is wrong in either face."""

from importlib.resources import files

import numpy as np
import pytest

from ebm_wgpu.kernels import get_kernel
from ebm_wgpu.kernels.device import NumbaDevice, WgpuDevice
from ebm_wgpu.kernels.spec import Case, Tolerance
from ebm_wgpu.kernels.verify import verify_parity

STEM = "sphere_normalize"
BREAKAGES = {
    "wrong power": ("partial += value * value", "partial += value"),
    "last element left out": (
        "i < params.D; i += WG) {\n        out",
        "i + 1u < params.D; i += WG) {\n        out",
    ),
    "one part in ten thousand": ("let norm = sqrt(", "let norm = 1.0001 * sqrt("),
    "not a number": ("let norm = sqrt(", "let norm = sqrt(-1.0 * "),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_broken_wgsl_is_caught(name: str) -> None:
    right, wrong = BREAKAGES[name]
    source = (files("ebm_wgpu.wgsl") / f"{STEM}.wgsl").read_text()
    assert right in source
    device = WgpuDevice()
    device.replace_body(STEM, source.replace(right, wrong))
    verdicts = list(verify_parity(STEM, [device, NumbaDevice()]))
    assert any(not v.passed and v.subject == "wgpu" for v in verdicts)
    assert any(not v.passed and v.subject == "wgpu-numba" for v in verdicts)
    assert all(v.passed for v in verdicts if v.subject == "numba")


def test_wgsl_that_does_not_compile_is_a_miss_with_the_reason() -> None:
    device = WgpuDevice()
    device.replace_body(STEM, "nonsense")
    verdicts = list(verify_parity(STEM, [device]))
    assert verdicts
    assert all(not v.passed and "does not compile" in v.detail for v in verdicts)


def test_broken_mirror_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = get_kernel(STEM)

    def wrong(x: np.ndarray, out: np.ndarray) -> None:
        kernel.mirror(x=x, out=out)
        out[-1, 0] += 1e-5

    broken = type(kernel)(**{**kernel.__dict__, "mirror": wrong})
    monkeypatch.setattr("ebm_wgpu.kernels._kernel_device.get_kernel", lambda stem: broken)
    verdicts = list(verify_parity(STEM, [NumbaDevice()]))
    assert not any(v.passed for v in verdicts)
    assert "out[" in verdicts[0].detail


def test_excess_measures_the_share_of_the_tolerance() -> None:
    allowed = Tolerance(1.0, 0.5, "test")
    value = np.array([1.0, 6.0, np.nan, np.inf, np.inf])
    truth = np.array([0.0, 2.0, 0.0, np.inf, 1.0])
    np.testing.assert_allclose(allowed.excess(value, truth), [1.0, 2.0, np.inf, 0.0, np.inf])


def test_exact_tolerance_accepts_equality_only() -> None:
    allowed = Tolerance(0.0, 0.0, "exact")
    assert allowed.excess(np.array([3, 4]), np.array([3, 4])).max() == 0
    assert allowed.excess(np.array([3, 5]), np.array([3, 4])).max() == np.inf


def test_tolerance_by_output() -> None:
    near, far = Tolerance(0, 0, "near"), Tolerance(1, 1, "far")
    case = Case("c", {}, lambda rng, dims: {}, {"a": near, "b": far})
    assert case.tolerance_for("a") is near
    assert case.tolerance_for("b") is far
