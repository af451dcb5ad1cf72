"""`ebm sample`: write text with a trained model."""

from __future__ import annotations

from pathlib import Path

import click

from . import _options


@click.command("sample")
@click.option("--prompt", help="Text to go on from.")
@click.option(
    "--prompt-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the text to go on from.",
)
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="Run or checkpoint folder. [newest run]"
)
@click.option("--max-tokens", type=int, default=100, show_default=True, help="Tokens to write.")
@click.option("--temperature", type=float, default=0.8, show_default=True, help="0 is greedy.")
@click.option("--top-k", type=int, help="Draw from the k likeliest tokens only.")
@click.option("--top-p", type=float, default=0.95, show_default=True, help="Nucleus sampling.")
@click.option(
    "--repetition-penalty",
    type=float,
    default=1.0,
    show_default=True,
    help="Exponent of the probability of tokens that the text has already.",
)
@click.option(
    "--latent",
    type=click.Choice(["mean", "exact", "langevin"]),
    help="Latent to decode: closed-form mean, exact draw, or Langevin state. [as configured]",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="The same seed, the same text."
)
@click.option("--stream/--no-stream", default=True, help="Print while writing. [--stream]")
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the text here as well."
)
@_options.think_steps
@_options.best_of
@_options.device
def command(
    prompt: str | None,
    prompt_file: Path | None,
    checkpoint: Path | None,
    max_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float,
    repetition_penalty: float,
    latent: str | None,
    seed: int,
    stream: bool,
    output: Path | None,
    think_steps: int | None,
    best_of: int | None,
    device: str,
) -> None:
    """Go on from a prompt by sampling the model's energy."""
    from ebm_wgpu.config import apply_overrides
    from ebm_wgpu.errors import ConfigError
    from ebm_wgpu.generation import SamplingSettings, generate_text
    from ebm_wgpu.kernels import open_device
    from ebm_wgpu.text.folders import read_text
    from ebm_wgpu.training.loading import load_run

    from ._runs import newest_run

    if (prompt is None) == (prompt_file is None):
        raise ConfigError("give the text to go on from: --prompt TEXT or --prompt-file FILE")
    text = read_text(prompt_file) if prompt_file is not None else prompt or ""
    trained = load_run(checkpoint or newest_run(), open_device(device))
    trained.model.think(think_steps, best_of)
    chosen = [] if latent is None else [f"sampler.latent={latent}"]
    config = apply_overrides(trained.config, chosen)
    settings = SamplingSettings(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        latent=config.sampler.latent,
        seed=seed,
    )
    pieces = generate_text(
        trained.model, trained.tokenizer, text, settings, config.data.eval_context
    )
    if stream:
        click.echo(text, nl=False)
    written = []
    for piece in pieces:
        written.append(piece)
        if stream:
            click.echo(piece, nl=False)
    whole = text + "".join(written)
    click.echo("" if stream else whole)
    if output is not None:
        try:
            output.write_text(whole + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{output} cannot be written ({error.strerror})") from error
