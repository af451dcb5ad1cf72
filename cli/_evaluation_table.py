"""How `ebm evaluate` prints its report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebm_wgpu.evaluation_parts import EvaluationReport


def report_lines(report: EvaluationReport) -> list[str]:
    """The report as a table, part by part."""
    sections = (
        _perplexity_lines(report),
        _latent_lines(report),
        _matching_lines(report),
        _coverage_lines(report),
        _energy_lines(report),
        _text_lines(report),
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


def _latent_lines(report: EvaluationReport) -> list[str]:
    if not report.latents and not report.refused:
        return []
    lines = [
        f"{'latent':10} {'draws':>6} {'per token':>12} {'+-':>8} {'per word':>12} {'tokens':>9}"
    ]
    for scores in report.latents:
        error = "unknown" if scores.standard_error is None else f"{scores.standard_error:,.3f}"
        lines.append(
            f"{scores.latent:10} {scores.draws:6} {scores.token_perplexity:12,.3f} {error:>8} "
            f"{scores.word_perplexity:12,.2f} {scores.n_tokens:9,}"
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
