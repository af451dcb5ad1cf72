"""`ebm splats`: what it prints is what the file holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from click.testing import Result

from ebm_wgpu.splats.store import SplatStore

from .conftest import ebm
from .test_sample import last_checkpoint
from .test_train import one_line_error

Trained = tuple[Path, Result]


def test_info_agrees_with_the_store(trained: Trained) -> None:
    run, _ = trained
    record = json.loads(ebm("splats", "info", run, "--json").output)
    store = SplatStore.load(last_checkpoint(run) / "splats.h5")
    pi = store.alpha / store.alpha.sum()
    assert record["splats"] == len(store) == 320
    assert record["dimension"] == 16
    np.testing.assert_allclose(record["effective_splats"], np.exp(-np.sum(pi * np.log(pi))), 1e-5)
    np.testing.assert_allclose(record["quantiles"]["kappa"][2], np.median(store.kappa), 1e-6)
    text = ebm("splats", "info", run).output
    assert "320 splats on S^15" in text


def test_list_is_sorted_and_names_tokens(trained: Trained) -> None:
    run, _ = trained
    rows = json.loads(ebm("splats", "list", run, "--json", "--limit", 10).output)
    assert len(rows) == 10
    usage = [row["usage"] for row in rows]
    assert usage == sorted(usage, reverse=True)
    assert usage[0] > 0
    assert all(row["token"] for row in rows)
    heaviest = json.loads(
        ebm("splats", "list", run, "--json", "--sort", "weight", "--limit", 1).output
    )
    store = SplatStore.load(last_checkpoint(run) / "splats.h5")
    assert heaviest[0]["splat"] == int(store.alpha.argmax())
    only = json.loads(ebm("splats", "list", run, "--json", "--token", rows[0]["token_id"]).output)
    assert {row["token_id"] for row in only} == {rows[0]["token_id"]}
    plain = ebm("splats", "list", run, "--limit", 3).output
    assert len(plain.splitlines()) == 4


def test_a_file_alone_is_listed_without_token_texts(trained: Trained) -> None:
    run, _ = trained
    rows = json.loads(ebm("splats", "list", last_checkpoint(run) / "splats.h5", "--json").output)
    assert rows[0]["token"] == ""


def test_other_files_are_one_line_errors(tmp_path: Path) -> None:
    path = tmp_path / "text.h5"
    path.write_text("not HDF5")
    one_line_error(ebm("splats", "info", path), r"text\.h5")
