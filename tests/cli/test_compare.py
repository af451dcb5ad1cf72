"""`ebm compare`: a run beside an earlier checkpoint of itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result

from .conftest import ebm, one_line_error

Trained = tuple[Path, Result]


def test_runs_stand_side_by_side_with_a_plot(trained: Trained, tmp_path: Path) -> None:
    run, _ = trained
    early = run / "checkpoints" / "00000020"
    png = tmp_path / "runs.png"
    result = ebm("compare", run, early, "--plot", png)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split()[:3] == ["run", "family", "parameters"]
    assert {lines[1].split()[0], lines[2].split()[0]} == {str(run)}
    assert "equal time" in result.stdout
    assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", ["svg", "html"])
def test_plots_come_in_other_kinds_and_figures_as_json(
    trained: Trained, tmp_path: Path, kind: str
) -> None:
    run, _ = trained
    plot = tmp_path / f"runs.{kind}"
    arguments = (run, run / "checkpoints" / "00000020", "--plot", plot, "--json")
    record = json.loads(ebm("compare", *arguments).stdout)
    assert {entry["step"] for entry in record["runs"]} == {20, 30}
    assert record["runs"][0]["word_perplexity"] <= record["runs"][1]["word_perplexity"]
    assert f"<{kind}" in plot.read_text("utf-8")


def test_what_cannot_be_compared_or_drawn_is_a_one_line_error(
    trained: Trained, tmp_path: Path
) -> None:
    run, _ = trained
    one_line_error(ebm("compare", run), "two or more different runs")
    one_line_error(ebm("compare", run, tmp_path), "is no run folder")
    one_line_error(ebm("compare", run, run, "--plot", "x.pdf"), "ends in .png, .svg, .html")
