"""Shape, refinement and training terms of an energy-based transformer, and the paper's sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.models.transformer_config import TransformerConfig, check_options
from ebm_wgpu.options import option

Variant = Literal["default", "adaln", "time"]
Update = Literal["normalized", "normalized_first", "raw", "mirror"]
StepRule = Literal["learned", "spectral"]
Gradient = Literal["full", "detach", "truncate"]


@dataclass(frozen=True)
class EnergyTransformerConfig:
    """An energy-based transformer (Gladstone et al. 2025, arXiv:2507.02092).

    The defaults are the paper's System 1 recipe: two steps, a learned step size, a normalised
    initial condition, width = hidden width. `ENERGY_TRANSFORMER_SIZES` has its sizes and
    `system_2` its System 2 recipe.
    """

    n_layers: int = option(6, "transformer blocks", ge=1)
    n_heads: int = option(6, "attention heads", ge=1)
    dim: int = option(384, "width of the residual stream", ge=8)
    ffn_ratio: float = option(1.0, "hidden width of the SwiGLU layers over the width", gt=0)
    max_length: int = option(1024, "most tokens of input", ge=1)
    variant: Variant = option(  # noqa: RUF009
        "default",
        "how a block learns which step it is in: not at all, adaptive norms (adaln), or a token "
        "that predictions attend to (time)",
    )
    tie_prediction: bool = option(
        False, "embed a predicted distribution by the table of the real tokens"
    )
    update: Update = option(  # noqa: RUF009
        "normalized",
        "what a step moves: softmax of the state, taken anew at each step (normalized) or once "
        "(normalized_first), the state itself (raw), or logits down the gradient of their "
        "softmax (mirror)",
    )
    initial: Literal["zeros", "unigram"] = option(
        "zeros", "mean of the first state: zeros, or log frequencies of the tokens"
    )
    initial_noise: float = option(1.0, "standard deviation of the first state", ge=0)
    min_steps: int = option(2, "fewest steps of a training batch", ge=1)
    max_steps: int = option(2, "most steps of a training batch, and steps of inference", ge=1)
    step_size: float = option(3.0, "first step size alpha", gt=0)
    learn_step_size: bool = option(True, "learn log alpha")
    step_jitter: float = option(
        1.0, "alpha of a trained position is uniform from alpha/jitter to alpha*jitter", ge=1
    )
    step_rule: StepRule = option(  # noqa: RUF009
        "learned", "step size: alpha, or at most c / lambda_max of each position (spectral)"
    )
    spectral_c: float = option(1.0, "c of the spectral step; descent wants c < 2", gt=0, lt=2)
    spectral_iterations: int = option(4, "power iterations of the spectral step", ge=1)
    langevin_noise: float = option(
        0.0, "standard deviation of the noise added before each step of training", ge=0
    )
    gradient: Gradient = option(  # noqa: RUF009
        "full",
        "what training differentiates: all steps as one computation, each step by itself "
        "(detach), or only the last (truncate)",
    )
    intermediate_weight: float = option(
        1.0, "weight of the mean cross-entropy of the steps before the last", ge=0
    )
    contrastive_weight: float = option(
        0.0, "weight of telling true tokens from predictions by their energy", ge=0
    )
    replay_capacity: int = option(0, "windows in the replay buffer (0: none)", ge=0)
    replay_tokens: int = option(256, "tokens predicted in a window of the replay buffer", ge=1)
    replay_share: float = option(0.5, "replayed windows over the windows of a batch", gt=0, le=1)
    max_logits: int = option(
        1 << 24,
        "most entries of a (positions, vocabulary) matrix held at a time; training computes what "
        "exceeds it twice",
        ge=1,
    )

    def __post_init__(self) -> None:
        """Check every value, and that they agree.

        Raises:
            ConfigError: the first that is out of range, with its name and bound.
        """
        check_options("ebt", self)
        for wrong, message in (
            (
                self.dim % (2 * self.n_heads),
                f"ebt.dim={self.dim} must be a multiple of 2 x ebt.n_heads={2 * self.n_heads}: "
                "rotary positions need heads of even dimension",
            ),
            (
                self.min_steps > self.max_steps,
                f"ebt.min_steps={self.min_steps} must be <= ebt.max_steps={self.max_steps}",
            ),
        ):
            if wrong:
                raise ConfigError(message)

    @property
    def blocks(self) -> TransformerConfig:
        """The blocks: RMSNorm, rotary positions, SwiGLU."""
        return TransformerConfig(
            dim=self.dim,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            hidden=max(1, round(self.dim * self.ffn_ratio)),
            activation="swiglu",
            norm="rms",
            max_length=self.max_length,
        )


ENERGY_TRANSFORMER_SIZES: Mapping[str, EnergyTransformerConfig] = MappingProxyType(
    {
        name: EnergyTransformerConfig(n_layers=layers, n_heads=heads, dim=dim, variant="time")
        for name, layers, heads, dim in (
            ("tiny", 2, 2, 32),
            ("4xs", 2, 2, 128),
            ("3xs", 4, 4, 256),
            ("2xs", 6, 6, 384),
            ("xs", 12, 6, 384),
            ("small", 12, 12, 768),
            ("medium", 24, 16, 1024),
            ("large", 24, 16, 1536),
            ("xl", 24, 32, 2048),
        )
    }
)
"""The paper's sizes by name (small to xl as in Mamba, arXiv:2312.00752), and a tiny one.

Weights in blocks: 2xs 6.2 M, xs 12.4 M, small 49.5 M, medium 176 M, large 396 M, xl 705 M. The
paper's peak learning rates are, in that order, .0012, .0009, .0006, .0003, .00025 and .0002.
"""


def system_2(config: EnergyTransformerConfig) -> EnergyTransformerConfig:
    """`config` with the paper's System 2 recipe, which regularises the energy for more steps.

    A random number of steps, noise in each, step sizes that vary by two, no gradient through
    earlier steps, and a replay buffer.
    """
    return dataclasses.replace(
        config,
        min_steps=2,
        max_steps=3,
        learn_step_size=False,
        step_jitter=2.0,
        langevin_noise=3.0,
        gradient="truncate",
        replay_capacity=64,
    )


@dataclass(frozen=True)
class Thinking:
    """How long inference thinks: System 1 is one step, System 2 more of them or several starts.

    Attributes:
        steps: refinement steps; none takes the configuration's max_steps.
        best_of: starts, of which each position keeps the one that ends at the lowest energy.
        step_rule: learned or spectral; none takes the configuration's.
    """

    steps: int | None = None
    best_of: int = 1
    step_rule: StepRule | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a value out of range.
        """
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"think steps={self.steps} must be at least 1")
        if self.best_of < 1:
            raise ConfigError(f"think_best_of={self.best_of} must be at least 1")
        if self.step_rule not in (None, "learned", "spectral"):
            raise ConfigError(
                f"think_rule={self.step_rule} must be learned or spectral, or left out"
            )
