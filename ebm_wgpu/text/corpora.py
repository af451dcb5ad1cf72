"""Corpora by name or path: WikiText-2, WikiText-103, Tiny Shakespeare and any UTF-8 text.

The unit of word-level perplexity is fixed here too, see `word_count`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from ebm_wgpu.errors import DataError
from ebm_wgpu.text.embedded import read_embedded
from ebm_wgpu.text.folders import SPLIT_ALIASES, corpus_from_folder, read_text
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
    n_lines = text.count("\n") + (not text.endswith("\n"))
    if n_lines >= _FEWEST_LINES_TO_CUT_BETWEEN:
        newline = len(text) - text.endswith("\n")
        for _ in range(max(1, round(n_lines * valid_share))):
            newline = text.rfind("\n", 0, newline)
        cut = newline + 1
    else:
        cut = int(len(text) * (1.0 - valid_share))
        while cut < len(text) and not text[cut].isspace():
            cut += 1
    train, valid = text[:cut], text[cut:]
    if not train.strip() or not valid.strip():
        raise DataError(
            f"a text of {len(text)} characters on {n_lines} lines is too short to cut into "
            "training and validation: give a longer one, or data.valid_path=PATH"
        )
    return train, valid


def _wikitext_2(split: str, data_dir: Path | None) -> str:
    if data_dir is not None:
        return corpus_from_folder(data_dir, split)
    if split == "test":
        raise DataError(
            "the test text of WikiText-2 is not embedded: give a folder with wiki.test.tokens "
            "with data.data_dir=FOLDER"
        )
    return read_embedded(f"wikitext-2.{split}.txt").decode("utf-8")


def _wikitext_103(split: str, data_dir: Path | None) -> str:
    if data_dir is not None:
        return corpus_from_folder(data_dir, split)
    return wikitext_103_from_hub(split)


def _shakespeare(split: str, data_dir: Path | None) -> str:
    if data_dir is not None:
        return corpus_from_folder(data_dir, split)
    text = read_embedded("tinyshakespeare.txt").decode("utf-8")
    cut = int(len(text) * SHAKESPEARE_TRAIN_SHARE)
    return _of_split({"train": text[:cut], "valid": text[cut:]}, split, "shakespeare")


CORPORA: Mapping[str, Callable[[str, Path | None], str]] = MappingProxyType(
    {
        "wikitext-2": _wikitext_2,
        "wikitext-103": _wikitext_103,
        "shakespeare": _shakespeare,
    }
)


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
    if split not in SPLIT_ALIASES:
        raise DataError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    if valid_path is not None and split == "valid":
        return read_text(Path(valid_path).expanduser())
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
    text = read_text(path)
    if valid_path is not None:
        return _of_split({"train": text}, split, name)
    try:
        train, valid = split_text(text)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return _of_split({"train": train, "valid": valid}, split, name)


def _of_split(texts: Mapping[str, str], split: str, name: str) -> str:
    if split not in texts:
        raise DataError(
            f"{name} has no {split} split, only {', '.join(texts)}: give a folder that holds "
            f"{split}.txt with data.dataset=FOLDER"
        )
    return texts[split]
