"""`ebm diagnose` on a truly trained run, and on several."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import Result

from .conftest import ebm, one_line_error

Trained = tuple[Path, Result]


def test_a_trained_run_is_judged(trained: Trained, tmp_path: Path) -> None:
    run, _ = trained
    report = tmp_path / "report.html"
    result = ebm("diagnose", run, "--report", report)
    assert result.exit_code == 0, result.output
    assert str(run) in result.stdout
    assert "family splat, step 30 of 30 planned" in result.stdout
    assert "verdict: " in result.stdout
    assert "best, last" in result.stdout or "last" in result.stdout
    html = report.read_text("utf-8")
    assert "Cross-entropy" in html
    assert "https://" not in html


def test_json_has_verdict_findings_and_checkpoints(trained: Trained) -> None:
    run, _ = trained
    record = json.loads(ebm("diagnose", run, "--json").stdout)
    assert record["quality"] in ("excellent", "good", "fair", "bad")
    assert record["trend"] in ("converging", "stable", "needs attention", "diverging")
    assert record["checkpoints"][-1]["splats"]["count"] == 320
    early = json.loads(ebm("diagnose", run / "checkpoints" / "00000020", "--json").stdout)
    assert early["step"] == 20


def test_all_runs_are_listed_and_a_broken_one_does_not_stop_it(
    trained: Trained, tmp_path: Path
) -> None:
    run, _ = trained
    for name in ("a", "b"):
        shutil.copytree(run, tmp_path / name)
    (tmp_path / "b" / "config.json").write_text("[" * 100_000)
    result = ebm("diagnose", "--all", tmp_path)
    assert result.exit_code == 0, result.output
    head, *rows = result.stdout.splitlines()
    assert head.split()[:3] == ["run", "family", "step"]
    assert len(rows) == 2
    assert "unreadable" in rows[1]
    records = json.loads(ebm("diagnose", "--all", tmp_path, "--json").stdout)
    assert [("unreadable" in record) for record in records] == [False, True]


@pytest.mark.parametrize("options", [(), ("--all",)])
def test_where_there_is_no_run_is_a_one_line_error(tmp_path: Path, options: tuple) -> None:
    one_line_error(ebm("diagnose", tmp_path, *options), str(tmp_path))
