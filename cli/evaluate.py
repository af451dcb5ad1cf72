"""`ebm evaluate`: perplexity of a trained model on its validation text."""

from __future__ import annotations

from pathlib import Path

import click

from . import _options


@click.command("evaluate")
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="Run or checkpoint folder. [newest run]"
)
@click.option(
    "--latent",
    type=click.Choice(["mean", "exact", "langevin"]),
    help="Latent to decode. [as trained]",
)
@click.option("--draws", type=int, default=1, show_default=True, help="Latents averaged a token.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draws.")
@_options.think_steps
@_options.best_of
@_options.device
@_options.as_json
def command(
    checkpoint: Path | None,
    latent: str | None,
    draws: int,
    seed: int,
    think_steps: int | None,
    best_of: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Score every token of the validation text once, with left context.

    Perplexity per word is exp(sum of -log p / words incl. line ends), comparable across tokenizers;
    bits per byte likewise.
    """
    import json

    from rich.console import Console
    from rich.progress import Progress

    from ebm_wgpu.config import apply_overrides
    from ebm_wgpu.evaluation import evaluate_perplexity
    from ebm_wgpu.kernels import open_device
    from ebm_wgpu.text.corpora import load_corpus
    from ebm_wgpu.text.datasets import TokenStream
    from ebm_wgpu.training.loading import load_run

    from ._runs import newest_run

    loaded = load_run(checkpoint or newest_run(), open_device(device))
    loaded.model.think(think_steps, best_of)
    chosen = [] if latent is None else [f"train.token_latent={latent}"]
    config = apply_overrides(loaded.config, chosen)
    data = config.data
    text = load_corpus(data.dataset, "valid", data.data_dir, data.valid_path)
    stream = TokenStream.from_text(text, loaded.tokenizer, f"validation text of {data.dataset}")
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("scoring", total=len(stream))
        report = evaluate_perplexity(
            loaded.model,
            stream,
            config,
            start_id=loaded.tokenizer.start_id,
            draws=draws,
            seed=seed,
            n_bytes=len(text.encode()),
            on_batch=lambda scored: progress.update(task, completed=scored),
        )
    if as_json:
        thinking = {"think_steps": think_steps, "best_of": best_of}
        record = {"run": str(loaded.run.path), "step": loaded.step, **report.summary(), **thinking}
        click.echo(json.dumps(record, indent=1))
        return
    error = "" if not report.standard_error else f" +- {report.standard_error:,.2f}"
    click.echo(f"{loaded.run.path}, step {loaded.step:,}, validation text of {data.dataset}")
    click.echo(
        f"context {report.context} tokens, stride {report.stride}, latent {report.latent}, "
        f"{report.draws} draw{'s' if report.draws > 1 else ''}"
    )
    click.echo(f"perplexity per word   {report.word_perplexity:12,.2f}   {report.n_words:,} words")
    click.echo(
        f"perplexity per token  {report.token_perplexity:12,.2f}{error}   "
        f"{report.n_tokens:,} tokens"
    )
    click.echo(f"bits per byte         {report.bits_per_byte:12.4f}   {report.n_bytes:,} bytes")
