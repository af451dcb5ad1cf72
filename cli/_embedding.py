"""What the commands share that place texts on the sphere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import _splat_files

if TYPE_CHECKING:
    from ebm_wgpu.embedding import TextEmbedder
    from ebm_wgpu.kernels import KernelDevice
    from ebm_wgpu.training.loading import LoadedRun

corpus = click.option(
    "--corpus",
    type=click.Path(path_type=Path),
    help="Text file (also .gz, .bz2, .xz, JSON lines): find its lines nearest to the result.",
)

max_texts = click.option(
    "--max-texts",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    help="Lines of the corpus to read.",
)


def load(
    path: Path | None, device: str, family: str | None = None
) -> tuple[LoadedRun, KernelDevice]:
    """The run, or the newest (of a family), and the device of its kernels."""
    from ebm_wgpu.kernels import open_device
    from ebm_wgpu.training.loading import load_run

    from ._runs import find_run

    run, opened = find_run(path, family), open_device(device)
    return load_run(run, opened), opened


def embedder_of(run: LoadedRun, device: KernelDevice) -> TextEmbedder:
    """The reader of texts of a loaded run.

    Raises:
        ConfigError: a run of a family without splats.
    """
    from ebm_wgpu.embedding import TextEmbedder

    return TextEmbedder(run.model, run.tokenizer, device, run.config.data.eval_context)


def open_embedder(path: Path | None, device: str, family: str | None = None) -> TextEmbedder:
    """The reader of texts of a run, of a checkpoint, or of the newest run (of a family)."""
    return embedder_of(*load(path, device, family))


def near_tokens(embedder: TextEmbedder, x: Any, k: int) -> list[dict[str, Any]]:
    """The tokens nearest to a point, nearest first."""
    near = embedder.nearest_tokens(x, min(k, embedder.model.vocab_size))
    return [
        {
            "cosine": float(cosine),
            "token_id": int(token),
            "token": repr(embedder.tokenizer.decode([int(token)])),
        }
        for cosine, token in zip(near.similarities[0], near.indices[0], strict=True)
    ]


def near_texts(
    embedder: TextEmbedder, corpus: Path, x: Any, k: int, max_texts: int
) -> list[dict[str, Any]]:
    """The lines of a corpus whose latents are nearest to a point, nearest first."""
    from ebm_wgpu.embedding import corpus_lines, nearest_texts
    from ebm_wgpu.text.documents import DocumentRule, read_documents
    from ebm_wgpu.text.streaming import is_json_lines

    rule = DocumentRule("jsonl" if is_json_lines(corpus) else "line")
    texts = corpus_lines(read_documents(corpus, rule), max_texts)
    with _splat_files.progress(len(texts), "reading the corpus") as advance:
        directions = embedder.embed(texts, advance).direction
    found = nearest_texts(directions, x, k)
    return [
        {"cosine": float(cosine), "line": int(line), "text": texts[line]}
        for cosine, line in zip(found.similarities[0], found.indices[0], strict=True)
    ]


def print_near(title: str, rows: list[dict[str, Any]], key: str) -> None:
    """Rows under a title, with their cosines."""
    click.echo(title)
    for row in rows:
        click.echo(f"{row['cosine']:8.4f}  {row[key]}")


def write_latent(path: Path, direction: Any, record: dict[str, Any], force: bool) -> None:
    """Write a latent: its direction as .npy, or the whole record as .json.

    Raises:
        ConfigError: another suffix, or a file that is there without `force`.
        DataError: the folder is missing, or cannot be written to.
    """
    import io
    import json

    import numpy as np

    from ebm_wgpu.errors import ConfigError
    from ebm_wgpu.files import write_atomically

    if path.suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(direction), allow_pickle=False)
        content = buffer.getvalue()
    elif path.suffix == ".json":
        content = (json.dumps(record, indent=1) + "\n").encode()
    else:
        raise ConfigError(f"{path}: unknown kind of file: use .npy (the vector) or .json (all)")
    _splat_files.check_output(path, force)
    try:
        write_atomically(path, content)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror or error})") from error
