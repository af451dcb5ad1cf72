"""Tokens to text while they come: whole characters, and an end before the first stop string."""

from __future__ import annotations

from collections.abc import Sequence

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.text.tokenizer_base import TextTokenizer

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
_TAIL = 4
"""Tokens that are decoded with the one that follows them. They have 4 bytes or more, as many as a
character at most: one that began before them ends among them, and from there on their text is that
of the whole."""


class TextStream:
    """The text of a growing list of tokens, in pieces that will not change any more.

    A piece never ends inside a character, and what may become the beginning of a stop string is
    held back until it is known. The text ends before the stop string that is complete first, of
    several the one that begins first, wherever its tokens are cut. A token costs the same however
    long the text is.

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
        # Decoding the last tokens together lets a character span tokens, and lets a tokenizer
        # decide about spaces; those of the prompt are among them for the same reason.
        self._tail = [int(token) for token in prompt][-_TAIL:]
        self._read = len(tokenizer.decode(self._tail))
        self._unread = self._held = ""

    def push(self, token: int) -> str:
        """What is certain now that `token` has come; may be empty."""
        tail = [*self._tail, token]
        text = self._tokenizer.decode(tail)
        # All that another token can change is a last character that is not complete.
        whole = max(self._read, len(text) - text.endswith(_INCOMPLETE))
        self._held += text[self._read : whole]
        self._unread = text[whole:]
        self._tail = tail[-_TAIL:]
        self._read = len(self._tokenizer.decode(self._tail)) - len(self._unread)
        return self._advance(last=False)

    def finish(self) -> str:
        """What was held back, when no token follows."""
        if self.ended:
            return ""
        self._held += self._unread
        return self._advance(last=True)

    def _advance(self, last: bool) -> str:
        found = [(at + len(stop), at) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            self.ended = True
            certain = min(found)[1]
        else:
            certain = len(self._held) - (0 if last else self._undecided())
        piece, self._held = self._held[:certain], self._held[certain:]
        return piece

    def _undecided(self) -> int:
        """Length of the longest end of what is held with which a stop string begins."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        return next(
            (
                length
                for length in range(min(longest, len(self._held)), 0, -1)
                if any(stop.startswith(self._held[-length:]) for stop in self._stop)
            ),
            0,
        )
