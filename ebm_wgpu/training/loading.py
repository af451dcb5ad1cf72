"""Opening a trained run: configuration, tokenizer and model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ebm_wgpu.config import Config
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models.base import LanguageModel
from ebm_wgpu.models.registry import build_model
from ebm_wgpu.text.tokenizers import TextTokenizer
from ebm_wgpu.training.checkpoints import check_tokenizer, read_checkpoint
from ebm_wgpu.training.curriculum import checkpoint_config
from ebm_wgpu.training.model_state import restore_model
from ebm_wgpu.training.placement import place_model, resident_device
from ebm_wgpu.training.run_folder import RunFolder


@dataclass(frozen=True)
class LoadedRun:
    """A trained model and what it was trained with.

    Attributes:
        run: its folder.
        config: its configuration, in the phase of its curriculum that the checkpoint is of.
        tokenizer: its tokenizer.
        model: the model, in evaluation mode.
        step: optimiser steps behind it.
    """

    run: RunFolder
    config: Config
    tokenizer: TextTokenizer
    model: LanguageModel
    step: int


def load_run(path: str | Path, device: KernelDevice, which: str | int = "best") -> LoadedRun:
    """Open a run.

    Args:
        path: a run folder, or the folder of one of its checkpoints.
        device: runs the model's kernels; on a GPU, families without splats live there.
        which: for a run folder, the checkpoint: "best", "last" or a step. A run that ended before
            it was first scored has no best one, and gives its last.

    Raises:
        CheckpointError: no run or checkpoint there, or a damaged one, or of another shape or
            tokenizer.
        DataError: the tokenizer is missing or damaged.
    """
    run, step = RunFolder.locate(path)
    if step is not None:
        which = step
    elif which == "best" and run.pointer("best") is None:
        which = "last"
    checkpoint = read_checkpoint(run.checkpoint_path(which))
    config, tokenizer = checkpoint_config(run.read_config(), checkpoint.store), run.read_tokenizer()
    check_tokenizer(checkpoint, tokenizer.fingerprint)
    kernels = resident_device(device)
    model = build_model(config, tokenizer.vocab_size, kernels)
    restore_model(model, checkpoint)
    place_model(model, kernels)
    model.eval()
    return LoadedRun(run, config, tokenizer, model, checkpoint.step)
