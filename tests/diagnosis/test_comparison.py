"""Runs side by side: the best first, equal time, and warnings about what cannot be compared."""

import json

import pytest

from ebm_wgpu.config import apply_overrides
from ebm_wgpu.diagnosis.comparison import compare
from ebm_wgpu.diagnosis.tables import COMPARISON_HEAD, comparison_rows
from ebm_wgpu.errors import CheckpointError
from ebm_wgpu.evaluation.records import save_evaluation
from ebm_wgpu.models.registry import build_model

from .conftest import losses, scores


def test_runs_are_compared_at_their_best_and_at_equal_time(plant, numba_device):
    slow = plant(losses([6.0, 5.0, 4.0, 3.0, 3.5]), name="slow")
    quick = plant(losses([6.0, 4.5, 4.2]), name="quick", family="transformer")
    seen = []
    result = compare([quick.path, slow.path], numba_device, seen.append)
    assert seen == [1, 2]
    assert [run.label for run in result.runs] == ["slow", "quick"]
    best, other = result.runs
    assert (best.best_step, best.step, best.seconds) == (150, 200, 100)
    assert best.word_perplexity == scores(3.0)["word_perplexity"]
    assert best.token_perplexity == scores(3.0)["token_perplexity"]
    assert result.equal_seconds == other.seconds == 50
    # At 50 seconds the slow run was at step 100.
    assert best.word_perplexity_at_equal_time == scores(4.0)["word_perplexity"]
    assert other.word_perplexity_at_equal_time == scores(4.2)["word_perplexity"]
    assert best.tokens_per_second == 100
    assert (best.family, other.family) == ("splat", "transformer")
    curve = result.curves[1]
    assert curve.steps == (0, 50, 100)
    assert curve.seconds == (0, 25, 50)
    for run in (slow, quick):
        model = build_model(run.read_config(), run.read_tokenizer().vocab_size, numba_device)
        (found,) = (r for r in result.runs if r.path == str(run.path))
        assert found.parameters == model.n_parameters()
    rows = comparison_rows(result)
    assert {len(row) for row in rows} == {len(COMPARISON_HEAD)}
    summary = json.loads(json.dumps(result.summary(), allow_nan=False))
    assert summary["runs"][0]["curve"]["steps"] == [0, 50, 100, 150, 200]


def test_figures_that_cannot_be_compared_come_with_a_warning(plant, numba_device):
    a, b, c = (plant(losses([6.0, 5.0]), name=name) for name in "abc")
    assert compare([a.path, b.path], numba_device).warnings == ()
    b.write_tokenizer(b.read_tokenizer().train("xyz", None))
    assert "different tokenizers" in compare([a.path, b.path], numba_device).warnings[0]
    c.write_config(apply_overrides(c.read_config(), ["data.dataset=shakespeare"]))
    assert "different texts" in compare([a.path, c.path], numba_device).warnings[0]


def kept(static, online=None, capacity=None, step=100, n_words=70, window=(16, 8)):
    """What `ebm evaluate --save` keeps, as far as it is read."""
    figures = {"n_words": n_words, "context": window[0], "stride": window[1]}
    record = {"step": step, "word_perplexity": static, **figures}
    if online is not None:
        record["online"] = {
            "static": {"word_perplexity": static, **figures},
            "online": {"word_perplexity": online, **figures},
            "settings": {"capacity": capacity},
        }
    return record


def test_kept_evaluations_stand_beside_the_figures_of_training(plant, numba_device):
    a, b, c = (plant(losses([6.0, 5.0, 4.0], 50), {50: None}, name=name) for name in "abc")
    save_evaluation(a, "valid", kept(150.0, 100.0, 64))
    save_evaluation(b, "valid", kept(152.0))
    result = compare([a.path, b.path, c.path], numba_device)
    found = {run.label: run.saved for run in result.runs}
    assert (found["a"].static, found["a"].online, found["a"].capacity) == (150.0, 100.0, 64)
    assert (found["b"].static, found["b"].online) == (152.0, None)
    assert found["c"] is None
    assert result.warnings == ()
    static, online = (COMPARISON_HEAD.index(f"evaluated {kind}") for kind in ("static", "online"))
    rows = {row[0]: row for row in comparison_rows(result)}
    assert (rows["a"][static], rows["a"][online]) == ("150.00", "100.00")
    assert (rows["b"][static], rows["b"][online]) == ("152.00", "-")
    assert (rows["c"][static], rows["c"][online]) == ("-", "-")
    summary = json.loads(json.dumps(result.summary(), allow_nan=False))
    assert {run["label"]: run["saved"] and run["saved"]["online"] for run in summary["runs"]} == {
        "a": 100.0, "b": None, "c": None,
    }  # fmt: skip
    # An evaluation of a later step says nothing of an earlier checkpoint.
    early = compare([a.checkpoint_path(50), b.path], numba_device)
    assert [run.saved is None for run in early.runs if run.path == str(a.path)] == [True]


def test_kept_evaluations_that_differ_come_with_a_warning(plant, numba_device):
    a, b, c = (plant(losses([6.0, 5.0]), name=name) for name in "abc")
    save_evaluation(a, "valid", kept(150.0, 100.0, 64))
    save_evaluation(b, "valid", kept(150.0, 90.0, 4096))
    (warning,) = compare([a.path, b.path], numba_device).warnings
    assert "memories of 64 and 4,096 states" in warning
    save_evaluation(c, "valid", kept(150.0, n_words=7))
    (warning,) = compare([a.path, c.path], numba_device).warnings
    assert "different parts of the text" in warning


@pytest.mark.parametrize("window", [(32, 8), (16, 4)])
def test_kept_evaluations_of_other_windows_come_with_a_warning(plant, numba_device, window):
    a, b = (plant(losses([6.0, 5.0]), name=name) for name in "ab")
    save_evaluation(a, "valid", kept(150.0))
    save_evaluation(b, "valid", kept(140.0, window=window))
    (warning,) = compare([a.path, b.path], numba_device).warnings
    assert "16 tokens in strides of 8" in warning
    assert f"{window[0]} tokens in strides of {window[1]}" in warning
    assert "compare runs of one data.eval_context and data.eval_stride" in warning


def test_runs_of_one_name_and_checkpoints_of_one_run_are_told_apart(plant, numba_device):
    a, b = (plant(losses([6.0, 5.0, 4.0]), {50: None, 100: None}, name=f"{x}/run") for x in "ab")
    labels = {run.label for run in compare([a.path, b.path], numba_device).runs}
    assert labels == {str(a.path), str(b.path)}
    both = compare([a.checkpoint_path(50), a.path], numba_device)
    assert [run.label for run in both.runs] == [f"{a.path} at last", f"{a.path} at 50"]
    assert [run.step for run in both.runs] == [100, 50]


def test_a_run_without_figures_comes_last(plant, numba_device):
    a, b = plant(losses([6.0, 5.0]), name="a"), plant([], name="b")
    result = compare([b.path, a.path], numba_device)
    assert [run.label for run in result.runs] == ["a", "b"]
    assert result.equal_seconds is None
    assert result.runs[1].word_perplexity is None
    assert comparison_rows(result)[1][6] == "-"


def test_what_cannot_be_compared_is_an_error(plant, numba_device, tmp_path):
    a = plant(losses([6.0, 5.0]), name="a")
    for paths in ([a.path], [a.path, a.path]):
        with pytest.raises(CheckpointError, match="two or more different runs"):
            compare(paths, numba_device)
    with pytest.raises(CheckpointError, match="is no run folder"):
        compare([a.path, tmp_path], numba_device)
    damaged = plant([], name="damaged")
    damaged.metrics_path.write_text('{"step": 1, "valid": [1]}\n{"step": 2}\n')
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl is damaged"):
        compare([a.path, damaged.path], numba_device)
