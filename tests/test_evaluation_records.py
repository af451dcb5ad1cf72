"""Evaluations that a run keeps: round trips, what counts, and damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ebm_wgpu.errors import CheckpointError
from ebm_wgpu.evaluation_records import (
    EVALUATION_FILE,
    SavedScores,
    read_scores,
    save_evaluation,
)
from ebm_wgpu.training.run_folder import RunFolder


def figures(word_perplexity: float | None) -> dict[str, Any]:
    return {"word_perplexity": word_perplexity, "n_words": 70, "context": 16, "stride": 8}


ONLINE = {
    "static": figures(120.0),
    "online": figures(90.0),
    "settings": {"capacity": 4096},
}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def test_what_was_kept_is_read(run: RunFolder) -> None:
    assert read_scores(run) is None
    save_evaluation(run, "valid", {"step": 30, **figures(130.5)})
    assert read_scores(run) == SavedScores(30, 70, 16, 8, 130.5)
    assert read_scores(run, "test") is None
    save_evaluation(run, "test", {"step": 30, **figures(None)})
    assert read_scores(run, "test") == SavedScores(30, 70, 16, 8, None)
    assert read_scores(run) == SavedScores(30, 70, 16, 8, 130.5)


def test_static_and_online_are_those_measured_side_by_side(run: RunFolder) -> None:
    save_evaluation(run, "valid", {"step": 40, **figures(130.5), "online": ONLINE})
    assert read_scores(run) == SavedScores(40, 70, 16, 8, 120.0, 90.0, 4096)
    save_evaluation(run, "valid", {"step": 40, "online": ONLINE})
    assert read_scores(run) == SavedScores(40, 70, 16, 8, 120.0, 90.0, 4096)


def test_an_evaluation_of_other_parts_says_nothing(run: RunFolder) -> None:
    save_evaluation(run, "valid", {"step": 40, "coverage": {"coverage": 0.5}})
    assert read_scores(run) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"valid": 3}',
        b'{"valid": {"word_perplexity": 3}}',
        json.dumps({"valid": {"step": 1, "online": {"static": figures(1.0)}}}).encode(),
    ],
)
def test_damage_is_an_error_of_one_line(run: RunFolder, content: bytes) -> None:
    (run.path / EVALUATION_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"evaluation\.json is damaged") as caught:
        read_scores(run)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    gone = RunFolder(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_evaluation(gone, "valid", {"step": 1})
