"""The parts of an evaluation: what `ebm evaluate` measures of a trained run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

from ebm_wgpu.config import Config, Latent, apply_overrides
from ebm_wgpu.errors import ConfigError, DataError
from ebm_wgpu.evaluation.composition import CompositionReport, evaluate_composition
from ebm_wgpu.evaluation.energy_contrast import EnergyContrast, evaluate_energy
from ebm_wgpu.evaluation.latents import CoverageReport, evaluate_coverage
from ebm_wgpu.evaluation.online import OnlineReport, score_online
from ebm_wgpu.evaluation.perplexity import PerplexityReport, evaluate_perplexity
from ebm_wgpu.evaluation.text_quality import GenerationReport, evaluate_generation
from ebm_wgpu.files import finite_numbers
from ebm_wgpu.generation.sampling import SamplingSettings
from ebm_wgpu.models.registry import FAMILIES
from ebm_wgpu.readers import reader_of
from ebm_wgpu.text.datasets import TokenStream
from ebm_wgpu.training.composition_fitting import stored_composition
from ebm_wgpu.training.loading import LoadedRun
from ebm_wgpu.training.objectives import evaluate_score_matching
from ebm_wgpu.training.score_matching import NoiseLevel

PARTS = MappingProxyType(
    {
        "perplexity": "per word and token, bits per byte, with the latent chosen",
        "score-matching": "loss, floor and explained share at each noise level",
        "coverage": "how much of the text the splats reach",
        "latents": "perplexity with each kind of latent, its error over draws",
        "online": "perplexity with a memory of what was read, beside the static one",
        "energy": "energy of the text against noise and shuffled text",
        "composition": "wholes and negations against what their parts give, as retrieval",
        "text": "generated text: variety, repetition, BLEU and ROUGE, self-perplexity",
    }
)
"""What can be measured, by name; `EvaluationReport.unavailable` says what a model has not."""
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
        capacity: states that the memory of "online" holds; none: memory.capacity.
        n_windows: windows of each kind in "energy".
        n_latents: positions in "coverage", and latents of each kind in "energy".
        n_texts: texts written in "text".
        prompt_tokens: tokens of the prompt of each.
        n_words: words in "composition".
        sampling: how they are drawn; its latent and seed are those above.
    """

    latent: Latent | None = None
    draws: int | None = None
    seed: int = 0
    n_tokens: int | None = None
    capacity: int | None = None
    n_windows: int = 64
    n_latents: int = 512
    n_texts: int = 16
    prompt_tokens: int = 32
    n_words: int = 200
    sampling: SamplingSettings = field(default_factory=SamplingSettings)


@dataclass(frozen=True)
class EvaluationReport:
    """What was measured; what was not asked for, or is not available, is none or empty.

    Attributes:
        perplexity: of the text.
        score_matching: by noise level.
        coverage: of the text by the splats.
        latents: perplexity by kind of latent.
        refused: kinds of latent that the configuration excludes, and why.
        online: static and online perplexity side by side.
        energy: contrasts by measure.
        composition: of latents or states.
        text: figures of generated text.
        unavailable: parts that were asked for and cannot be measured, and why.
    """

    perplexity: PerplexityReport | None = None
    score_matching: tuple[NoiseLevel, ...] = ()
    coverage: CoverageReport | None = None
    latents: tuple[PerplexityReport, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)
    online: OnlineReport | None = None
    energy: tuple[EnergyContrast, ...] = ()
    composition: CompositionReport | None = None
    text: GenerationReport | None = None
    unavailable: dict[str, str] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """All figures as types JSON holds; those of "perplexity" stand at the top.

        A figure too large for a number is none.
        """
        record: dict[str, Any] = {} if self.perplexity is None else self.perplexity.summary()
        record["score_matching"] = [asdict(level) for level in self.score_matching]
        if self.coverage is not None:
            record["coverage"] = asdict(self.coverage)
        if self.latents or self.refused:
            record["latents"] = [report.summary() for report in self.latents]
            record["refused"] = self.refused
        if self.online is not None:
            record["online"] = self.online.summary()
        if self.energy:
            record["energy"] = [asdict(contrast) for contrast in self.energy]
        if self.composition is not None:
            record["composition"] = asdict(self.composition)
        if self.text is not None:
            record["text"] = asdict(self.text)
        if self.unavailable:
            record["unavailable"] = self.unavailable
        found: dict[str, Any] = finite_numbers(record)
        return found


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
    fit_on: TokenStream | None = None,
) -> EvaluationReport:
    """Measure `parts` of a run on a text.

    Args:
        run: the run.
        stream: held-out text, tokens of the run's tokenizer.
        n_bytes: bytes of it.
        parts: names of `PARTS`.
        settings: how.
        on_progress: told the part, what of it is done, and all of it (0 where nothing counts it).
        fit_on: text that the memory of "online" is fitted on, see
            `online_memory.memory_text`.

    Raises:
        ConfigError: an unknown part; a setting out of range, or that the model does not go with.
        DataError: the text is too short for a part.
    """
    check_parts(parts)
    chosen = {"train.token_latent": settings.latent, "memory.capacity": settings.capacity}
    config = apply_overrides(
        run.config, [f"{key}={value}" for key, value in chosen.items() if value is not None]
    )
    text, text_bytes = _prefix(run, stream, n_bytes, settings.n_tokens)
    work = _Work(run, config, stream, n_bytes, text, text_bytes, settings, on_progress, fit_on)
    figures: dict[str, Any] = {}
    unavailable: dict[str, str] = {}
    for name, measure in _MEASURES.items():
        if name not in parts:
            continue
        try:
            figures |= measure(work)
        except _NotAvailable as reason:
            unavailable[name] = str(reason)
    return EvaluationReport(**figures, unavailable=unavailable)


class _NotAvailable(Exception):
    """A part that this run, or this text, does not have; the message says why."""


@dataclass(frozen=True, eq=False)
class _Work:
    """What parts are measured of.

    Attributes:
        run, config: the run, and its configuration with the latent and the capacity chosen.
        stream, n_bytes: the whole text.
        text, text_bytes: what of it is scored.
        settings, on_progress, fit_on: as for `evaluate_parts`.
    """

    run: LoadedRun
    config: Config
    stream: TokenStream
    n_bytes: int
    text: TokenStream
    text_bytes: int
    settings: EvaluationSettings
    on_progress: Progress
    fit_on: TokenStream | None

    @property
    def window(self) -> int:
        """Tokens of a window: as many as training or evaluation shows the model, and one more."""
        return min(self.config.data.block_size, self.config.data.eval_context) + 1


def _prefix(
    run: LoadedRun, stream: TokenStream, n_bytes: int, n_tokens: int | None
) -> tuple[TokenStream, int]:
    if n_tokens is None or n_tokens >= len(stream):
        return stream, n_bytes
    return stream.prefix(n_tokens, run.tokenizer)


def _perplexity(work: _Work) -> dict[str, Any]:
    draws = work.settings.draws or 1
    return {"perplexity": _scored(work, work.config, work.text, work.text_bytes, draws)}


def _scored(
    work: _Work, config: Config, stream: TokenStream, n_bytes: int, draws: int
) -> PerplexityReport:
    name = f"perplexity, latent {config.train.token_latent}"
    return evaluate_perplexity(
        work.run.model,
        stream,
        config,
        start_id=work.run.tokenizer.start_id,
        draws=draws,
        seed=work.settings.seed,
        n_bytes=n_bytes,
        on_batch=lambda scored: work.on_progress(name, scored, len(stream)),
    )


def _score_matching(work: _Work) -> dict[str, Any]:
    _require_splats(work)
    work.on_progress("score-matching", 0, 0)
    levels = evaluate_score_matching(work.run.model, work.text, work.config, work.settings.seed)
    if not levels:
        raise _NotAvailable(
            f"{work.text.name} has {len(work.text)} tokens, too few for a window of "
            f"data.block_size={work.config.data.block_size}"
        )
    return {"score_matching": levels}


def _coverage(work: _Work) -> dict[str, Any]:
    _require_splats(work)
    work.on_progress("coverage", 0, 0)
    settings = work.settings
    report = evaluate_coverage(
        work.run.model, work.text, work.window, settings.n_latents, settings.seed
    )
    if report is None:
        raise _NotAvailable(f"{work.text.name} has only {len(work.text)} tokens")
    return {"coverage": report}


def _require_splats(work: _Work) -> None:
    if work.run.model.splat_model is None:
        raise _NotAvailable(
            "the model has no distribution of latents made of splats, as model.family=splat with "
            "model.context=hierarchical has"
        )


def _latents(work: _Work) -> dict[str, Any]:
    """Perplexity with every kind of latent of the family, and the kinds it refuses."""
    settings, run = work.settings, work.run
    stream, n_bytes = _prefix(run, work.stream, work.n_bytes, settings.n_tokens or LATENT_TOKENS)
    reports, refused = [], {}
    for latent in FAMILIES[run.config.model.family].latents:
        try:
            config = apply_overrides(run.config, [f"train.token_latent={latent}"])
        except ConfigError as error:
            refused[latent] = str(error)
            continue
        draws = 1 if latent == "mean" else settings.draws or LATENT_DRAWS
        reports.append(_scored(work, config, stream, n_bytes, draws))
    return {"latents": tuple(reports), "refused": refused}


def _online(work: _Work) -> dict[str, Any]:
    run, text = work.run, work.text
    reader = reader_of(run.model)
    if reader is None:
        raise _NotAvailable(
            f"model.family={run.config.model.family} keeps no state of a text to remember"
        )
    if work.fit_on is None:
        raise _NotAvailable(
            "no training text was held out to fit the memory on: train with "
            "data.heldout_tokens=32768"
        )
    work.on_progress("online, fitting the memory", 0, 0)
    report = score_online(
        reader,
        work.fit_on,
        text,
        work.config,
        start_id=run.tokenizer.start_id,
        capacity=work.config.memory.capacity,
        n_bytes=work.text_bytes,
        on_batch=lambda scored: work.on_progress("online", scored, len(text)),
    )
    return {"online": report}


def _energy(work: _Work) -> dict[str, Any]:
    work.on_progress("energy", 0, 0)
    contrasts = evaluate_energy(
        work.run.model,
        work.text,
        length=work.window,
        n_windows=work.settings.n_windows,
        n_latents=work.settings.n_latents,
        batch=work.config.train.batch_size,
        latent=work.config.train.token_latent,
        seed=work.settings.seed,
    )
    return {"energy": contrasts}


def _composition(work: _Work) -> dict[str, Any]:
    work.on_progress("composition", 0, 0)
    run = work.run
    try:
        learned = stored_composition(run).composer()
    except ConfigError:
        learned = None
    try:
        report = evaluate_composition(
            run.model,
            run.tokenizer,
            run.tokenizer.decode(work.text.tokens),
            context=work.config.data.eval_context,
            n_words=work.settings.n_words,
            seed=work.settings.seed,
            learned=learned,
        )
    except (ConfigError, DataError) as error:
        raise _NotAvailable(str(error)) from error
    return {"composition": report}


def _text(work: _Work) -> dict[str, Any]:
    settings = work.settings
    sampling = replace(settings.sampling, latent=work.config.train.token_latent, seed=settings.seed)
    report = evaluate_generation(
        work.run.model,
        work.run.tokenizer,
        work.text,
        context=work.config.data.eval_context,
        n_texts=settings.n_texts,
        prompt_tokens=settings.prompt_tokens,
        settings=sampling,
        on_token=lambda done: work.on_progress("text", done, sampling.max_tokens),
    )
    return {"text": report}


_MEASURES: Mapping[str, Callable[[_Work], dict[str, Any]]] = MappingProxyType(
    {
        "perplexity": _perplexity,
        "score-matching": _score_matching,
        "coverage": _coverage,
        "latents": _latents,
        "online": _online,
        "energy": _energy,
        "composition": _composition,
        "text": _text,
    }
)
"""What measures each of `PARTS`: from the work to fields of the report."""
