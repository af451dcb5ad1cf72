"""What every model family offers to the trainer, the evaluation and the generation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ebm_wgpu.config import Latent
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.models.energy_transformer_config import StepRule

if TYPE_CHECKING:
    from ebm_wgpu.models.context import Context
    from ebm_wgpu.models.energy_ops import EnergyTerms
    from ebm_wgpu.models.mixture_ops import Splats
    from ebm_wgpu.models.splat_transformer import SplatTransformer
    from ebm_wgpu.splats.store import SplatStore


class LanguageModel(nn.Module, ABC):
    """p(next token | tokens so far), and the terms of a loss that teach it.

    What only some families have comes with a default that says so: `splat_model` is none, `think`
    refuses. A family whose text can grow token by token also has `start_cache` and `step`
    (`ebm_wgpu.generation.writer.CachedModel`).

    Attributes:
        vocab_size: number of token ids V.
        label_smoothing: share of a target that cross-entropies of `losses` spread over all tokens
            (`torch.nn.functional.cross_entropy`); scores are never smoothed.
    """

    vocab_size: int
    label_smoothing: float = 0.0

    @abstractmethod
    def initialize(
        self,
        corpus_ids: Any,
        token_counts: Any,
        seed: int,
        vocabulary: Sequence[str] | None = None,
    ) -> None:
        """First values of all parameters.

        Args:
            corpus_ids: token ids of the training text, (n,).
            token_counts: uses of each token, (V,).
            seed: of everything random.
            vocabulary: text of each token, for families that start from word vectors.
        """

    @property
    @abstractmethod
    def loss_weights(self) -> Mapping[str, float]:
        """Weights of the terms of `losses` that the family itself has minimised."""

    @abstractmethod
    def losses(self, tokens: Tensor, latent: Latent = "mean", seed: int = 0) -> dict[str, Tensor]:
        """Terms of the loss and what else is watched, scalars; "token" is the cross-entropy, nats.

        Cross-entropies are smoothed by `label_smoothing`.

        Args:
            tokens: (B, T+1) int64; inputs [:, :-1], targets [:, 1:].
            latent: what is random in a prediction, for families that have latents.
            seed: of everything random.
        """

    def prepare(self, batches: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """What `losses` would read back of each batch (B, T+1), found while it is in main memory.

        Nothing for most. Shapes agree between the batches of a step, and seldom change from step to
        step: `torch_device.replay` keeps launches by them.
        """
        return [() for _ in batches]

    def prepared_losses(
        self, tokens: Tensor, prepared: Sequence[Tensor], latent: Latent, seed: int
    ) -> dict[str, Tensor]:
        """`losses`, given what `prepare` found of the tokens, all of it where the model is."""
        return self.losses(tokens, latent=latent, seed=seed)

    @property
    def repeats_launches(self) -> bool:
        """Whether `prepared_losses` with latent="mean" launches the same kernels for every batch.

        Of one shape, and whatever the seed: what `torch_device.replay` wants of a function.
        """
        return False

    @abstractmethod
    def token_log_probs(
        self, tokens: Tensor, targets: Tensor, latent: Latent = "mean", seed: int = 0
    ) -> Tensor:
        """log p(targets[b, t] | tokens[b, :t+1]), nats, (B, T), for tokens and targets (B, T)."""

    @abstractmethod
    def next_token_log_probs(
        self, tokens: Tensor, latent: Latent = "mean", seed: int = 0
    ) -> Tensor:
        """log p(next token | tokens), nats, (B, V), for tokens (B, T)."""

    def target_energies(self, tokens: Tensor, targets: Tensor) -> Tensor | None:
        """E(targets[b, t] | tokens[b, :t+1]), nats, (B, T), for tokens and targets (B, T).

        The family's own energy, before normalisation; nothing for one that has none besides
        -log p.
        """
        return None

    @property
    def device_description(self) -> str:
        """What computes: for families written in torch, the place of their parameters."""
        if next(self.parameters()).device.type == "wgpu":
            from ebm_wgpu.torch_device import device

            return f"{device().description}, by torch"
        return "the processor, by torch"

    @property
    def splat_model(self) -> SplatModel | None:
        """Itself, if it is made of splats; otherwise nothing."""
        return None

    @property
    def storing_model(self) -> SplatTransformer | None:
        """Itself, if it can predict by stored splats besides; otherwise nothing."""
        return None

    @property
    def stored_splats(self) -> SplatStore | None:
        """Splats that are no parameters but part of the model, for splats.h5; otherwise nothing."""
        return None

    def n_parameters(self) -> int:
        """Number of values that learn."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def think(
        self,
        steps: int | None = None,
        best_of: int | None = None,
        step_rule: StepRule | None = None,
    ) -> None:
        """Choose how long predictions are refined from now on; none leaves a choice as it is.

        Args:
            steps: refinement steps.
            best_of: starts, of which the one that ends at the lowest energy counts.
            step_rule: of the size of a step: the learned one, or at most c / lambda_max (spectral).

        Raises:
            ConfigError: a value out of range, or given to a family that has no such choice.
        """
        given = {"think_steps": steps, "think_best_of": best_of, "think_rule": step_rule}
        for name, value in given.items():
            if value is not None:
                raise ConfigError(
                    f"{name}={value} is for models that refine their predictions and this one "
                    f"predicts at once: leave out {name}"
                )


class SplatModel(LanguageModel):
    """A model whose distribution of latents is a mixture of splats, tilted by the context.

    Its splats are a file of their own in a checkpoint, score matching applies to it, and training
    records how much each splat is used.
    """

    @property
    def splat_model(self) -> SplatModel:
        """Itself."""
        return self

    @property
    def energy_terms(self) -> EnergyTerms | None:
        """Terms of the energy beside the mixture, which score matching teaches; or none."""
        return None

    @abstractmethod
    def to_store(self) -> SplatStore:
        """The splats as a store of its own memory."""

    @abstractmethod
    def load_store(self, store: SplatStore) -> None:
        """Take over the splats of a store."""

    @abstractmethod
    def record_usage(self, tokens: Tensor, steps: int) -> None:
        """Age all splats by `steps`, and count their use after tokens (B, T)."""

    @abstractmethod
    def decay_weights(self, amount: float) -> None:
        """Let the log weights of old splats that are not used fall by `amount`."""

    @abstractmethod
    def features(self, tokens: Tensor) -> Context:
        """Context and tilt after each of the tokens (B, T): c and h, (B, T, d)."""

    @abstractmethod
    def splats(self) -> Splats:
        """The mixture: directions (N, d), concentrations (N,) and log weights (N,)."""

    @abstractmethod
    def kappa(self) -> Tensor:
        """Concentrations per degree of freedom, (N,)."""

    @abstractmethod
    def log_pi(self) -> Tensor:
        """Log weights of the mixture, (N,)."""

    @abstractmethod
    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """a b on the device of the kernels, differentiable."""

    @abstractmethod
    def token_latents(self, tokens: Tensor) -> Tensor:
        """Unit direction of each token, (..., d)."""
