"""A model as the files of a checkpoint, and as figures for the log."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ebm_wgpu.models.splat_lm import SplatLM
from ebm_wgpu.splats.store import SplatStore
from ebm_wgpu.training.checkpoints import SPLATS_FILE, WEIGHTS_FILE, Checkpoint, check_shapes

_IN_STORE = ("mu", "sid", "frequency", "age")
"""Tensors of the model that splats.h5 holds bit for bit, under the same names."""


def model_weights(model: SplatLM) -> tuple[SplatStore, dict[str, Tensor]]:
    """The splats of `model`, and every other tensor of its state.

    Weights and concentrations of splats are in both: the store has what they mean, the tensors what
    training goes on from.
    """
    tensors = {k: v for k, v in model.state_dict().items() if k not in _IN_STORE}
    return model.to_store(), tensors


def restore_model(model: SplatLM, checkpoint: Checkpoint) -> None:
    """Give `model` the state that `model_weights` took.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape.
    """
    state = model.state_dict()
    held = {name: torch.from_numpy(getattr(checkpoint.store, name)) for name in _IN_STORE}
    check_shapes(checkpoint.path / SPLATS_FILE, held, {name: state[name] for name in held})
    rest = {name: tensor for name, tensor in state.items() if name not in held}
    check_shapes(checkpoint.path / WEIGHTS_FILE, checkpoint.weights, rest)
    model.load_store(checkpoint.store)
    model.load_state_dict({**held, **checkpoint.weights})


@torch.no_grad()
def splat_statistics(model: SplatLM) -> dict[str, Any]:
    """Spread of concentrations and weights: kappa_{min,mean,max} and "effective".

    The effective number of splats is exp of the entropy of pi, N when all weigh the same.
    """
    kappa = model.kappa()
    log_pi = model.log_pi()
    entropy = -(log_pi.exp() * log_pi).sum()
    return {
        "kappa_min": float(kappa.min()),
        "kappa_mean": float(kappa.mean()),
        "kappa_max": float(kappa.max()),
        "effective": float(entropy.exp()),
    }
