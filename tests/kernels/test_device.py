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


def test_llvmpipe_refuses_what_it_would_get_wrong(wgpu_device: KernelDevice) -> None:
    adapter = wgpu_device.runtime.info.name  # type: ignore[attr-defined]
    if not adapter.startswith("llvmpipe"):
        pytest.skip(f"{adapter} does not limit how often loops go round")

    def energy(count: int) -> np.ndarray:
        x = np.eye(2, 8)
        arrays = {"x": x, "mu": np.tile(x[:1], (count, 1)), "h": np.zeros_like(x)}
        a, log_w = np.ones(count), np.zeros(count)
        return wgpu_device.run("splat_energy", a=a, log_w=log_w, **arrays)["energy"].numpy()

    most = 46_080
    np.testing.assert_allclose(energy(most), [-np.log(most), 1 - np.log(most)], rtol=1e-6)
    with pytest.raises(KernelError, match=r"splat_energy: up to .* 65,535; .* --device numba"):
        energy(most + 1)


def test_llvmpipe_looks_at_changed_parameters_too(wgpu_device: KernelDevice) -> None:
    adapter = wgpu_device.runtime.info.name  # type: ignore[attr-defined]
    if not adapter.startswith("llvmpipe"):
        pytest.skip(f"{adapter} does not limit how often loops go round")
    column = np.ones((180_000, 1))
    launch = wgpu_device.prepare("matmul", a=column, b=np.ones((1, 1)), trans_a=0, trans_b=0)
    launch()
    with pytest.raises(KernelError, match="matmul: up to"):
        launch(trans_a=1)
