"""What clients may ask, as pydantic checks it; a name that is not here is refused."""

from __future__ import annotations

import secrets

from pydantic import BaseModel, ConfigDict, Field

from ebm_wgpu.config import Latent
from ebm_wgpu.generation.batch import GenerationPlan
from ebm_wgpu.generation.prompts import Prompt
from ebm_wgpu.generation.sampling import SamplingSettings

Texts = str | list[str]


class _Request(BaseModel):
    """A JSON object without names that nobody reads.

    Attributes:
        model: the model the client means; only the one that is served may be named.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None


class CompletionRequest(_Request):
    """`POST /v1/completions`: OpenAI's names where there are some, defaults of `ebm sample`.

    Attributes:
        prompt: text to go on from, or several.
        n: texts a prompt.
        best_of: continuations of which each text is the one of least energy a token.
        stop: strings before the first of which a text ends.
        seed: the same seed, the same texts; a new one is drawn unless given.
        stream: send server-sent events: the pieces of a single text while it is written, several
            texts as they are done.
        echo: begin texts with their prompt.
        energies: give the energies of each token.
        max_tokens, temperature, top_k, top_p, repetition_penalty, latent: see `SamplingSettings`.
    """

    prompt: Texts
    max_tokens: int = 100
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float = 0.95
    repetition_penalty: float = 1.0
    latent: Latent | None = None
    n: int = 1
    best_of: int = 1
    stop: Texts | None = None
    seed: int = Field(default_factory=lambda: secrets.randbelow(2**32))
    stream: bool = False
    echo: bool = False
    energies: bool = False

    def prompts(self) -> list[Prompt]:
        """The prompts, named by their places."""
        if isinstance(self.prompt, str):
            return [Prompt(self.prompt)]
        return [Prompt(text, f"prompt {place}") for place, text in enumerate(self.prompt)]

    def settings(self, latent: Latent) -> SamplingSettings:
        """How to draw; `latent` is what is decoded unless the request says otherwise.

        Raises:
            ConfigError: a value out of range.
        """
        return SamplingSettings(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            repetition_penalty=self.repetition_penalty,
            latent=self.latent or latent,
            seed=self.seed,
        )

    def plan(self, batch_size: int) -> GenerationPlan:
        """How many texts, and what ends them.

        Raises:
            ConfigError: a value out of range.
        """
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return GenerationPlan(self.n, self.best_of, tuple(stop), self.energies, batch_size)

    @property
    def alone(self) -> bool:
        """Whether a single text is wanted, which can be sent piece by piece."""
        return len(self.prompts()) * self.n * self.best_of == 1


class EmbeddingRequest(_Request):
    """`POST /v1/embeddings`: the latents after texts.

    Attributes:
        input: a text or several.
    """

    input: Texts

    def texts(self) -> list[str]:
        """The texts."""
        return [self.input] if isinstance(self.input, str) else self.input


class EnergyRequest(_Request):
    """`POST /v1/energies`: the energy of each token of a text.

    Attributes:
        input: the text.
    """

    input: str
