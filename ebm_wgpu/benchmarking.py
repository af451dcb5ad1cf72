"""What a training step and a written token cost on a device, with random tokens and first weights.

No corpus is read and nothing is learned: costs do not depend on what a model knows.
"""

from __future__ import annotations

import resource
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from timeit import timeit

import numpy as np
import torch

from ebm_wgpu.config import Config, apply_overrides
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.generation.sampling import SamplingSettings
from ebm_wgpu.generation.writer import TokenWriter
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.kernels.device import WgpuDevice
from ebm_wgpu.models.base import LanguageModel
from ebm_wgpu.models.registry import build_model
from ebm_wgpu.training.gradients import Gradients
from ebm_wgpu.training.optimizers import Optimizers
from ebm_wgpu.training.placement import place_model, torch_device_of

CHARACTERS = 66
"""Tokens of a vocabulary whose size the text decides: that of Tiny Shakespeare, and one more."""
WARM_UP = 5
"""Steps after which everything is compiled, and launches are replayed if they can be."""


@dataclass(frozen=True)
class StepCost:
    """What a training step takes.

    Attributes:
        tokens: it learns from.
        seconds: median of the steps.
        peak_bytes: most that tensors took of the device at once, or this process of main memory.
        outside_kernels: share of the time in which the adapter ran nothing, where it has a clock.
    """

    tokens: int
    seconds: float
    peak_bytes: int
    outside_kernels: float | None

    @property
    def tokens_per_second(self) -> float:
        """Tokens learned from a second."""
        return self.tokens / self.seconds


@dataclass(frozen=True)
class WritingCost:
    """What writing a text takes.

    Attributes:
        first_seconds: until the first token.
        tokens_per_second: of those after it.
    """

    first_seconds: float
    tokens_per_second: float


class RandomStep:
    """A training step as `ebm train` takes it: forward, backward, clipping, optimiser.

    Attributes:
        model: that learns.
        tokens: it learns from.
    """

    def __init__(
        self, config: Config, windows: int, device: KernelDevice, place: torch.device | None = None
    ) -> None:
        """A model at its first weights.

        Args:
            config: the model and how it learns; splats start anywhere.
            windows: windows of data.block_size tokens in a step.
            device: runs the kernels (`training_device`).
            place: where the model is; where tensors of the device are unless given.

        Raises:
            ConfigError: fewer windows than one, or what the model refuses.
        """
        if windows < 1:
            raise ConfigError(f"windows={windows} must be at least 1")
        config = apply_overrides(config, ["model.splat_init=uniform"])
        vocabulary = config.data.vocab_size or CHARACTERS
        self.model: LanguageModel = build_model(config, vocabulary, device)
        self.tokens = windows * config.data.block_size
        self._train = config.train
        self._optimizers = Optimizers(self.model, config.train, device)
        self._gradients = Gradients(self.model, self._optimizers, config.train)
        self.model.to(torch_device_of(device) if place is None else place).train()
        self._rng = np.random.default_rng(0)
        self._shape = (windows, config.data.block_size + 1)

    @property
    def replays(self) -> int:
        """Steps so far whose launches were replayed (`torch_device.replay`)."""
        replayed = self._gradients.replayed
        return 0 if replayed is None else replayed.replays

    def __call__(self) -> None:
        """Take a step."""
        drawn = self._rng.integers(0, self.model.vocab_size, self._shape)
        measured = self._gradients([torch.from_numpy(drawn)], [0])
        self._optimizers.clip(measured.norm, self._train.grad_clip)
        self._optimizers.step(1.0)
        self._optimizers.zero_grad()


def measure_step(step: RandomStep, device: KernelDevice, repeats: int) -> StepCost:
    """The cost of a step, after `WARM_UP` of them.

    Raises:
        ConfigError: fewer repeats than one.
    """
    if repeats < 1:
        raise ConfigError(f"steps={repeats} must be at least 1")
    gpu = device if isinstance(device, WgpuDevice) else None

    def whole() -> None:
        step()
        if gpu is not None:
            gpu.synchronize()

    for _ in range(WARM_UP):
        whole()
    if gpu is not None:
        gpu.runtime.pool.reset_peak()
    median = statistics.median(timeit(whole, number=1) for _ in range(repeats))
    if gpu is None:
        return StepCost(step.tokens, median, peak_resident_bytes(), None)
    peak = gpu.runtime.pool.peak_bytes
    idle = outside_kernels(gpu, whole, repeats) if gpu.runtime.has_clock else None
    return StepCost(step.tokens, median, peak, idle)


def outside_kernels(device: WgpuDevice, work: Callable[[], None], repeats: int) -> float:
    """Median share of the time of `work` in which the adapter runs nothing, by its own clock.

    Args:
        device: has a clock.
        work: ends when the device has done all of it.
        repeats: how often.
    """
    shares, spent = [], [0.0]
    for _ in range(repeats):
        busy = device.runtime.measure(lambda: spent.append(timeit(work, number=1)))
        shares.append(max(0.0, 1 - busy / spent[-1]))
    return statistics.median(shares)


def measure_writing(
    model: LanguageModel, config: Config, device: KernelDevice, tokens: int
) -> WritingCost:
    """The cost of `tokens` tokens of one text after a prompt of one token.

    Args:
        model: writes; it is put into evaluation mode, and where it is used.
        config: gives the context and the latent.
        device: runs the kernels (`training_device`).
        tokens: how many, at least two.

    Raises:
        ConfigError: fewer tokens than two.
    """
    if tokens < 2:
        raise ConfigError(f"tokens={tokens} must be at least 2: the first is timed on its own")
    place_model(model.eval(), device)
    settings = SamplingSettings(max_tokens=tokens, latent=config.sampler.latent)
    prompt = np.zeros(1, np.int64)
    # The first text compiles what is compiled.
    TokenWriter(model, [prompt], settings, config.data.eval_context).write()
    writer = TokenWriter(model, [prompt], settings, config.data.eval_context)
    first = timeit(writer.write, number=1)
    rest = timeit(writer.write, number=tokens - 1)
    return WritingCost(first, (tokens - 1) / rest)


def peak_resident_bytes() -> int:
    """The most main memory that this process has had at once."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
