"""Diagnosis of one run and of many; runs that are no runs."""

import json

import pytest

from ebm_wgpu.diagnosis.diagnose import Diagnosis, Unreadable, diagnose, diagnose_all
from ebm_wgpu.diagnosis.tables import OVERVIEW_HEAD, checkpoint_rows, headline, overview_row
from ebm_wgpu.errors import CheckpointError

from .conftest import losses, splats


def test_the_summary_is_json_and_names_what_is_known(plant):
    records = losses([6.0, 5.0, 4.0, 3.9])
    records[3]["alerts"] = ["energy-rising", "dead-splats"]
    records[7]["alerts"] = ["energy-rising"]
    run = plant(records, {100: splats(), 150: splats()}, best=150)
    summary = json.loads(json.dumps(diagnose(run.path).summary(), allow_nan=False))
    assert summary["run"] == str(run.path)
    assert (summary["step"], summary["steps_planned"], summary["elapsed"]) == (150, 1000, 75)
    assert summary["trend"] == "converging"
    assert summary["alerts_raised"] == {"energy-rising": 2, "dead-splats": 1}
    assert summary["last_valid"]["nll_per_token"] == 3.9
    last = summary["checkpoints"][-1]
    assert last["names"] == ["best", "last"]
    assert last["splats"]["active"] == 60
    assert "spreads" not in last
    assert {finding["name"] for finding in summary["findings"]} == {"still learning"}


def test_every_run_below_a_folder_is_found_and_a_broken_one_says_why(plant, tmp_path):
    plant(losses([6.0, 5.0, 4.0]), {100: splats()}, name="a")
    plant(losses([6.0, 5.0, 4.0]), {100: None}, name="deep/down/b", family="transformer")
    broken = plant(losses([6.0, 5.0]), name="c")
    (broken.path / "config.json").write_text("[")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    seen = []
    results = diagnose_all(tmp_path, lambda done, total: seen.append((done, total)))
    assert [type(result) for result in results] == [Diagnosis, Unreadable, Diagnosis]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert "config.json cannot be read" in results[1].summary()["unreadable"]
    rows = [overview_row(result) for result in results]
    assert {len(row) for row in rows} == {len(OVERVIEW_HEAD)}
    assert [row[1] for row in rows] == ["splat", "-", "transformer"]
    assert rows[1][5] == "unreadable"


def test_runs_of_a_family_are_chosen(plant, tmp_path):
    plant(losses([6.0, 5.0, 4.0]), {100: splats()}, name="a")
    plant(losses([6.0, 5.0, 4.0]), {100: None}, name="b", family="transformer")
    (result,) = diagnose_all(tmp_path, family="transformer")
    assert result.evidence.path == tmp_path / "b"
    with pytest.raises(CheckpointError, match=r"holds no run of model\.family=nano"):
        diagnose_all(tmp_path, family="nano")
    broken = plant(losses([6.0, 5.0]), name="c")
    (broken.path / "config.json").write_text("[")
    # Nobody knows of which family it is.
    results = diagnose_all(tmp_path, family="transformer")
    assert [type(result) for result in results] == [Diagnosis, Unreadable]


def test_a_folder_without_runs_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="holds no run"):
        diagnose_all(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        '{"step": 10, "valid": 5}',
        '{"step": 10, "valid": {"nll_per_token": 3, "score_matching": [1]}}',
        '{"step": 10, "rollback": "x"}',
        '{"step": 10, "alerts": 7}',
    ],
)
def test_metrics_of_another_making_are_one_line_errors(plant, line):
    run = plant(losses([6.0, 5.0, 4.0]), {100: splats()})
    with run.metrics_path.open("a") as file:
        file.write(f"{line}\n{line}\n")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl is damaged"):
        diagnose(run.path).summary()


def test_a_run_that_has_hardly_begun_can_be_diagnosed(plant):
    diagnosis = diagnose(plant([]).path)
    assert diagnosis.verdict.trend == "needs attention"
    assert headline(diagnosis) == "family splat, step 0 of 1,000 planned"
    assert overview_row(diagnosis)[3:5] == ("-", "-")


def test_rows_of_checkpoints_are_as_wide_for_every_family(plant):
    run = plant(losses([6.0, 5.0, 4.0]), {40: splats(), 60: None, 100: splats()})
    (run.checkpoint_path(100) / "trainer.pt").unlink()
    rows = checkpoint_rows(diagnose(run.path).evidence.checkpoints)
    assert len({len(row) for row in rows}) == 1
    assert [row[1] for row in rows] == ["", "", "damaged"]
    assert rows[0][4] == "60 of 60"
    assert rows[1][4:] == ("-",) * 7
