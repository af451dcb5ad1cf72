"""`ebm sample`: write text with a trained model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import _options

if TYPE_CHECKING:
    from ebm_wgpu.generation.batch import GeneratedText, WritingModel
    from ebm_wgpu.generation.prompts import Prompt, PromptKind
    from ebm_wgpu.models.energy_transformer_config import StepRule
    from ebm_wgpu.text.datasets import TokenStream
    from ebm_wgpu.text.tokenizers import TextTokenizer


@click.command("sample")
@click.option("--prompt", help="Text to go on from.")
@click.option(
    "--prompt-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with texts to go on from.",
)
@click.option(
    "--prompts",
    "prompt_kind",
    type=click.Choice(["auto", "line", "jsonl", "file"]),
    default="auto",
    show_default=True,
    help='What a prompt of --prompt-file is: every line that is not blank, the text under "prompt" '
    "of every JSON line, or the whole file; auto: jsonl by name, else line.",
)
@_options.checkpoint
@_options.model
@click.option("--max-tokens", type=int, default=100, show_default=True, help="Tokens to write.")
@click.option(
    "--stop", multiple=True, metavar="TEXT", help="End before this text; may be given again."
)
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
    "--read",
    "first",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Text that the model reads before it writes, and remembers.",
)
@click.option(
    "--memory",
    type=int,
    help="Remember this many of the last states of what was read and written, beyond the context "
    "as well. [with --read as configured, otherwise none]",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="The same seed, the same text."
)
@click.option(
    "--num-samples",
    type=int,
    default=1,
    show_default=True,
    help="Texts a prompt, with seeds that follow --seed.",
)
@click.option(
    "--best-of",
    type=int,
    default=1,
    show_default=True,
    help="Whole continuations of which a text is the one of least energy a token, E + log Z = "
    "-log p before temperature and truncation, a mean over its tokens.",
)
@click.option(
    "--energies",
    is_flag=True,
    help="Show -log p and the model's own energy of each token; JSON lines then hold them.",
)
@click.option(
    "--batch-size", type=int, default=16, show_default=True, help="Texts written side by side."
)
@click.option(
    "--stream/--no-stream",
    default=True,
    help="Print a single text while it is written, several as they are done. [--stream]",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the texts here as well, as they are done: JSON lines if the name ends in .jsonl, "
    "otherwise text with lines <|endoftext|> between.",
)
@_options.think_steps
@_options.think_best_of
@_options.think_rule
@_options.device
def command(
    prompt: str | None,
    prompt_file: Path | None,
    prompt_kind: PromptKind,
    checkpoint: Path | None,
    family: str | None,
    max_tokens: int,
    stop: tuple[str, ...],
    temperature: float,
    top_k: int | None,
    top_p: float,
    repetition_penalty: float,
    latent: str | None,
    first: Path | None,
    memory: int | None,
    seed: int,
    num_samples: int,
    best_of: int,
    energies: bool,
    batch_size: int,
    stream: bool,
    output: Path | None,
    think_steps: int | None,
    think_best_of: int | None,
    think_rule: StepRule | None,
    device: str,
) -> None:
    """Go on from prompts by sampling the model's energy."""
    from ebm_wgpu.config import apply_overrides
    from ebm_wgpu.generation.batch import GenerationPlan, generate_texts
    from ebm_wgpu.generation.memory import ENDLESS, remembering
    from ebm_wgpu.generation.output import framed
    from ebm_wgpu.generation.sampling import SamplingSettings
    from ebm_wgpu.kernels import open_device
    from ebm_wgpu.training.loading import load_run

    from ._runs import find_run
    from ._written import Stopwatch, energy_lines

    prompts = _prompts(prompt, prompt_file, prompt_kind)
    plan = GenerationPlan(num_samples, best_of, stop, energies, batch_size)
    with _keeping(output) as keep:
        trained = load_run(find_run(checkpoint, family), open_device(device))
        trained.model.think(think_steps, think_best_of, think_rule)
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
        model: WritingModel = trained.model
        context = config.data.eval_context
        if memory is not None or first is not None:
            read = _stream(first, trained.tokenizer)
            model = remembering(trained, memory, read, settings.latent)
            context = ENDLESS
        live = stream and len(prompts) * num_samples * best_of == 1
        watch = Stopwatch()
        written = generate_texts(
            model,
            trained.tokenizer,
            prompts,
            settings,
            context,
            plan,
            (lambda piece: click.echo(piece, nl=False)) if live else None,
            watch.count,
        )
        if live:
            click.echo(prompts[0].text, nl=False)
        texts: list[GeneratedText] = []
        for text in written:
            keep(text)
            if live:
                click.echo()
            elif stream:
                click.echo(framed(text.whole, first=not texts), nl=False)
            texts.append(text)
        speed = watch.line(len(texts))
    for number, text in enumerate(() if stream else texts):
        click.echo(framed(text.whole, first=number == 0), nl=False)
    for text in texts if energies else ():
        for line in energy_lines(text, trained.tokenizer):
            click.echo(line)
    click.echo(speed, err=True)


@contextmanager
def _keeping(output: Path | None) -> Iterator[Callable[[GeneratedText], None]]:
    """What to give texts to that shall be in a file, if one is wanted, whatever ends the block."""
    from ebm_wgpu.generation.output import TextsFile

    if output is None:
        yield lambda text: None
        return
    file = TextsFile(output)
    try:
        with file:
            yield file.add
    except BaseException:
        if file.kept:
            what = "1 text that was" if file.kept == 1 else f"{file.kept:,} texts that were"
            click.echo(f"{output} holds the {what} finished", err=True)
        raise


def _stream(file: Path | None, tokenizer: TextTokenizer) -> TokenStream | None:
    """The text to read first, if there is one."""
    if file is None:
        return None
    from ebm_wgpu.text.datasets import TokenStream
    from ebm_wgpu.text.folders import read_text

    return TokenStream.from_text(read_text(file), tokenizer, str(file))


def _prompts(text: str | None, file: Path | None, kind: PromptKind) -> list[Prompt]:
    from ebm_wgpu.errors import ConfigError
    from ebm_wgpu.generation.prompts import Prompt, read_prompts

    if text is not None and file is None:
        return [Prompt(text)]
    if file is not None and text is None:
        return read_prompts(file, kind)
    raise ConfigError("give the text to go on from: --prompt TEXT or --prompt-file FILE")
