"""`ebm splats`: what it prints is what the file holds, and what it writes is whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import Result

from ebm_wgpu.splats.store import SplatStore

from .conftest import ebm, last_checkpoint, one_line_error

Trained = tuple[Path, Result]


def ok(*arguments: object) -> str:
    result = ebm("splats", *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def records(*arguments: object) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(ok(*arguments, "--json"))
    return found


def loaded(run: Path) -> SplatStore:
    return SplatStore.load(last_checkpoint(run) / "splats.h5")


def test_info_agrees_with_the_store(trained: Trained) -> None:
    run, _ = trained
    record = json.loads(ok("info", run, "--json"))
    store = loaded(run)
    pi = store.alpha / store.alpha.sum()
    assert record["splats"] == len(store) == 320
    assert record["dimension"] == 16
    np.testing.assert_allclose(record["effective_splats"], np.exp(-np.sum(pi * np.log(pi))), 1e-5)
    np.testing.assert_allclose(record["quantiles"]["kappa"][2], np.median(store.kappa), 1e-6)
    assert record["verified"]
    text = ok("info", run)
    assert "320 splats on S^15" in text
    assert "every byte verified" in text
    assert "mean of all directions" not in ok("info", run, "--no-verify")


def test_list_is_sorted_and_names_tokens(trained: Trained) -> None:
    run, _ = trained
    rows = records("list", run, "--limit", 10)
    assert len(rows) == 10
    usage = [row["usage"] for row in rows]
    assert usage == sorted(usage, reverse=True)
    assert usage[0] > 0
    assert all(row["token"] for row in rows)
    store = loaded(run)
    (heaviest,) = records("list", run, "--sort", "weight", "--limit", 1)
    assert heaviest["splat"] == int(store.alpha.argmax())
    (lightest,) = records("list", run, "--sort", "weight", "--limit", 1, "--reverse")
    assert lightest["splat"] == int(store.alpha.argmin())
    only = records("list", run, "--token", rows[0]["token_id"])
    assert {row["token_id"] for row in only} == {rows[0]["token_id"]}
    assert records("list", run, "--token", " the") == [
        row for row in records("list", run, "--limit", 320) if row["token"] == "' the'"
    ]
    assert len(ok("list", run, "--limit", 3).splitlines()) == 4


def test_a_file_alone_is_listed_without_token_texts(trained: Trained) -> None:
    run, _ = trained
    file = last_checkpoint(run) / "splats.h5"
    assert records("list", file)[0]["token"] == ""
    one_line_error(ebm("splats", "list", file, "--token", " the"), "has no tokenizer")
    one_line_error(ebm("splats", "list", run, "--token", "cat sat"), "is not one token but")


def test_show_names_the_nearest_splats_and_tokens(trained: Trained) -> None:
    run, _ = trained
    record = json.loads(ok("show", run, 7, "--limit", 5, "--json", "--device", "numba"))
    store = loaded(run)
    order = np.argsort(-(store.mu @ store.mu[7]), kind="stable")
    assert [row["splat"] for row in record["nearest_splats"]] == [k for k in order if k != 7][:5]
    assert record["log_weight"] == pytest.approx(store.log_weight[7])
    cosines = [row["cosine"] for row in record["nearest_tokens"]]
    assert len(cosines) == 5
    assert cosines == sorted(cosines, reverse=True)
    alone = ok("show", last_checkpoint(run) / "splats.h5", 7)
    assert "nearest splats" in alone
    assert "nearest tokens" not in alone
    one_line_error(ebm("splats", "show", run, 320), "splat 320 of .*0 to 319")


def test_neighbors_of_a_text_a_token_and_a_splat(trained: Trained) -> None:
    run, _ = trained
    text = records("neighbors", run, "the cat sat on the", "--limit", 4, "--device", "numba")
    cosines = [row["cosine"] for row in text]
    assert cosines == sorted(cosines, reverse=True)
    assert len(cosines) == 4
    token = records("neighbors", run, "--token", " the", "--limit", 2, "--device", "numba")
    assert token[0]["token"] == "' the'"
    splat = records("neighbors", run, "--splat", 9, "--limit", 400)
    assert splat[0]["splat"] == 9
    assert len(splat) == 320
    file = last_checkpoint(run) / "splats.h5"
    assert records("neighbors", file, "--splat", 9, "--limit", 400) == [
        {**row, "token": ""} for row in splat
    ]
    one_line_error(ebm("splats", "neighbors", run), "give one thing to look around")
    one_line_error(ebm("splats", "neighbors", run, "a", "--splat", 1), "give one thing")
    one_line_error(ebm("splats", "neighbors", file, "the cat"), "has no model")
    one_line_error(ebm("splats", "neighbors", run, "--token", 99999), "ids 0 to 299")


@pytest.mark.parametrize(
    ("options", "suffix", "start"),
    [
        ([], ".png", b"\x89PNG"),
        (["--color", "kappa", "--points", "50"], ".svg", b"<?xml"),
        ([], ".html", b"<!doctype html>"),
        (["--kind", "histogram"], ".svg", b"<?xml"),
        (["--kind", "landscape", "--from", "the cat", "--to", "a dog"], ".png", b"\x89PNG"),
    ],
)
def test_plots_are_of_the_kind_of_their_suffix(
    trained: Trained, tmp_path: Path, options: list[str], suffix: str, start: bytes
) -> None:
    path = tmp_path / f"plot{suffix}"
    arguments = ("plot", trained[0], "--output", path, "--device", "numba", *options)
    printed = ok(*arguments)
    assert printed == f"{path}: {path.stat().st_size:,} bytes\n"
    assert path.read_bytes().startswith(start)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_plots_replace_files_only_if_told_to(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    path.write_text("mine")
    arguments = ("plot", trained[0], "--output", path)
    one_line_error(ebm("splats", *arguments), r"exists: .*--force")
    assert path.read_text() == "mine"
    ok(*arguments, "--force")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_impossible_plots_are_one_line_errors(trained: Trained, tmp_path: Path) -> None:
    run, _ = trained
    for options, words in (
        (["--output", tmp_path / "x.gif"], "unknown kind of picture"),
        (["--output", tmp_path / "x.html", "--kind", "histogram"], "unknown kind of picture"),
        (["--output", tmp_path / "x.png", "--kind", "landscape"], "between two texts"),
        (["--output", tmp_path / "x.png", "--from", "a", "--to", "b"], "between two texts"),
        (["--output", tmp_path / "absent" / "x.png"], "is no folder"),
    ):
        one_line_error(ebm("splats", "plot", run, *options), words)
    same = ["--kind", "landscape", "--from", "a", "--to", "a", "--device", "numba"]
    output = tmp_path / "x.png"
    one_line_error(ebm("splats", "plot", run, "--output", output, *same), "two points are one")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_exported_splats_come_back_to_the_bit(
    trained: Trained, tmp_path: Path, suffix: str
) -> None:
    run, _ = trained
    table, back = tmp_path / f"table{suffix}", tmp_path / "back.h5"
    assert "320 splats" in ok("export", run, "--output", table)
    one_line_error(ebm("splats", "export", run, "--output", table), "--force")
    assert "320 splats of dimension 16" in ok("import", table, "--output", back)
    assert back.read_bytes() == (last_checkpoint(run) / "splats.h5").read_bytes()
    one_line_error(ebm("splats", "import", table, "--output", back), "--force")
    ok("import", table, "--output", back, "--force")
    if suffix == ".csv":
        assert " the" in table.read_text(encoding="utf-8")


def test_prune_removes_what_the_rule_says(trained: Trained, tmp_path: Path) -> None:
    run, _ = trained
    store, output = loaded(run), tmp_path / "pruned.h5"
    rule = ("prune", run, "--rule", "usage < quantile(usage, 0.25)")
    gone = store.frequency < np.quantile(store.frequency, 0.25)
    assert f"{gone.sum()} splats of 320 would go" in ok(*rule, "--dry-run")
    assert not output.exists()
    ok(*rule, "--output", output)
    left = SplatStore.load(output)
    assert np.array_equal(left.mu, store.mu[~gone])
    assert np.array_equal(left.sid, store.sid[~gone])
    one_line_error(ebm("splats", *rule, "--output", output), "--force")
    one_line_error(ebm("splats", *rule), "--output FILE .* or --dry-run")
    evil = "__import__('os').remove('x')"
    one_line_error(ebm("splats", "prune", run, "--rule", evil, "--dry-run"), "has no meaning")
    everything = ("prune", run, "--rule", "kappa > 0", "--output", tmp_path / "none.h5")
    one_line_error(ebm("splats", *everything), "none of the 320 splats")
    assert not (tmp_path / "none.h5").exists()


def test_merge_and_diff_of_checkpoints(trained: Trained, tmp_path: Path) -> None:
    run, _ = trained
    folders = sorted(path for path in (run / "checkpoints").iterdir() if path.is_dir())
    first, last = folders[0], folders[-1]
    merged = tmp_path / "merged.h5"
    assert "640 in all" in ok("merge", first, last, "--output", merged)
    assert len(SplatStore.load(merged)) == 640
    one_line_error(ebm("splats", "merge", first, last, "--output", merged), "--force")
    record = json.loads(ok("diff", first, last, "--json", "--limit", 3))
    assert (record["matched"], record["only_before"], record["only_after"]) == (320, 0, 0)
    one, other = (SplatStore.load(path / "splats.h5") for path in (first, last))
    assert (one.sid == other.sid).all()
    cosines = np.einsum("nd,nd->n", one.mu, other.mu, dtype=np.float64)
    moved = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    assert record["most_changed"][0]["before"] == int(moved.argmax())
    assert record["most_changed"][0]["angle"] == pytest.approx(moved.max(), abs=0.05)
    by_kappa = json.loads(ok("diff", first, last, "--json", "--sort", "kappa", "--limit", 1))
    change = (other.kappa - one.kappa)[np.abs(other.kappa - one.kappa).argmax()]
    assert by_kappa["most_changed"][0]["kappa"] == pytest.approx(change, abs=1e-5)
    assert "320 splats in both" in ok("diff", first, last)


def test_splats_of_other_tokenizers_are_not_mixed(trained: Trained, tmp_path: Path) -> None:
    run, other = trained[0], tmp_path / "run"
    shutil.copytree(run, other)
    from ebm_wgpu.text.tokenizers import BpeTokenizer

    BpeTokenizer.train("quite another text, " * 9, 260).save(other / "tokenizer.json")
    one_line_error(
        ebm("splats", "merge", run, other, "--output", tmp_path / "m.h5"), "different tokenizers"
    )
    one_line_error(ebm("splats", "diff", run, other), "different tokenizers")


def test_a_run_without_splats_says_so(splatless: Path) -> None:
    for arguments in (("info", splatless), ("list", splatless), ("show", splatless, 0)):
        one_line_error(ebm("splats", *arguments), "model.family=transformer, which has no splats")


def test_other_files_are_one_line_errors(tmp_path: Path) -> None:
    path = tmp_path / "text.h5"
    path.write_text("not HDF5")
    one_line_error(ebm("splats", "info", path), r"text\.h5")


def test_choices_are_those_of_the_library() -> None:
    """The command line names them itself, so that its help loads nothing."""
    from ebm_wgpu.cli import _splats_inspect, _splats_plot, compose
    from ebm_wgpu.composition import COMPOSERS
    from ebm_wgpu.splats.inspection import SORTS
    from ebm_wgpu.splats.projection import METHODS
    from ebm_wgpu.splats.splat_map import COLOURS

    def choices(command: click.Command, name: str) -> set[str]:
        (parameter,) = (p for p in command.params if p.name == name)
        return set(parameter.type.choices)  # type: ignore[attr-defined]

    assert choices(_splats_inspect.list_splats, "sort") == set(SORTS)
    assert choices(_splats_plot.plot, "color") == set(COLOURS)
    assert choices(_splats_plot.plot, "projection") == set(METHODS)
    assert choices(compose.command, "method") == {*COMPOSERS, "learned"}
