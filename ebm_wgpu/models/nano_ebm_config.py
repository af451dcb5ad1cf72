"""Thinking and training terms of a NanoEBM, as options a configuration can hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ebm_wgpu.models.energy_transformer_config import StepRule
from ebm_wgpu.models.transformer_config import check_options
from ebm_wgpu.options import option


@dataclass(frozen=True)
class System2Config:
    """How System 2 refines the logits of System 1."""

    think_steps: int = option(2, "refinement steps (0: System 1 alone)", ge=0, le=1000)
    random_steps: bool = option(False, "train with 1 to think_steps steps, drawn for each batch")
    step_size: float = option(1.0, "first step size", gt=0)
    learn_step_size: bool = option(True, "learn the step size")
    step_rule: StepRule = option(  # noqa: RUF009
        "learned", "step size: the learned one, or at most c / lambda_max of each guess (spectral)"
    )
    spectral_c: float = option(1.0, "c of the spectral step; descent wants c < 2", gt=0, lt=2)
    spectral_iterations: int = option(4, "power iterations of the spectral step", ge=1)
    gradient: Literal["natural", "logit"] = option(
        "natural", "go down the gradient in probability, or in logits"
    )
    step_clamp: float = option(5.0, "greatest change of a logit in a step of size 1", gt=0)
    entropy: float = option(1.0, "weight of the entropy in the energy of a guess", ge=0)
    tokens: Literal["soft", "hard"] = option(
        "soft", "the guess as the mean of the token embeddings, or the likeliest token's"
    )
    interaction: int = option(512, "hidden units between context and guess (0: none)", ge=0)
    noise: float = option(
        0.0, "half the variance of what a step of size 1 adds to each logit in training", ge=0
    )
    energy_tolerance: float = option(
        0.0,
        "stop where a step without noise lowers the energy by less, nats (0: never)",
        ge=0,
    )

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: the first value out of range.
        """
        check_options("nano", self)


@dataclass(frozen=True)
class NanoEBMConfig(System2Config):
    """System 2, and the terms of the loss besides its cross-entropy."""

    auxiliary_weight: float = option(0.1, "weight of System 1's cross-entropy", ge=0)
    entropy_weight: float = option(0.0, "weight of the entropy of the refined guess", ge=0)
    infonce_weight: float = option(0.0, "weight of the InfoNCE term (0: none)", ge=0)
    infonce_negatives: int = option(64, "negatives of the InfoNCE term", ge=1)
    contrastive_weight: float = option(0.0, "weight of contrastive divergence (0: none)", ge=0)
    contrastive_method: Literal["cd", "pcd", "fast_pcd"] = option(
        "cd", "chains: from the data, persistent, or all persistent with restarts"
    )
    contrastive_steps: int = option(4, "steps of the chains for each batch", ge=1)
    contrastive_length: int = option(32, "tokens of a sequence in the chains", ge=1)
    n_particles: int = option(64, "persistent sequences of pcd and fast_pcd", ge=1)
    restart_probability: float = option(
        0.05, "share of fast_pcd's particles that start again at the data", ge=0, le=1
    )
