"""The parts of an evaluation: what `ebm evaluate` measures of a trained run."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

from ebm_wgpu.config import Config, Latent, apply_overrides
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.evaluation import PerplexityReport, evaluate_perplexity
from ebm_wgpu.evaluation_energy import EnergyContrast, evaluate_energy
from ebm_wgpu.evaluation_latents import CoverageReport, evaluate_coverage
from ebm_wgpu.evaluation_text import GenerationReport, evaluate_generation
from ebm_wgpu.generation_sampling import SamplingSettings
from ebm_wgpu.models.registry import FAMILIES
from ebm_wgpu.text.datasets import TokenStream
from ebm_wgpu.training.loading import LoadedRun
from ebm_wgpu.training.objectives import evaluate_score_matching
from ebm_wgpu.training.score_matching import NoiseLevel

PARTS = MappingProxyType(
    {
        "perplexity": "per word and token, bits per byte, with the latent chosen",
        "score-matching": "loss, floor and explained share at each noise level",
        "coverage": "how much of the text the splats reach",
        "latents": "perplexity with each kind of latent, its error over draws",
        "energy": "energy of the text against noise and shuffled text",
        "text": "generated text: variety, repetition, BLEU and ROUGE, self-perplexity",
    }
)
"""What can be measured, by name; parts of models made of splats give nothing for others."""
QUICK_PARTS = ("perplexity", "score-matching", "coverage")
LATENT_TOKENS = 4096
"""Tokens that the part "latents" scores unless told otherwise: it scores them many times over."""
LATENT_DRAWS = 4

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class EvaluationSettings:
    """How much is measured, and with which random numbers.

    Attributes:
        latent: of "perplexity", "energy" and "text"; none: as trained.
        draws: latents averaged over for each token; none: 1, and `LATENT_DRAWS` in "latents".
        seed: of everything random.
        n_tokens: first tokens of the text that are scored; none: all (`LATENT_TOKENS` in
            "latents").
        n_windows: windows of each kind in "energy".
        n_latents: positions in "coverage", and latents of each kind in "energy".
        n_texts: texts written in "text".
        prompt_tokens: tokens of the prompt of each.
        sampling: how they are drawn; its latent and seed are those above.
    """

    latent: Latent | None = None
    draws: int | None = None
    seed: int = 0
    n_tokens: int | None = None
    n_windows: int = 64
    n_latents: int = 512
    n_texts: int = 16
    prompt_tokens: int = 32
    sampling: SamplingSettings = field(default_factory=SamplingSettings)


@dataclass(frozen=True)
class EvaluationReport:
    """What was measured; what was not asked for, or the model has not, is none or empty.

    Attributes:
        perplexity: of the text.
        score_matching: by noise level.
        coverage: of the text by the splats.
        latents: perplexity by kind of latent.
        refused: kinds of latent that the configuration excludes, and why.
        energy: contrasts by measure.
        text: figures of generated text.
    """

    perplexity: PerplexityReport | None = None
    score_matching: tuple[NoiseLevel, ...] = ()
    coverage: CoverageReport | None = None
    latents: tuple[PerplexityReport, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)
    energy: tuple[EnergyContrast, ...] = ()
    text: GenerationReport | None = None

    def summary(self) -> dict[str, Any]:
        """All figures as types JSON holds; those of "perplexity" stand at the top."""
        record: dict[str, Any] = {} if self.perplexity is None else self.perplexity.summary()
        record["score_matching"] = [asdict(level) for level in self.score_matching]
        if self.coverage is not None:
            record["coverage"] = asdict(self.coverage)
        if self.latents or self.refused:
            record["latents"] = [report.summary() for report in self.latents]
            record["refused"] = self.refused
        if self.energy:
            record["energy"] = [asdict(contrast) for contrast in self.energy]
        if self.text is not None:
            record["text"] = asdict(self.text)
        return record


def check_parts(parts: Collection[str]) -> None:
    """Make sure that every name is one of `PARTS`.

    Raises:
        ConfigError: one is not.
    """
    for part in parts:
        if part not in PARTS:
            raise ConfigError(f"no part {part!r}: choose among {', '.join(PARTS)}, all")


def evaluate_parts(
    run: LoadedRun,
    stream: TokenStream,
    n_bytes: int,
    parts: Collection[str],
    settings: EvaluationSettings,
    on_progress: Progress = lambda part, done, total: None,
) -> EvaluationReport:
    """Measure `parts` of a run on a text.

    Args:
        run: the run.
        stream: held-out text, tokens of the run's tokenizer.
        n_bytes: bytes of it.
        parts: names of `PARTS`.
        settings: how.
        on_progress: told the part, what of it is done, and all of it (0 where nothing counts it).

    Raises:
        ConfigError: an unknown part; a setting out of range, or that the model does not go with.
        DataError: the text is too short for a part.
    """
    check_parts(parts)
    config = _with_latent(run.config, settings.latent)
    text, text_bytes = _prefix(run, stream, n_bytes, settings.n_tokens)
    report: dict[str, Any] = {}
    if "perplexity" in parts:
        report["perplexity"] = _perplexity(
            run, text, text_bytes, config, settings.draws or 1, settings.seed, on_progress
        )
    if "score-matching" in parts:
        on_progress("score-matching", 0, 0)
        report["score_matching"] = evaluate_score_matching(run.model, text, config, settings.seed)
    length = min(config.data.block_size, config.data.eval_context) + 1
    if "coverage" in parts:
        on_progress("coverage", 0, 0)
        report["coverage"] = evaluate_coverage(
            run.model, text, length, settings.n_latents, settings.seed
        )
    if "latents" in parts:
        short, short_bytes = _prefix(run, stream, n_bytes, settings.n_tokens or LATENT_TOKENS)
        report["latents"], report["refused"] = _latents(
            run, short, short_bytes, settings, on_progress
        )
    if "energy" in parts:
        on_progress("energy", 0, 0)
        report["energy"] = evaluate_energy(
            run.model,
            text,
            length=length,
            n_windows=settings.n_windows,
            n_latents=settings.n_latents,
            batch=config.train.batch_size,
            latent=config.train.token_latent,
            seed=settings.seed,
        )
    if "text" in parts:
        report["text"] = evaluate_generation(
            run.model,
            run.tokenizer,
            text,
            context=config.data.eval_context,
            n_texts=settings.n_texts,
            prompt_tokens=settings.prompt_tokens,
            settings=_sampling(settings, config.train.token_latent),
            on_token=lambda done: on_progress("text", done, settings.sampling.max_tokens),
        )
    return EvaluationReport(**report)


def _with_latent(config: Config, latent: Latent | None) -> Config:
    chosen = [] if latent is None else [f"train.token_latent={latent}"]
    return apply_overrides(config, chosen)


def _sampling(settings: EvaluationSettings, latent: Latent) -> SamplingSettings:
    return replace(settings.sampling, latent=latent, seed=settings.seed)


def _prefix(
    run: LoadedRun, stream: TokenStream, n_bytes: int, n_tokens: int | None
) -> tuple[TokenStream, int]:
    if n_tokens is None or n_tokens >= len(stream):
        return stream, n_bytes
    return stream.prefix(n_tokens, run.tokenizer)


def _perplexity(
    run: LoadedRun,
    stream: TokenStream,
    n_bytes: int,
    config: Config,
    draws: int,
    seed: int,
    on_progress: Progress,
) -> PerplexityReport:
    return evaluate_perplexity(
        run.model,
        stream,
        config,
        start_id=run.tokenizer.start_id,
        draws=draws,
        seed=seed,
        n_bytes=n_bytes,
        on_batch=lambda scored: on_progress(
            f"perplexity, latent {config.train.token_latent}", scored, len(stream)
        ),
    )


def _latents(
    run: LoadedRun,
    stream: TokenStream,
    n_bytes: int,
    settings: EvaluationSettings,
    on_progress: Progress,
) -> tuple[tuple[PerplexityReport, ...], dict[str, str]]:
    """Perplexity with every kind of latent of the family, and the kinds it refuses."""
    reports, refused = [], {}
    for latent in FAMILIES[run.config.model.family].latents:
        try:
            config = apply_overrides(run.config, [f"train.token_latent={latent}"])
        except ConfigError as error:
            refused[latent] = str(error)
            continue
        draws = 1 if latent == "mean" else settings.draws or LATENT_DRAWS
        reports.append(_perplexity(run, stream, n_bytes, config, draws, settings.seed, on_progress))
    return tuple(reports), refused
