"""`ebm tokenizer`: train a tokenizer, look into one, and turn text into ids and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import _options, _reading

if TYPE_CHECKING:
    from ebm_wgpu.text.tokenizer_base import TextTokenizer

_BPE_VOCAB_SIZE = 16384
_SHOWN_LONGEST = 10

_tokenizer = click.argument("tokenizer_name", metavar="TOKENIZER")


@click.group("tokenizer")
def command() -> None:
    """Train and inspect tokenizers: TOKENIZER is a file, a run folder, or gpt2."""


@command.command("train")
@_reading.inputs
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="File to write, for `ebm train data.tokenizer_path=FILE`.",
)
@click.option(
    "--kind", type=click.Choice(["bpe", "char", "word"]), default="bpe", show_default=True
)
@click.option(
    "--vocab-size",
    type=click.IntRange(min=1),
    help="Most tokens, of bpe and word. [default: bpe 16384, word every word]",
)
@click.option(
    "--special",
    multiple=True,
    metavar="TOKEN",
    help="Text that is always one token; may be repeated. bpe has <|endoftext|> anyhow.",
)
@_reading.decoding_options
def train(
    inputs: tuple[Path, ...],
    output: Path,
    kind: str,
    vocab_size: int | None,
    special: tuple[str, ...],
    encoding: str,
    invalid: str,
) -> None:
    """Train a tokenizer on INPUTs, which stream by, and write it to one file."""
    from ebm_wgpu.errors import DataError
    from ebm_wgpu.text.streaming import (
        check_output,
        expand_inputs,
        read_lines,
        token_safe_pieces,
    )
    from ebm_wgpu.text.tokenizers import train_tokenizer

    files = expand_inputs(inputs)
    check_output(output)
    decoding = _reading.decoding(encoding, invalid)
    if kind == "char" and vocab_size is not None:
        raise DataError(
            f"--vocab-size {vocab_size} has no effect on kind char, which has every character of "
            "the text: leave it out"
        )
    if kind == "bpe" and vocab_size is None:
        vocab_size = _BPE_VOCAB_SIZE
    with _reading.progress_over(files, f"training {kind}") as advance:
        lines = (line for file in files for line in read_lines(file, decoding, advance))
        tokenizer = train_tokenizer(kind, token_safe_pieces(lines), vocab_size, special)
    try:
        tokenizer.save(output)
    except OSError as error:
        raise DataError(f"{output} cannot be written ({error.strerror}): check it") from error
    asked = "" if vocab_size in (None, tokenizer.vocab_size) else f" of {vocab_size:,} asked for"
    click.echo(f"{output}: {kind}, {tokenizer.vocab_size:,} tokens{asked}")


@command.command("info")
@_tokenizer
@_options.as_json
def info(tokenizer_name: str, as_json: bool) -> None:
    """Print kind, size, special tokens and the longest tokens."""
    import json

    tokenizer = _reading.open_tokenizer(tokenizer_name)
    texts = [tokenizer.decode([index]) for index in range(tokenizer.vocab_size)]
    longest = sorted(range(len(texts)), key=lambda index: (-len(texts[index]), index))
    record = {
        "kind": tokenizer.name,
        "vocab_size": tokenizer.vocab_size,
        "fingerprint": tokenizer.fingerprint,
        "start_id": tokenizer.start_id,
        "special_tokens": {token: tokenizer.token_id(token) for token in tokenizer.special_tokens},
        "unknown_ids": len(tokenizer.unknown_ids),
        "longest": {texts[index]: index for index in longest[:_SHOWN_LONGEST]},
    }
    if as_json:
        click.echo(json.dumps(record, indent=1))
        return
    click.echo(f"{tokenizer.name}, {tokenizer.vocab_size:,} tokens, {tokenizer.fingerprint}")
    start = tokenizer.start_id
    click.echo(f"a text begins after id {start}, {_shown(tokenizer, [start])}")
    special = (f"{token} {tokenizer.token_id(token)}" for token in tokenizer.special_tokens)
    click.echo(f"special tokens: {', '.join(special) or 'none'}")
    click.echo(f"{len(tokenizer.unknown_ids):,} tokens for unknown text or parts of a character")
    click.echo(f"longest: {_shown(tokenizer, longest[:_SHOWN_LONGEST])}")


@command.command("encode")
@_tokenizer
@click.argument("text")
@click.option("--tokens", "show_tokens", is_flag=True, help="Print each token beside its id.")
@_options.as_json
def encode(tokenizer_name: str, text: str, show_tokens: bool, as_json: bool) -> None:
    """Print the ids of TEXT; - reads it from standard input."""
    import json
    import sys

    tokenizer = _reading.open_tokenizer(tokenizer_name)
    ids = tokenizer.encode(sys.stdin.read() if text == "-" else text).tolist()
    if as_json:
        tokens = [{"id": index, "text": tokenizer.decode([index])} for index in ids]
        click.echo(json.dumps(tokens, indent=1))
    elif show_tokens:
        for index in ids:
            click.echo(f"{index:8} {_shown(tokenizer, [index])}")
    else:
        click.echo(" ".join(map(str, ids)))


@command.command("decode")
@_tokenizer
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
def decode(tokenizer_name: str, ids: tuple[str, ...]) -> None:
    """Print the text of IDs; - reads them from standard input."""
    import sys

    from ebm_wgpu.errors import DataError

    tokenizer = _reading.open_tokenizer(tokenizer_name)
    words = sys.stdin.read().split() if ids == ("-",) else list(ids)
    numbers: list[int] = []
    for word in words:
        if not word.isdecimal() or len(word) > 18:
            raise DataError(f"{word!r} is no token id: give numbers between spaces")
        numbers.append(int(word))
    click.echo(tokenizer.decode(numbers))


def _shown(tokenizer: TextTokenizer, ids: list[int]) -> str:
    return " ".join(repr(tokenizer.decode([index])) for index in ids)
