"""Corpora by name or path: WikiText-2, WikiText-103, Tiny Shakespeare and any UTF-8 text.

The unit of word-level perplexity is fixed here too, see `word_count`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from ebm_wgpu.errors import DataError
from ebm_wgpu.text.embedded import read_embedded
from ebm_wgpu.text.folders import (
    SPLIT_ALIASES,
    Text,
    corpus_from_folder,
    text_file,
    whole_text,
)
from ebm_wgpu.text.hub import wikitext_103_from_hub

SPLITS = tuple(SPLIT_ALIASES)
VALID_SHARE = 0.05
SHAKESPEARE_TRAIN_SHARE = 0.9
_FEWEST_LINES_TO_CUT_BETWEEN = 20


def word_count(text: str) -> int:
    """Number of words of `text`: whitespace-separated words + newline characters.

    A line end counts as one word (the <eos> of word-level models), so that perplexity per word is
    exp(sum of negative log-likelihoods / word_count) whatever the tokenizer. WikiText-2 validation
    has 213,886 words on 3,760 lines: 217,646, the published count.
    """
    return len(text.split()) + text.count("\n")


def split_text(text: str, valid_share: float = VALID_SHARE) -> tuple[str, str]:
    """Cut `text` into (train, valid): the last `valid_share` of its lines, at least one, validate.

    A text of fewer than 20 lines (one long line, say) is cut at the first whitespace after its
    first 1 - `valid_share` characters instead. train + valid == text.

    Raises:
        DataError: one of the sides would hold no word.
    """
    cut = _place_to_cut(whole_text(text), valid_share)
    return text[:cut], text[cut:]


def _place_to_cut(text: Text, valid_share: float) -> int:
    """Characters before the cut of `split_text`.

    Raises:
        DataError: one of the sides would hold no word.
    """
    length, newlines, last = 0, 0, ""
    for piece in text():
        length, newlines, last = length + len(piece), newlines + piece.count("\n"), piece or last
    n_lines = newlines + (not last.endswith("\n"))
    if n_lines >= _FEWEST_LINES_TO_CUT_BETWEEN:
        cut = _line_start(text, n_lines - max(1, round(n_lines * valid_share)))
    else:
        cut = _whitespace(text, int(length * (1.0 - valid_share)), length)
    for start, stop in ((0, cut), (cut, length)):
        if not any(piece.strip() for piece in _part(text, start, stop)):
            raise DataError(
                f"a text of {length} characters on {n_lines} lines is too short to cut into "
                "training and validation: give a longer one, or data.valid_path=PATH"
            )
    return cut


def _line_start(text: Text, line: int) -> int:
    """Characters before line number `line`, counted from 0."""
    place, before = 0, 0
    for piece in text():
        found = piece.count("\n")
        if before + found >= line:
            end = 0
            for _ in range(line - before):
                end = piece.index("\n", end) + 1
            return place + end
        place, before = place + len(piece), before + found
    return place


def _whitespace(text: Text, start: int, length: int) -> int:
    """The place of the first whitespace from `start` on, or the end."""
    place = start
    for piece in _part(text, start, length):
        rest = len(piece) - next((i for i, c in enumerate(piece) if c.isspace()), len(piece))
        place += len(piece) - rest
        if rest:
            break
    return place


def _part(text: Text, start: int, stop: int | None) -> Iterator[str]:
    """The pieces of characters `start` to `stop`, or to the end."""
    place = 0
    for piece in text():
        if stop is not None and place >= stop:
            break
        end = None if stop is None else stop - place
        if part := piece[max(start - place, 0) : end]:
            yield part
        place += len(piece)


def _wikitext_2(split: str, data_dir: Path | None) -> Text:
    if data_dir is not None:
        return corpus_from_folder(data_dir, split)
    if split == "test":
        raise DataError(
            "the test text of WikiText-2 is not embedded: give a folder with wiki.test.tokens "
            "with data.data_dir=FOLDER"
        )
    return whole_text(read_embedded(f"wikitext-2.{split}.txt").decode("utf-8"))


def _wikitext_103(split: str, data_dir: Path | None) -> Text:
    if data_dir is not None:
        return corpus_from_folder(data_dir, split)
    return whole_text(wikitext_103_from_hub(split))


def _shakespeare(split: str, data_dir: Path | None) -> Text:
    if data_dir is not None:
        return corpus_from_folder(data_dir, split)
    text = read_embedded("tinyshakespeare.txt").decode("utf-8")
    cut = int(len(text) * SHAKESPEARE_TRAIN_SHARE)
    parts = {"train": whole_text(text[:cut]), "valid": whole_text(text[cut:])}
    return _of_split(parts, split, "shakespeare")


CORPORA: Mapping[str, Callable[[str, Path | None], Text]] = MappingProxyType(
    {
        "wikitext-2": _wikitext_2,
        "wikitext-103": _wikitext_103,
        "shakespeare": _shakespeare,
    }
)


def open_corpus(
    name_or_path: str | Path,
    split: str = "train",
    data_dir: str | Path | None = None,
    valid_path: str | Path | None = None,
) -> Text:
    """One split of a corpus, to be read in pieces: text files are never held as a whole.

    Arguments and errors as for `load_corpus`; damage in the middle of a file is found when that is
    read.
    """
    if split not in SPLIT_ALIASES:
        raise DataError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    if valid_path is not None and split == "valid":
        return text_file(Path(valid_path).expanduser())
    folder = None if data_dir is None else Path(data_dir).expanduser()
    name = str(name_or_path)
    if name in CORPORA:
        return CORPORA[name](split, folder)
    path = (folder or Path()) / Path(name_or_path).expanduser()
    if path.is_dir():
        return corpus_from_folder(path, split)
    if not path.exists():
        near = difflib.get_close_matches(name, CORPORA, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise DataError(
            f"no corpus or file {name!r}{hint}: give one of {', '.join(CORPORA)} or the path of a "
            "UTF-8 text file"
        )
    text = text_file(path)
    if valid_path is not None:
        return _of_split({"train": text}, split, name)
    try:
        cut = _place_to_cut(text, VALID_SHARE)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    parts = {"train": partial(_part, text, 0, cut), "valid": partial(_part, text, cut, None)}
    return _of_split(parts, split, name)


def load_corpus(
    name_or_path: str | Path,
    split: str = "train",
    data_dir: str | Path | None = None,
    valid_path: str | Path | None = None,
) -> str:
    """The text of one split of a corpus.

    Args:
        name_or_path: a name of `CORPORA`; a UTF-8 text file, the last 5% of whose lines validate
            (see `split_text`); or a folder (see `folders.corpus_from_folder`).
        split: "train", "valid" or "test".
        data_dir: for a name, a local folder to read the corpus from instead of the embedded copy or
            the hub; for a path, the folder it is relative to.
        valid_path: a text file that is the validation split; the corpus file then trains whole.

    Raises:
        DataError: unknown name or split; a file that is missing, empty, binary or too short.
    """
    return "".join(open_corpus(name_or_path, split, data_dir, valid_path)())


def _of_split(texts: Mapping[str, Text], split: str, name: str) -> Text:
    if split not in texts:
        raise DataError(
            f"{name} has no {split} split, only {', '.join(texts)}: give a folder that holds "
            f"{split}.txt with data.dataset=FOLDER"
        )
    return texts[split]
