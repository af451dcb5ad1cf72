"""`ebm bench`: figures that fit together, for every family and device, and errors in one line."""

from __future__ import annotations

import json

import pytest

from ebm_wgpu.models.registry import FAMILIES

from .conftest import TINY, ebm, one_line_error

TRANSFORMERS = [
    f"{part}.{key}"
    for part in ("transformer", "ebt")
    for key in ("dim=16", "n_layers=1", "n_heads=2", "max_length=32")
]
SHORT = ("--windows", 2, "--steps", 1, "--tokens", 3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("device", ["numba", "wgpu"])
def test_rates_fit_times_and_sizes(family: str, device: str) -> None:
    config = [*TINY, *TRANSFORMERS, f"model.family={family}", "train.dsm_weight=0"]
    result = ebm("bench", *config, "--device", device, *SHORT, "--json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert row["device"] == device
    assert row["tokens"] == 2 * 16
    assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"])
    # Weights, gradients and two moments of each are there at once.
    assert row["peak_bytes"] > 16 * row["parameters"]
    assert row["parameters"] > 300
    assert row["written_per_second"] > 0 < row["first_token_seconds"]
    if row["outside_kernels"] is not None:
        assert device == "wgpu"
        assert 0 <= row["outside_kernels"] < 1


def test_devices_stand_side_by_side() -> None:
    result = ebm("bench", *TINY, "--device", "numba", "--device", "wgpu", *SHORT)
    assert result.exit_code == 0, result.output
    title, head, *rows = result.stdout.splitlines()
    assert title.startswith("nano: ")
    assert "of first" in head
    assert [row.split()[0] for row in rows] == ["numba", "wgpu"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--windows", -1), "windows=-1 must be at least 1"),
        (("--steps", 0), "steps=0 must be at least 1"),
        (("--tokens", 1), "tokens=1 must be at least 2"),
        (("--device", "tpu"), "unknown device 'tpu'"),
        (("--config", "nanno"), "nano"),
        (("model.dims=16",), "dims"),
    ],
)
def test_bad_input_is_one_line(options: tuple[object, ...], message: str) -> None:
    one_line_error(ebm("bench", *TINY, "--device", "numba", *SHORT, *options), message)
