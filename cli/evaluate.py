"""`ebm evaluate`: what a trained model is worth, on its validation text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from . import _options

if TYPE_CHECKING:
    from ebm_wgpu.models.energy_transformer_config import StepRule


@click.command("evaluate")
@_options.checkpoint
@_options.model
@click.option(
    "--part",
    "parts",
    multiple=True,
    metavar="NAME|all",
    help="What to measure, may be given again: perplexity, score-matching, coverage, latents, "
    "online, energy, composition, text. [the first three, which are quick]",
)
@click.option("--split", type=click.Choice(["valid", "test"]), default="valid", show_default=True)
@click.option("--tokens", type=click.IntRange(min=1), help="Score the first so many only. [all]")
@click.option(
    "--latent",
    type=click.Choice(["mean", "exact", "langevin"]),
    help="Latent to decode. [as trained]",
)
@click.option("--draws", type=int, help="Latents averaged a token. [1, and 4 for the part latents]")
@click.option(
    "--capacity",
    type=click.IntRange(min=1),
    help="States that the memory of the part online holds. [memory.capacity of the run]",
)
@click.option(
    "--words",
    type=click.IntRange(min=5),
    default=200,
    show_default=True,
    help="Words that the part composition composes.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything random.")
@click.option(
    "--texts", type=int, default=16, show_default=True, help="Texts to write, for the part text,"
)
@click.option(
    "--prompt-tokens", type=int, default=32, show_default=True, help="after prompts so long,"
)
@click.option("--max-tokens", type=int, default=64, show_default=True, help="of so many tokens,")
@click.option("--temperature", type=float, default=0.8, show_default=True, help="drawn with this,")
@click.option("--top-p", type=float, default=0.95, show_default=True, help="and this nucleus.")
@_options.think_steps
@_options.think_best_of
@_options.think_rule
@click.option(
    "--save",
    is_flag=True,
    help="Keep the figures in the run, for ebm compare, beside those of its other parts.",
)
@_options.device
@_options.as_json
def command(
    checkpoint: Path | None,
    family: str | None,
    parts: tuple[str, ...],
    split: Literal["valid", "test"],
    tokens: int | None,
    latent: Literal["mean", "exact", "langevin"] | None,
    draws: int | None,
    capacity: int | None,
    words: int,
    seed: int,
    texts: int,
    prompt_tokens: int,
    max_tokens: int,
    temperature: float,
    top_p: float,
    think_steps: int | None,
    think_best_of: int | None,
    think_rule: StepRule | None,
    save: bool,
    device: str,
    as_json: bool,
) -> None:
    """Score a model on held-out text: every token once, with left context.

    Perplexity per word is exp(sum of -log p / words incl. line ends), comparable across tokenizers;
    bits per byte likewise. The model is static, it stays as it is while it reads; the part online
    lets it remember what it has read of the text, and shows both figures.
    """
    import json

    from rich.console import Console
    from rich.progress import Progress

    from ebm_wgpu.evaluation.parts import (
        PARTS,
        QUICK_PARTS,
        EvaluationSettings,
        check_parts,
        evaluate_parts,
    )
    from ebm_wgpu.evaluation.records import save_evaluation
    from ebm_wgpu.generation.sampling import SamplingSettings
    from ebm_wgpu.kernels import open_device
    from ebm_wgpu.online_memory import memory_text
    from ebm_wgpu.text.corpora import load_corpus
    from ebm_wgpu.text.datasets import TokenStream
    from ebm_wgpu.training.loading import load_run

    from ._evaluation_table import report_lines
    from ._runs import find_run

    chosen = tuple(PARTS) if "all" in parts else parts or QUICK_PARTS
    check_parts(chosen)
    settings = EvaluationSettings(
        latent=latent,
        draws=draws,
        seed=seed,
        n_tokens=tokens,
        capacity=capacity,
        n_words=words,
        n_texts=texts,
        prompt_tokens=prompt_tokens,
        sampling=SamplingSettings(max_tokens=max_tokens, temperature=temperature, top_p=top_p),
    )
    loaded = load_run(find_run(checkpoint, family), open_device(device))
    loaded.model.think(think_steps, think_best_of, think_rule)
    data = loaded.config.data
    text = load_corpus(data.dataset, split, data.data_dir, data.valid_path)
    name = f"{'validation' if split == 'valid' else split} text of {data.dataset}"
    stream = TokenStream.from_text(text, loaded.tokenizer, name)
    wanted = "online" in chosen
    fit_on = memory_text(loaded.config, loaded.tokenizer, split) if wanted else None
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("scoring", total=None)
        report = evaluate_parts(
            loaded,
            stream,
            len(text.encode()),
            chosen,
            settings,
            lambda part, done, total: progress.update(
                task, description=part, completed=done, total=total or None
            ),
            fit_on,
        )
    record = {
        "run": str(loaded.run.path),
        "step": loaded.step,
        "data": name,
        **report.summary(),
        "think_steps": think_steps,
        "think_best_of": think_best_of,
        "think_rule": think_rule,
    }
    if save and (replaced := save_evaluation(loaded.run, split, record)):
        click.echo(f"note: {replaced}", err=True)
    if as_json:
        click.echo(json.dumps(record, indent=1, allow_nan=False))
        return
    click.echo(f"{loaded.run.path}, step {loaded.step:,}, {name}")
    for line in report_lines(report):
        click.echo(line)
