"""Evaluations that a run keeps: round trips, what counts, and damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ebm_wgpu.errors import CheckpointError
from ebm_wgpu.evaluation.records import (
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


def kept(run: RunFolder, split: str = "valid") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.path / EVALUATION_FILE).read_text())[split]
    return found


COMMON = {"step": 40, "data": "text", "think_steps": None, "think_best_of": None}


def test_parts_stand_beside_each_other_and_the_last_of_each_counts(run: RunFolder) -> None:
    latents = {"latents": [{"latent": "exact"}], "refused": {"langevin": "why"}}
    matching = {"score_matching": [{"loss": 1.0}]}
    no_matching: dict[str, Any] = {"score_matching": []}
    first = {**COMMON, "run": "a", **figures(130.5), **matching}
    assert save_evaluation(run, "valid", first) is None
    later = {**COMMON, "run": "b", **no_matching, **latents}
    assert save_evaluation(run, "valid", {**later, "think_rule": None}) is None
    assert save_evaluation(run, "valid", {**COMMON, **no_matching, "online": ONLINE}) is None
    expected = {**first, **latents, "run": "b", "online": ONLINE, "think_rule": None}
    assert kept(run) == {**expected, "unavailable": {}}
    again = {**COMMON, **no_matching, **figures(125.0), "latents": [], "refused": {}}
    save_evaluation(run, "valid", again)
    assert kept(run)["word_perplexity"] == 125.0
    assert kept(run)["online"] == ONLINE
    assert read_scores(run) == SavedScores(40, 70, 16, 8, 120.0, 90.0, 4096)


def test_a_part_is_missing_until_it_is_there(run: RunFolder) -> None:
    lacks = {"unavailable": {"online": "none held out", "score-matching": "too short"}}
    save_evaluation(run, "valid", {**COMMON, **figures(130.5), **lacks})
    assert kept(run)["unavailable"] == lacks["unavailable"]
    save_evaluation(run, "valid", {**COMMON, "online": ONLINE, "unavailable": {"energy": "x"}})
    assert kept(run)["unavailable"] == {"score-matching": "too short", "energy": "x"}
    save_evaluation(run, "valid", {**COMMON, "score_matching": [{"loss": 1.0}]})
    assert kept(run)["unavailable"] == {"energy": "x"}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("step", 50, "step=40 (now 50)"),
        ("think_steps", 3, "think_steps=None (now 3)"),
        ("think_rule", "spectral", "think_rule=None (now spectral)"),
    ],
)
def test_figures_of_another_model_are_replaced_and_that_is_said(
    run: RunFolder, name: str, value: object, words: str
) -> None:
    save_evaluation(run, "test", {**COMMON, "online": ONLINE})
    save_evaluation(run, "valid", {**COMMON, **figures(130.5)})
    new = {**COMMON, name: value, "coverage": {"coverage": 0.5}}
    said = save_evaluation(run, "valid", new)
    assert said is not None
    assert f"the valid figures of {words} are replaced in " in said
    assert EVALUATION_FILE in said
    assert kept(run) == {**new, "unavailable": {}}
    assert read_scores(run) is None
    assert kept(run, "test")["online"] == ONLINE


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


@pytest.mark.parametrize("content", [b'{"valid": 3}', b'{"valid": {"unavailable": 3}}'])
def test_nothing_is_added_to_what_is_damaged(run: RunFolder, content: bytes) -> None:
    (run.path / EVALUATION_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"evaluation\.json is damaged"):
        save_evaluation(run, "valid", {"energy": []})
    assert (run.path / EVALUATION_FILE).read_bytes() == content


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    gone = RunFolder(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_evaluation(gone, "valid", {"step": 1})
