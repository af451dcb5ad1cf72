"""`ebm embed` and `ebm compose`: the numbers of the library, as text, JSON and files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from ebm_wgpu.cli import main
from ebm_wgpu.composition import compose, negate
from ebm_wgpu.embedding import TextEmbedder
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.sphere import dist
from ebm_wgpu.training.loading import load_run

from .conftest import ebm, one_line_error

Trained = tuple[Path, Result]


@pytest.fixture(scope="module")
def embedder(trained: Trained, numba_device: KernelDevice) -> TextEmbedder:
    run = load_run(trained[0], numba_device)
    return TextEmbedder(run.model, run.tokenizer, numba_device, run.config.data.eval_context)


def record(command: str, run: Path, *arguments: object) -> dict[str, object]:
    result = ebm(command, *arguments, "--checkpoint", run, "--device", "numba", "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_embed_prints_the_latent_and_what_is_near(trained: Trained, embedder: TextEmbedder) -> None:
    run, _ = trained
    found = record("embed", run, "the cat sat", "--limit", 3)
    latents = embedder.embed(["the cat sat"])
    assert np.allclose(found["direction"], latents.direction[0], atol=1e-6)
    assert found["mean_length"] == pytest.approx(float(np.linalg.norm(latents.mean)), abs=1e-6)
    p = embedder.posterior(latents.tilt[0])
    assert found["likely_splats"][0]["splat"] == int(p.argmax())
    assert found["likely_splats"][0]["probability"] == pytest.approx(float(p.max()), abs=1e-6)
    assert len(found["nearest_tokens"]) == 3
    shown = ebm("embed", "the cat sat", "--checkpoint", run, "--device", "numba").output
    assert "latent on S^15" in shown
    assert "likely splats" in shown


def test_embed_writes_vectors_and_records_once(
    trained: Trained, tmp_path: Path, embedder: TextEmbedder
) -> None:
    run, _ = trained
    vector, whole = tmp_path / "x.npy", tmp_path / "x.json"
    arguments = ("embed", "a dog", "--checkpoint", run, "--device", "numba", "--output")
    for path in (vector, whole):
        assert ebm(*arguments, path).exit_code == 0
        one_line_error(ebm(*arguments, path), "--force")
        assert ebm(*arguments, path, "--force").exit_code == 0
    direction = embedder.embed(["a dog"]).direction[0]
    assert np.allclose(np.load(vector), direction, atol=1e-6)
    assert np.allclose(json.loads(whole.read_text())["direction"], direction, atol=1e-6)
    one_line_error(ebm(*arguments, tmp_path / "x.txt"), r"use \.npy \(the vector\) or \.json")
    assert {path.name for path in tmp_path.iterdir()} == {"x.npy", "x.json"}


def test_embed_finds_the_nearest_lines(
    trained: Trained, corpus: Path, tmp_path: Path, embedder: TextEmbedder
) -> None:
    run, _ = trained
    lines = tmp_path / "lines.txt"
    lines.write_text("the cat sat on the\n\na dog ran\nover the river and\n")
    found = record("embed", run, "a dog ran", "--corpus", lines, "--limit", 2)
    assert found["nearest_texts"][0]["text"] == "a dog ran"
    assert found["nearest_texts"][0]["cosine"] == pytest.approx(1, abs=1e-5)
    assert len(found["nearest_texts"]) == 2
    only = record("embed", run, "a dog ran", "--corpus", lines, "--max-texts", 1)
    assert [row["text"] for row in only["nearest_texts"]] == ["the cat sat on the"]
    one_line_error(
        ebm("embed", "x", "--checkpoint", run, "--corpus", tmp_path / "none.txt"), "none.txt"
    )


def test_energies_are_a_table_without_a_terminal_and_colours_on_one(
    trained: Trained, embedder: TextEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = trained
    arguments = ("embed", "the cat sat", "--checkpoint", run, "--device", "numba", "--energy")
    energies = embedder.energies("the cat sat")
    rows = record("embed", run, "the cat sat", "--energy")["token_energies"]
    assert [row["text"] for row in rows] == list(energies.pieces)
    for name in ("energy", "latent", "surprise"):
        assert np.allclose([row[name] for row in rows], getattr(energies, name), atol=1e-4)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("TERM", "dumb")
    plain_output = ebm(*arguments).output
    assert "token (nats)" in plain_output
    assert "\x1b[" not in plain_output
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    words = [str(argument) for argument in arguments]
    coloured = CliRunner().invoke(main, words, color=True).output
    least, most = energies.latent.argmin(), energies.latent.argmax()
    for place, ground in ((least, "48;2;70;150;230"), (most, "48;2;235;90;60")):
        assert f"{ground}m{energies.pieces[place]}" in coloured


def test_compose_gives_the_composition(trained: Trained, embedder: TextEmbedder) -> None:
    run, _ = trained
    a, b, c = embedder.embed(["the cat", "a dog", "over"]).direction.astype(np.float64)
    base = embedder.base_point()
    tangent = record("compose", run, "the cat", "a dog", "--limit", 4)
    assert np.allclose(tangent["direction"], compose(a, b, base), atol=1e-5)
    assert tangent["degrees_to"]["a"] == pytest.approx(
        np.degrees(dist(compose(a, b, base), a)), abs=1e-3
    )
    assert len(tangent["nearest_tokens"]) == 4
    geodesic = record(
        "compose", run, "the cat", "a dog", "--method", "geodesic", "--share", 0.25, "--negate",
        "b", "--base", "over",
    )  # fmt: skip
    expected = compose(a, negate(b, c), c, method="geodesic", share=0.25)
    assert np.allclose(geodesic["direction"], expected, atol=1e-5)
    negated = record("compose", run, "the cat", "--negate", "a")
    assert np.allclose(negated["direction"], negate(a, base), atol=1e-5)
    shown = ebm("compose", "the cat", "--negate", "a", "--checkpoint", run).output
    assert shown.startswith("not 'the cat' by negation:")


def test_compose_writes_and_searches(trained: Trained, corpus: Path, tmp_path: Path) -> None:
    run, _ = trained
    output = tmp_path / "c.npy"
    found = record(
        "compose", run, "the cat", "a dog", "--output", output, "--corpus", corpus,
        "--max-texts", 5, "--limit", 2,
    )  # fmt: skip
    assert np.allclose(np.load(output), found["direction"])
    assert len(found["nearest_texts"]) == 2
    one_line_error(ebm("compose", "a", "b", "--checkpoint", run, "--output", output), "--force")
    one_line_error(ebm("compose", "a", "--checkpoint", run), "give two texts to compose")


def test_a_family_without_splats_is_refused(splatless: Path) -> None:
    for arguments in (("embed", "x"), ("compose", "x", "y")):
        result = ebm(*arguments, "--checkpoint", splatless, "--device", "numba")
        one_line_error(result, r"has no splats.*model\.family=splat")
