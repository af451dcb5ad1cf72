"""`ebm verify-kernels` and `ebm devices` as a user runs them."""

import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from click.testing import CliRunner

from ebm_wgpu.cli import main
from ebm_wgpu.kernels import kernel_names
from ebm_wgpu.kernels.device import WgpuDevice

STEM = "sphere_normalize"


@pytest.fixture
def hidden_adapters(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    return {
        **os.environ,
        "VK_DRIVER_FILES": "/nonexistent",
        "VK_ICD_FILENAMES": "/nonexistent",
        "__EGL_VENDOR_LIBRARY_FILENAMES": "/nonexistent",
        "LIBGL_DRIVERS_PATH": "/nonexistent",
    }


def ebm(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("ebm")), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_table_names_both_errors_the_tolerance_and_the_verdict() -> None:
    result = CliRunner().invoke(main, ["verify-kernels", "--kernel", STEM])
    assert result.exit_code == 0, result.output
    for word in ("wgpu:", "numba:", "error wgpu", "error mirror", "tolerance", "zero row", "ok"):
        assert word in result.output
    assert "0 missed" in result.output


def test_a_broken_kernel_exits_with_status_1_and_names_the_index(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = (files("ebm_wgpu.wgsl") / f"{STEM}.wgsl").read_text()
    opened = WgpuDevice()
    opened.replace_body(STEM, source.replace("scale * factor", "scale"))
    monkeypatch.setattr("ebm_wgpu.kernels.open_device", lambda name: opened)
    result = CliRunner().invoke(main, ["verify-kernels", "--kernel", STEM, "--device", "wgpu"])
    assert result.exit_code == 1
    assert "MISS" in result.output
    assert "out[0, 0] is" in result.output


def test_json_holds_every_check_in_every_variant() -> None:
    result = CliRunner().invoke(main, ["verify-kernels", "--kernel", STEM, "--json"])
    record = json.loads(result.stdout)
    assert record["passed"] is True
    assert set(record["devices"]) == {"wgpu", "numba"}
    subjects = {verdict["subject"] for verdict in record["verdicts"]}
    assert {"wgpu", "numba", "wgpu-numba"} <= subjects
    assert all(verdict["excess"] <= 1 for verdict in record["verdicts"])


def test_without_an_adapter_the_mirrors_are_proven_and_the_rest_is_said(
    hidden_adapters: dict[str, str],
) -> None:
    result = ebm("verify-kernels", "--kernel", STEM, env=hidden_adapters)
    assert result.returncode == 0, result.stderr
    assert "the GPU side was not run: no GPU adapter was found" in result.stdout
    assert "not run" in result.stdout
    asked = ebm("verify-kernels", "--kernel", STEM, "--device", "wgpu", env=hidden_adapters)
    assert asked.returncode == 1
    assert asked.stderr.startswith("Error: no GPU adapter was found; install")
    assert "Traceback" not in asked.stderr


def test_speed_mode_reports_shares_of_the_measured_peaks() -> None:
    arguments = ["verify-kernels", "--mode", "speed", "--kernel", STEM, "--device", "wgpu"]
    result = CliRunner().invoke(main, [*arguments, "--json"])
    (speed,) = json.loads(result.stdout)["speeds"]
    assert speed["kernel"] == STEM
    assert speed["gigabytes_per_second"] > 0
    assert 0 < speed["share_of_copy"] < 10


def test_list_prints_all_names() -> None:
    result = CliRunner().invoke(main, ["verify-kernels", "--list"])
    assert result.output.split() == list(kernel_names())


def test_unknown_kernel_is_an_error() -> None:
    result = CliRunner().invoke(main, ["verify-kernels", "--kernel", "sphere_normalise"])
    assert result.exit_code == 1
    assert "did you mean sphere_normalize?" in result.output


def test_devices_names_adapters_and_the_choice(hidden_adapters: dict[str, str]) -> None:
    shown = ebm("devices")
    assert shown.returncode == 0
    assert "auto: " in shown.stdout
    assert "largest binding" in shown.stdout
    bare = ebm("devices", env=hidden_adapters)
    assert "no GPU adapter was found" in bare.stdout
    assert "auto: numba" in bare.stdout
