"""A model as the files of a checkpoint, and as figures for the log."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_wgpu.models.base import LanguageModel, SplatModel
from ebm_wgpu.splats.health import active_splats, effective_number
from ebm_wgpu.splats.store import SplatStore
from ebm_wgpu.training.checkpoints import SPLATS_FILE, WEIGHTS_FILE, Checkpoint, check_shapes

_IN_STORE = ("mu", "sid", "frequency", "age")
"""Tensors of the model that splats.h5 holds bit for bit, under the same names."""


def model_weights(model: LanguageModel) -> tuple[SplatStore | None, dict[str, Tensor]]:
    """The splats of `model`, none if it has none, and every other tensor of its state.

    Weights and concentrations of splats are in both: the store has what they mean, the tensors what
    training goes on from. A tensor that has several names is given under the first.
    """
    splats, tensors = model.splat_model, _tensors(model)
    if splats is None:
        return model.stored_splats, tensors
    rest = {name: tensor for name, tensor in tensors.items() if name not in _IN_STORE}
    return splats.to_store(), rest


def restore_model(model: LanguageModel, checkpoint: Checkpoint) -> None:
    """Give `model` the state that `model_weights` took.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape.
    """
    state, splats, store = _tensors(model), model.splat_model, checkpoint.store
    held: dict[str, Tensor] = {}
    if model.storing_model is not None:
        model.storing_model.store_splats(store)
        store = None
    if store is not None:
        held = {name: torch.from_numpy(getattr(store, name)) for name in _IN_STORE}
    expected = {name: state[name] for name in _IN_STORE} if splats is not None else {}
    check_shapes(checkpoint.path / SPLATS_FILE, held, expected)
    rest = {name: tensor for name, tensor in state.items() if name not in expected}
    check_shapes(checkpoint.path / WEIGHTS_FILE, checkpoint.weights, rest)
    if splats is not None and store is not None:
        splats.load_store(store)
    # Every tensor is there; what is missing are further names of the same ones.
    model.load_state_dict({**held, **checkpoint.weights}, strict=False)


def _tensors(model: LanguageModel) -> dict[str, Tensor]:
    """The state of `model` in main memory, each tensor once, under the first of its names."""
    seen: set[int] = set()
    tensors = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor.detach().cpu()
    return tensors


@torch.no_grad()
def splat_statistics(
    model: SplatModel, kappa_range: tuple[float, float], token_counts: NDArray[np.int64]
) -> dict[str, Any]:
    """How the splats are spread, and how they are used.

    count; "active" ones, whose share of all use is at least a hundredth of the even share 1/N
    (`splats.health.active_splats`);
    "coverage", the share of the training text whose token has an active splat; kappa_{min,mean,max}
    and the shares at_kappa_{min,max} of splats within a hundredth of either end of `kappa_range`;
    and "effective" and "effective_use", exp of the entropy of pi and of the shares of use, which
    are N when all weigh the same and are used alike.

    Args:
        model: has the splats.
        kappa_range: least and greatest concentration there may be.
        token_counts: (V,) uses of each token in the training text.
    """
    kappa, log_pi, state = model.kappa().cpu(), model.log_pi().cpu(), model.state_dict()
    use, sid = state["frequency"].numpy(), state["sid"].numpy()
    active = active_splats(use)
    covered = token_counts[np.unique(sid[active])].sum()
    margin = (kappa_range[1] - kappa_range[0]) / 100
    return {
        "count": len(use),
        "active": int(active.sum()),
        "coverage": float(covered / max(int(token_counts.sum()), 1)),
        "kappa_min": float(kappa.min()),
        "kappa_mean": float(kappa.mean()),
        "kappa_max": float(kappa.max()),
        "at_kappa_min": float((kappa <= kappa_range[0] + margin).double().mean()),
        "at_kappa_max": float((kappa >= kappa_range[1] - margin).double().mean()),
        "effective": float((-(log_pi.exp() * log_pi).sum()).exp()),
        "effective_use": effective_number(use),
    }
