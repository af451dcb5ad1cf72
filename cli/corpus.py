"""`ebm corpus`: make clean training text of files, and see what a text is made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import _options, _reading

if TYPE_CHECKING:
    from ebm_wgpu.text.analysis import CorpusReport

_MOST_UNUSUAL = 12


@click.group("corpus")
def command() -> None:
    """Prepare and analyze training text of any size, file by file and in little memory.

    INPUT is a text file (also .gz, .bz2 or .xz), a JSON-lines file, or a folder of them.
    """


@command.command("prepare")
@_reading.inputs
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="File to write; it appears when it is complete, in place of an earlier one.",
)
@_reading.document_options
@_reading.decoding_options
@click.option(
    "--mark",
    default="<|endoftext|>",
    show_default=True,
    help="Line to write after each document, taken out elsewhere; '' for none.",
)
@click.option("--repair/--no-repair", default=True, help="Undo wrong decodings. [default: repair]")
@click.option("--unescape-html", is_flag=True, help="Replace references such as &amp;.")
@click.option(
    "--normal-form",
    type=click.Choice(["nfc", "nfkc", "none"]),
    default="nfc",
    show_default=True,
    help="Unicode normal form; nfkc also folds ligatures, widths and the like.",
)
@click.option("--lowercase", is_flag=True, help="Fold to lower case.")
@click.option(
    "--whitespace",
    type=click.Choice(["keep", "trim", "collapse"]),
    default="trim",
    show_default=True,
    help="Keep it, trim it at line ends, or make one space of every run.",
)
@click.option(
    "--unique",
    type=click.Choice(["documents", "lines"]),
    multiple=True,
    help="Keep the first of identical ones; may be repeated. Needs 12 to 32 bytes of memory for "
    "each distinct document or line.",
)
@click.option(
    "--min-characters",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Drop shorter documents.",
)
@_options.as_json
def prepare(
    inputs: tuple[Path, ...],
    output: Path,
    kind: str,
    separator: str,
    blank_lines: int,
    field: str,
    encoding: str,
    invalid: str,
    mark: str,
    repair: bool,
    unescape_html: bool,
    normal_form: Any,
    lowercase: bool,
    whitespace: Any,
    unique: tuple[Any, ...],
    min_characters: int,
    as_json: bool,
) -> None:
    """Clean INPUTs, put their documents into one UTF-8 file, and say what was done.

    Control characters go, line ends become newlines, and blank lines around documents are dropped.
    """
    import dataclasses
    import json

    from ebm_wgpu.text.cleaning import Cleaning
    from ebm_wgpu.text.preparation import Selection, prepare_corpus
    from ebm_wgpu.text.streaming import expand_inputs

    files = expand_inputs(inputs)
    with _reading.progress_over(files, "preparing") as advance:
        result = prepare_corpus(
            files,
            output,
            _reading.document_rule(kind, separator, blank_lines, field),
            Cleaning(repair, unescape_html, normal_form, lowercase, whitespace, mark),
            Selection(frozenset(unique), min_characters),
            _reading.decoding(encoding, invalid),
            advance,
        )
    if as_json:
        record = {"output": str(output), **dataclasses.asdict(result)}
        click.echo(json.dumps(record, indent=1))
        return
    click.echo(f"{output} ({result.bytes_out:,} bytes) from {result.files:,} files")
    click.echo(f"{'':12}{'read':>16}{'written':>16}")
    for name in ("documents", "lines", "characters", "bytes"):
        read, written = (getattr(result, f"{name}_{way}") for way in ("in", "out"))
        click.echo(f"{name:12}{read:16,}{written:16,}")
    done = {
        "lines repaired": result.repaired_lines,
        "lines normalized": result.normalized_lines,
        "control characters removed": result.removed_characters,
        "document marks taken out of text": result.removed_marks,
        "documents dropped as too short": result.short_documents,
        "duplicate documents dropped": result.duplicate_documents,
        "duplicate lines dropped": result.duplicate_lines,
    }
    for what, count in done.items():
        if count:
            click.echo(f"{count:,} {what}")


@command.command("analyze")
@_reading.inputs
@click.option(
    "--tokenizer",
    "tokenizer_name",
    default="gpt2",
    show_default=True,
    metavar="gpt2|FILE|RUN",
    help="Whose tokens to count: GPT-2's, those of a tokenizer file, or those of a run folder.",
)
@_reading.document_options
@_reading.decoding_options
@_options.as_json
def analyze(
    inputs: tuple[Path, ...],
    tokenizer_name: str,
    kind: str,
    separator: str,
    blank_lines: int,
    field: str,
    encoding: str,
    invalid: str,
    as_json: bool,
) -> None:
    """Count tokens, documents and repetitions of INPUTs; suggest block size and stride.

    The block size is the least power of two that holds three documents in four (16 to 1024, and a
    hundredth of the text at most); the stride is half of it where that leaves fewer than 10,000
    windows.
    """
    import dataclasses
    import json

    from ebm_wgpu.text.analysis import analyze_corpus
    from ebm_wgpu.text.streaming import expand_inputs

    tokenizer = _reading.open_tokenizer(tokenizer_name)
    files = expand_inputs(inputs)
    with _reading.progress_over(files, "analyzing") as advance:
        report = analyze_corpus(
            files,
            tokenizer,
            _reading.document_rule(kind, separator, blank_lines, field),
            _reading.decoding(encoding, invalid),
            advance,
        )
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report), indent=1))
    else:
        _print(report)


def _print(report: CorpusReport) -> None:
    import unicodedata

    coverage, repetition = report.coverage, report.repetition
    counts = {
        "files": report.files,
        "bytes": report.bytes,
        "characters": report.characters,
        "lines": report.lines,
        "words": report.words,
        "documents": report.documents,
        f"tokens ({report.tokenizer})": report.tokens,
    }
    for name, count in counts.items():
        click.echo(f"{name:20}{count:16,}")
    click.echo(
        f"{report.characters / max(report.tokens, 1):.2f} characters and "
        f"{report.words / max(report.tokens, 1):.2f} words a token"
    )
    click.echo("")
    click.echo(f"{'quantiles':20}" + "".join(f"{order:>9}" for order in report.document_tokens))
    for name, lengths in (
        ("tokens a document", report.document_tokens),
        ("characters a line", report.line_characters),
    ):
        click.echo(f"{name:20}" + "".join(f"{value:9,.0f}" for value in lengths.values()))
    click.echo(
        f"suggested: data.block_size={report.suggestion.block_size} "
        f"data.window_stride={report.suggestion.window_stride}"
    )
    click.echo("")
    click.echo(
        f"vocabulary of {report.vocab_size:,}: {coverage.vocabulary_used:.1%} of its tokens occur; "
        f"{coverage.token_share:.2%} of the text's tokens lie in it without a fallback"
    )
    bound = "" if coverage.types_exact else " at most, rare ones left out below"
    click.echo(
        f"{coverage.types:,} distinct words{bound}: {coverage.word_type_share:.2%} are covered, "
        f"which make {coverage.word_share:.2%} of the text; {coverage.whole_word_share:.1%} of it "
        "are single tokens"
    )
    needed = (
        f"{float(share):.0%} {'more than were kept' if types is None else format(types, ',')}"
        for share, types in coverage.types_for.items()
    )
    click.echo(f"most frequent words that make up the text: {', '.join(needed)}")
    about = "" if repetition.exact else "about "
    click.echo(
        f"repeated: {about}{repetition.documents:.1%} of documents, {about}{repetition.lines:.1%} "
        "of lines"
    )
    click.echo(
        f"{report.distinct_characters:,} distinct characters, {report.non_ascii_share:.2%} of the "
        "text above ASCII"
    )
    unusual = list(report.unusual.items())
    for character, count in unusual[:_MOST_UNUSUAL]:
        name = unicodedata.name(character, unicodedata.category(character))
        click.echo(f"  unusual: U+{ord(character):04X} {name}: {count:,}")
    if len(unusual) > _MOST_UNUSUAL:
        click.echo(f"  and {len(unusual) - _MOST_UNUSUAL:,} other unusual characters")
