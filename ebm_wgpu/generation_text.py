"""Tokens to text while they come: whole characters, and an end before the first stop string."""

from __future__ import annotations

from collections.abc import Sequence

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.text.tokenizer_base import TextTokenizer

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """The text of a growing list of tokens, in pieces that will not change any more.

    A piece never ends inside a character, and what may become the beginning of a stop string is
    held back until it is known. The text ends before the stop string that is complete first, of
    several the one that begins first, wherever its tokens are cut.

    Attributes:
        ended: a stop string has come; nothing follows.
    """

    def __init__(
        self, tokenizer: TextTokenizer, prompt: Sequence[int], stop: Sequence[str] = ()
    ) -> None:
        """A text that goes on from the tokens of a prompt, which `stop` does not look at.

        Raises:
            ConfigError: an empty stop string.
        """
        if "" in stop:
            raise ConfigError("a stop string is empty: give text, or leave it out")
        self.ended = False
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        # Decoding all as a whole lets a character span tokens, and lets a tokenizer decide about
        # spaces; the prompt is part of it for the same reason.
        self._ids = [int(token) for token in prompt]
        self._prompt_length = len(tokenizer.decode(self._ids))
        self._shown = 0

    def push(self, token: int) -> str:
        """What is certain now that `token` has come; may be empty."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        if text.endswith(_INCOMPLETE):
            return ""
        return self._advance(text[self._prompt_length :], last=False)

    def finish(self) -> str:
        """What was held back, when no token follows."""
        if self.ended:
            return ""
        return self._advance(self._tokenizer.decode(self._ids)[self._prompt_length :], last=True)

    def _advance(self, text: str, last: bool) -> str:
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.ended = True
            certain = min(found)[1]
        else:
            certain = len(text) - (0 if last else self._undecided(text))
        piece = text[self._shown : certain]
        self._shown = max(self._shown, certain)
        return piece

    def _undecided(self, text: str) -> int:
        """Length of the longest end of `text` with which a stop string begins."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        return next(
            (
                length
                for length in range(min(longest, len(text)), 0, -1)
                if any(stop.startswith(text[-length:]) for stop in self._stop)
            ),
            0,
        )
