"""How `ebm evaluate` prints its report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebm_wgpu.evaluation.parts import EvaluationReport


def report_lines(report: EvaluationReport) -> list[str]:
    """The report as a table, part by part."""
    sections = (
        _perplexity_lines(report),
        _online_lines(report),
        _latent_lines(report),
        _matching_lines(report),
        _coverage_lines(report),
        _energy_lines(report),
        _composition_lines(report),
        _text_lines(report),
        [f"{part:14} not available: {why}" for part, why in report.unavailable.items()],
    )
    lines: list[str] = []
    for section in sections:
        if section and lines:
            lines.append("")
        lines += section
    return lines


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _plus_minus(error: float | None) -> str:
    return "" if not error else f" +- {error:,.2f}"


def _perplexity_lines(report: EvaluationReport) -> list[str]:
    scores = report.perplexity
    if scores is None:
        return []
    error = _plus_minus(scores.standard_error)
    lines = [
        f"context {_plural(scores.context, 'token')}, stride {scores.stride}, latent "
        f"{scores.latent}, {_plural(scores.draws, 'draw')}, {scores.memory}",
        f"perplexity per word   {scores.word_perplexity:12,.2f}   {scores.n_words:,} words",
        f"perplexity per token  {scores.token_perplexity:12,.2f}{error}   "
        f"{scores.n_tokens:,} tokens",
    ]
    if scores.bits_per_byte is not None:
        lines.append(
            f"bits per byte         {scores.bits_per_byte:12.4f}   {scores.n_bytes:,} bytes"
        )
    return lines


def _online_lines(report: EvaluationReport) -> list[str]:
    online = report.online
    if online is None:
        return []
    static, remembering, settings = online.static, online.online, online.settings
    searched = settings["search"]
    lines = [
        f"memory of {settings['capacity']:,} states, "
        f"{'all compared' if searched == 'none' else f'found by {searched}'}, "
        f"fitted on {settings['fitted_tokens']:,} tokens of {settings['fitted_on']}",
        f"tilt {settings['tilt_length']:.3g}, age exponent {settings['age_exponent']:.3g}, "
        f"evidence {settings['evidence']:.3g}, offset {settings['offset']:.3g}"
        f"{', instead of splats of the context' if settings['supersede'] else ''}",
        f"context {_plural(static.context, 'token')}, stride {static.stride}, latent "
        f"{static.latent}",
        f"{'':22} {'static':>12} {'online':>12}",
        f"{'perplexity per word':22} {static.word_perplexity:12,.2f} "
        f"{remembering.word_perplexity:12,.2f}   {static.n_words:,} words",
        f"{'perplexity per token':22} {static.token_perplexity:12,.2f} "
        f"{remembering.token_perplexity:12,.2f}   {static.n_tokens:,} tokens",
    ]
    if static.bits_per_byte is not None and remembering.bits_per_byte is not None:
        lines.append(
            f"{'bits per byte':22} {static.bits_per_byte:12.4f} {remembering.bits_per_byte:12.4f}"
            f"   {static.n_bytes:,} bytes"
        )
    return lines


def _latent_lines(report: EvaluationReport) -> list[str]:
    if not report.latents and not report.refused:
        return []
    lines = [
        f"{'latent':10} {'draws':>6} {'per token':>12} {'+-':>8} {'ever more draws':>16} "
        f"{'per word':>12} {'tokens':>9}"
    ]
    for scores in report.latents:
        error, limit = (
            "unknown" if value is None else f"{value:,.3f}"
            for value in (scores.standard_error, scores.extrapolated_perplexity)
        )
        lines.append(
            f"{scores.latent:10} {scores.draws:6} {scores.token_perplexity:12,.3f} {error:>8} "
            f"{limit:>16} {scores.word_perplexity:12,.2f} {scores.n_tokens:9,}"
        )
    return lines + [f"{latent:10} not possible: {why}" for latent, why in report.refused.items()]


def _matching_lines(report: EvaluationReport) -> list[str]:
    if not report.score_matching:
        return []
    lines = [f"{'score matching, kappa':22} {'loss':>8} {'floor':>8} {'explained':>10}"]
    for level in report.score_matching:
        lines.append(
            f"{level.kappa:22g} {level.loss:8.3f} {level.floor:8.3f} {level.explained:10.1%}"
        )
    return lines


def _coverage_lines(report: EvaluationReport) -> list[str]:
    coverage = report.coverage
    if coverage is None:
        return []
    return [
        f"coverage              {coverage.coverage:12.1%}   tokens that have a splat in use",
        f"reached               {coverage.reached:12.1%}   next latents likelier than chance "
        f"({coverage.reached_alone:.1%} without context), of {coverage.n_positions:,}",
        f"splats a context      {coverage.splats_a_context:12,.1f}   effective, median",
    ]


def _energy_lines(report: EvaluationReport) -> list[str]:
    if not report.energy:
        return []
    names = {
        "text": "-log p of a window, nats a token",
        "latent": "-log p of a latent in its context, nats",
        "energy": "own energy of a window, nats a token",
    }
    lines = []
    for contrast in report.energy:
        lines.append(
            f"{names[contrast.measure]:42} {'mean':>10} {'deviation':>10} {'AUROC':>7}   "
            f"{contrast.n:,} each"
        )
        kinds = {"data": contrast.data, "noise": contrast.noise, "shuffled": contrast.shuffled}
        for name, spread in kinds.items():
            auroc = "" if name == "data" else f"{spread.auroc:7.3f}"
            lines.append(f"  {name:40} {spread.mean:10.3f} {spread.deviation:10.3f} {auroc}")
    return lines


def _composition_lines(report: EvaluationReport) -> list[str]:
    composition = report.composition
    if composition is None:
        return []
    methods = list(dict.fromkeys(name for task in composition.tasks for name in task.scores))
    lines = [
        f"composition of {composition.n_words:,} words in {composition.n_pairs:,} pairs: mean "
        "reciprocal rank, and how often first",
        f"{'':20} {'candidates':>10} {'chance':>15}" + "".join(f" {name:>15}" for name in methods),
    ]
    for task in composition.tasks:
        cells = [f"{task.chance_reciprocal_rank:.3f} {task.chance_top_1:6.1%}"]
        for name in methods:
            found = task.scores.get(name)
            cells.append(
                "-" if found is None else f"{found.reciprocal_rank:.3f} {found.top_1:6.1%}"
            )
        lines.append(
            f"{task.question:20} {task.candidates:10,}" + "".join(f" {cell:>15}" for cell in cells)
        )
    return lines


def _text_lines(report: EvaluationReport) -> list[str]:
    text = report.text
    if text is None:
        return []
    rows: list[tuple[str, Any, Any]] = [
        (f"distinct-{n}", a, b)
        for n, a, b in zip((1, 2, 3, 4), text.written.distinct, text.real.distinct, strict=True)
    ]
    rows.append(("repetition, 4-grams", text.written.repetition, text.real.repetition))
    lines = [
        f"{_plural(text.n_texts, 'text')} of {_plural(text.new_tokens, 'token')} after prompts of "
        f"{text.prompt_tokens}",
        f"{'':22} {'written':>12} {'real':>12}",
    ]
    lines += [f"{name:22} {_share(a)} {_share(b)}" for name, a, b in rows]
    own, real = text.written.perplexity, text.real.perplexity
    lines.append(f"{'perplexity per token':22} {own:12,.2f} {real:12,.2f}")
    if text.bleu is not None:
        lines.append(f"{'BLEU':22} {text.bleu:12.2f}")
    lines += [f"{name.upper():22} {value:12.4f}" for name, value in text.rouge.items()]
    if text.bleu is None or not text.rouge:
        lines.append('BLEU and ROUGE need: pip install "ebm-wgpu[evaluation]"')
    for prompt, written in text.examples:
        lines += ["", f"> {' '.join(prompt.split())}", " ".join(written.split())]
    return lines


def _share(value: float | None) -> str:
    return f"{'-' if value is None else f'{value:.3f}':>12}"
