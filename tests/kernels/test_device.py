"""Calling kernels by name: the same arguments, results and errors on both devices."""

import numpy as np
import pytest

from ebm_wgpu.errors import DeviceError, KernelError
from ebm_wgpu.kernels import KernelDevice, open_device
from ebm_wgpu.kernels.device import NumbaDevice


def test_host_arrays_are_adopted_and_never_changed(any_device: KernelDevice) -> None:
    x = np.arange(24, dtype=np.float64).reshape(3, 8)[:, ::-1]
    kept = x.copy()
    out = any_device.run("sphere_normalize", x=x)["out"].numpy()
    np.testing.assert_array_equal(x, kept)
    np.testing.assert_allclose(out, x / np.linalg.norm(x, axis=1, keepdims=True), atol=1e-6)


def test_given_output_is_reused(any_device: KernelDevice) -> None:
    out = any_device.empty((2, 8))
    x = any_device.array(np.ones((2, 8)))
    assert any_device.run("sphere_normalize", x=x, out=out)["out"] is out
    np.testing.assert_allclose(out.numpy(), 8**-0.5, rtol=1e-6)


def test_launch_runs_again_on_new_contents(any_device: KernelDevice) -> None:
    x = any_device.array(np.ones((2, 8)))
    launch = any_device.prepare("sphere_normalize", x=x)
    launch()
    x.write(np.eye(2, 8))
    launch()
    np.testing.assert_array_equal(launch.outputs["out"].numpy(), np.eye(2, 8))
    with pytest.raises(KernelError, match="'steps'"):
        launch(steps=1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "'x' is missing"),
        ({"x": np.ones(8)}, r"shape \(8,\), expected \(B, D\)"),
        ({"x": np.ones((2, 8)), "y": 1}, "no argument 'y'"),
        ({"x": np.ones((2, 8)), "B": 3}, "B=3 contradicts"),
        (
            {"x": np.ones((2, 8)), "out": np.ones((2, 9))},
            r"'out' has shape \(2, 9\), expected \(B=2, D=8\)",
        ),
    ],
)
def test_wrong_arguments_are_named(
    any_device: KernelDevice, arguments: dict[str, object], words: str
) -> None:
    with pytest.raises(KernelError, match=words):
        any_device.run("sphere_normalize", **arguments)


def test_arrays_of_another_device_are_refused(wgpu_device: KernelDevice) -> None:
    with pytest.raises(KernelError, match="another device"):
        wgpu_device.run("sphere_normalize", x=NumbaDevice().array(np.ones((2, 8))))


def test_unknown_names_suggest_near_ones(numba_device: KernelDevice) -> None:
    with pytest.raises(KernelError, match="did you mean sphere_normalize"):
        numba_device.run("sphere_normalise", x=np.ones((2, 8)))
    with pytest.raises(DeviceError, match="auto, wgpu, vulkan, numba, cpu"):
        open_device("cuda")


def test_auto_never_takes_a_software_adapter(wgpu_device: KernelDevice) -> None:
    software = wgpu_device.runtime.info.is_software  # type: ignore[attr-defined]
    assert open_device("auto").name == ("numba" if software else "wgpu")
