import signal
from pathlib import Path

import numba
import pytest
import torch

from ebm_wgpu.config import (
    Config,
    DataConfig,
    EnergyConfig,
    ModelConfig,
    SamplerConfig,
    TrainConfig,
)

TEXT = "the cat sat on a mat while the dog ran to the hill and the sun set over the sea"
WORDS = tuple(TEXT.split())


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small gain nothing from a second thread, and lose much on a busy machine."""
    threads = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    yield
    torch.set_num_threads(threads[0])
    numba.set_num_threads(threads[1])


@pytest.fixture(autouse=True)
def interruptible():
    """SIGINT raises KeyboardInterrupt, also where the tests were started with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """A text with some structure: 300 lines of words in a walk that repeats slowly."""
    lines = [
        " ".join(WORDS[(i * i + 3 * j * (i % 4 + 1)) % len(WORDS)] for j in range(6))
        for i in range(300)
    ]
    path = tmp_path_factory.mktemp("corpus") / "walk.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def tiny(corpus) -> Config:
    """The configuration of a run of about two seconds."""
    return Config(
        data=DataConfig(
            dataset=str(corpus), tokenizer="char", block_size=12, eval_context=12, eval_stride=6
        ),
        model=ModelConfig(
            dim=16,
            n_splats=40,
            recent_window=4,
            decay_window=8,
            attention_window=12,
            n_experts=2,
            n_active=1,
            expert_hidden=8,
        ),
        energy=EnergyConfig(n_neighbours=8),
        sampler=SamplerConfig(list_size=8),
        train=TrainConfig(
            seed=3,
            device="numba",
            steps=24,
            warmup_steps=4,
            batch_size=3,
            accumulation=2,
            lr=0.01,
            dsm_weight=0.1,
            eval_every=8,
            eval_tokens=150,
            checkpoint_every=5,
            log_every=3,
        ),
    ).validate()
