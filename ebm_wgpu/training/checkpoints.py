"""Checkpoints: a folder of files with a manifest of their SHA-256, written whole or not at all.

    splats.h5              the splats (`ebm_wgpu.splats.hdf5`), of models that are made of them
    weights.safetensors    every tensor of the model that splats.h5 does not hold exactly
    trainer.pt             optimiser, progress, random states, data position, configuration, where
                           metrics.jsonl stood, and the weights that go on learning where those in
                           use are their average
    manifest.json          format, version, step, versions of libraries, the tokenizer's
                           fingerprint, and of each file size and SHA-256; and a SHA-256 of all that

Nothing in a checkpoint is looked at before all of it has been verified.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np
import torch
from safetensors.torch import load_file, save

import ebm_wgpu
from ebm_wgpu.errors import CheckpointError, StoreError
from ebm_wgpu.files import (
    TEMPORARY_PREFIX,
    check_written,
    file_digest,
    json_digest,
    parse_json,
    remove_folder,
    sync_folder,
    write_atomically,
)
from ebm_wgpu.splats.store import SplatStore

FORMAT = "ebm-wgpu-checkpoint"
VERSION = 1
SPLATS_FILE = "splats.h5"
WEIGHTS_FILE = "weights.safetensors"
TRAINER_FILE = "trainer.pt"
MANIFEST_FILE = "manifest.json"
_REMEDY = "delete this checkpoint and use another, or restore it from a copy"


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint.

    Attributes:
        path: its folder.
        step: optimiser steps behind it.
        store: its splats, or none.
        weights: its other tensors by name.
        tokenizer: fingerprint of the tokenizer it was trained with, where that was recorded.
    """

    path: Path
    step: int
    store: SplatStore | None
    weights: Mapping[str, torch.Tensor]
    tokenizer: str | None = None

    def trainer_state(self) -> dict[str, Any]:
        """What the trainer had besides the model.

        Raises:
            CheckpointError: the file is not what a trainer writes.
        """
        path = self.path / TRAINER_FILE
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        # torch.load reports a bad file in many ways; all mean the same here.
        except Exception as error:
            raise CheckpointError(f"{path} cannot be read ({_line(error)}): {_REMEDY}") from error
        if not isinstance(state, dict):
            raise CheckpointError(f"{path} holds no trainer state: {_REMEDY}")
        return state


def checkpoint_name(step: int) -> str:
    """The folder name of the checkpoint of `step`; names sort as steps do."""
    return f"{step:08d}"


def write_checkpoint(
    folder: Path,
    step: int,
    store: SplatStore | None,
    weights: Mapping[str, torch.Tensor],
    trainer_state: Mapping[str, Any],
    tokenizer: str | None = None,
) -> Path:
    """Write a checkpoint to `folder`/<step>, replacing one of the same step; returns its path.

    It is written under a temporary name, synced, read back and renamed, so that <step> is whole or
    absent.
    Without a `store` it has no splats.h5, and its manifest says so. `tokenizer` is the fingerprint
    of the one that its tokens are from.

    Raises:
        CheckpointError: the disk is full, or the folder cannot be written.
        StoreError: the splats are invalid.
    """
    path = folder / checkpoint_name(step)
    temporary = folder / f"{TEMPORARY_PREFIX}{path.name}"
    try:
        if temporary.exists():
            remove_folder(temporary)
        temporary.mkdir(parents=True)
        digests = {}
        if store is not None:
            digests[SPLATS_FILE] = _write_splats(temporary / SPLATS_FILE, store)
        with _hashed(temporary / WEIGHTS_FILE) as file:
            file.write(save({name: t.detach().contiguous() for name, t in weights.items()}))
        digests[WEIGHTS_FILE] = file.sha256
        with _hashed(temporary / TRAINER_FILE) as file:
            torch.save(dict(trainer_state), cast("IO[bytes]", file))
        digests[TRAINER_FILE] = file.sha256
        _write_manifest(temporary, step, digests, tokenizer)
        if path.exists():
            remove_folder(path)
        temporary.replace(path)
        sync_folder(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"{path} cannot be written ({_line(error)}): make room or choose another run folder"
        ) from error
    return path


class _HashedFile:
    """A file being written, the SHA-256 of what it was told, and what the system refused."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest = file, hashlib.sha256()
        self.refusal: OSError | None = None

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.refusal = error
            raise

    def flush(self) -> None:
        self._file.flush()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


@contextlib.contextmanager
def _hashed(path: Path) -> Iterator[_HashedFile]:
    """A new file at `path`, which is synced and read back when the block ends."""
    with path.open("xb") as raw:
        file = _HashedFile(raw)
        try:
            yield file
        except RuntimeError as error:
            # torch.save closes its archive whatever happened, and fails at that instead.
            raise file.refusal or error from error
        raw.flush()
        os.fsync(raw.fileno())
    check_written(path, file.sha256)


def _write_splats(path: Path, store: SplatStore) -> str:
    """Write the splats and read them back: their file holds digests of what was in memory."""
    try:
        store.save(path)
    except StoreError as error:
        if error.__cause__ is None:
            raise
        # Only a file that cannot be written has another cause than the splats.
        raise OSError(errno.EIO, str(error)) from error
    try:
        SplatStore.load(path)
    except StoreError as error:
        raise OSError(errno.EIO, f"what was written does not read back: {error}") from error
    return file_digest(path)


def read_checkpoint(path: Path) -> Checkpoint:
    """Verify the checkpoint at `path`, every byte of it, and read its model.

    Raises:
        CheckpointError: a file is missing, altered by as much as a bit, or of another version.
    """
    manifest = _verify(path)
    try:
        has_splats = SPLATS_FILE in manifest["files"]
        store = SplatStore.load(path / SPLATS_FILE) if has_splats else None
        weights = load_file(path / WEIGHTS_FILE)
    except StoreError as error:
        raise CheckpointError(f"{error}: {_REMEDY}") from error
    # safetensors has an error class of its own, and the file passed its digest: name the cause.
    except Exception as error:
        raise CheckpointError(
            f"{path / WEIGHTS_FILE} cannot be read ({_line(error)}): {_REMEDY}"
        ) from error
    return Checkpoint(path, int(manifest["step"]), store, weights, manifest.get("tokenizer"))


def verify_checkpoint(path: Path) -> int:
    """Compare every file of the checkpoint at `path` with its manifest; returns the step.

    Raises:
        CheckpointError: naming the first file that is missing or altered.
    """
    return int(_verify(path)["step"])


def _verify(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose every file agrees with it."""
    manifest = _read_manifest(path)
    for name, recorded in manifest["files"].items():
        file = path / name
        try:
            size = file.stat().st_size
            digest = file_digest(file)
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read ({_line(error)}): {_REMEDY}") from error
        if size != recorded["bytes"]:
            raise CheckpointError(
                f"{file} has {size} bytes, its manifest says {recorded['bytes']}: {_REMEDY}"
            )
        if digest != recorded["sha256"]:
            raise CheckpointError(f"{file} differs from its SHA-256: it was altered; {_REMEDY}")
    return manifest


def check_tokenizer(checkpoint: Checkpoint, fingerprint: str) -> None:
    """Compare the tokenizer at hand with the one that a checkpoint was trained with.

    Raises:
        CheckpointError: it is another one. Checkpoints that record none go with any.
    """
    if checkpoint.tokenizer not in (None, fingerprint):
        raise CheckpointError(
            f"the run's tokenizer.json is not the one that {checkpoint.path} was trained with "
            f"(SHA-256 {fingerprint[:12]}, was {str(checkpoint.tokenizer)[:12]}): restore it"
        )


def check_shapes(
    path: Path, found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> None:
    """Compare the tensors of a checkpoint with those of the model that is to take them.

    Raises:
        CheckpointError: naming the first tensor that is missing, unknown, or of another shape or
            type, and both shapes.
    """
    remedy = "the run's config.json is not the one it was trained with: restore it"
    for name, tensor in expected.items():
        if name not in found:
            raise CheckpointError(f"{path} lacks tensor {name} {tuple(tensor.shape)}: {remedy}")
        given = found[name]
        if given.shape != tensor.shape or given.dtype != tensor.dtype:
            raise CheckpointError(
                f"{path}: tensor {name} is {_shape(given)} and the model's is {_shape(tensor)}: "
                f"{remedy}"
            )
    if unknown := found.keys() - expected.keys():
        raise CheckpointError(f"{path} has tensor {min(unknown)}, the model has not: {remedy}")


def _shape(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _write_manifest(
    folder: Path, step: int, digests: Mapping[str, str], tokenizer: str | None
) -> None:
    content = {
        "format": FORMAT,
        "version": VERSION,
        "step": step,
        "libraries": {
            "ebm_wgpu": ebm_wgpu.__version__,
            "torch": str(torch.__version__),
            "numpy": np.__version__,
        },
        "files": {
            name: {"bytes": (folder / name).stat().st_size, "sha256": sha256}
            for name, sha256 in digests.items()
        },
    }
    if tokenizer is not None:
        content["tokenizer"] = tokenizer
    document = {**content, "sha256": json_digest(content)}
    write_atomically(folder / MANIFEST_FILE, json.dumps(document, indent=2).encode())


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST_FILE
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such checkpoint: check the path, or train a model first")
    try:
        document = parse_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({_line(error)}): {_REMEDY}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CheckpointError(f"{file} is no checkpoint manifest of ebm-wgpu: {_REMEDY}")
    if document.get("version") != VERSION:
        raise CheckpointError(
            f"{file} has version {document.get('version')}, this program reads {VERSION}: install "
            "the ebm-wgpu that wrote it"
        )
    digest = document.pop("sha256", None)
    if digest != json_digest(document):
        raise CheckpointError(f"{file} differs from its SHA-256: it was altered; {_REMEDY}")
    if not _well_formed(document):
        raise CheckpointError(f"{file} does not say what a manifest must: {_REMEDY}")
    return document


def _well_formed(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest names a step, and size and SHA-256 of the files of a checkpoint."""
    step, files = manifest.get("step"), manifest.get("files")
    if type(step) is not int or step < 0 or not isinstance(files, dict):
        return False
    if not isinstance(manifest.get("tokenizer", ""), str):
        return False
    if files.keys() - {SPLATS_FILE} != {WEIGHTS_FILE, TRAINER_FILE}:
        return False
    return all(
        isinstance(file, dict) and {"bytes", "sha256"} <= file.keys() for file in files.values()
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
