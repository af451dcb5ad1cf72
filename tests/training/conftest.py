import contextlib
import shutil
import signal
from collections.abc import Callable, Iterator
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
from ebm_wgpu.training.callbacks import TrainerCallback, TrainResult
from ebm_wgpu.training.run_folder import RunFolder
from ebm_wgpu.training.trainer import Trainer

TEXT = "the cat sat on a mat while the dog ran to the hill and the sun set over the sea"
WORDS = tuple(TEXT.split())


@contextlib.contextmanager
def single_thread() -> Iterator[None]:
    """One thread for torch and Numba."""
    threads = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    yield
    torch.set_num_threads(threads[0])
    numba.set_num_threads(threads[1])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small gain nothing from a second thread, and lose much on a busy machine."""
    with single_thread():
        yield


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


class Recorder(TrainerCallback):
    """Keeps what a trainer tells."""

    def __init__(self):
        self.events, self.losses, self.start, self.result = [], [], None, None

    def on_start(self, event):
        self.events.append(("start", event.step))
        self.start = event

    def on_step(self, event):
        self.events.append(("step", event.step))
        self.losses.append(event.loss)

    def on_eval(self, step, report):
        self.events.append(("eval", step))

    def on_checkpoint(self, step, path, best):
        self.events.append(("best" if best else "checkpoint", step))

    def on_end(self, result):
        self.events.append(("end", result.step))
        self.result = result


@pytest.fixture
def recorder() -> Recorder:
    """A callback that keeps what a trainer tells."""
    return Recorder()


@pytest.fixture(scope="session")
def trained(tiny, tmp_path_factory, numba_device) -> tuple[RunFolder, Recorder, TrainResult]:
    """A finished run of `tiny`, what was told of it, and its result; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    recorder = Recorder()
    # Set up before `one_thread`, and compared to the bit with runs that are not.
    with single_thread():
        result = Trainer(tiny, folder, numba_device, [recorder]).train()
    return RunFolder(folder), recorder, result


@pytest.fixture
def copied(trained, tmp_path) -> RunFolder:
    """A copy of that run."""
    return RunFolder(shutil.copytree(trained[0].path, tmp_path / "run"))


@pytest.fixture(scope="session")
def model_files() -> Callable[..., list[bytes]]:
    """Reads the files of a run's checkpoint that hold its model."""

    def read(run: RunFolder, which: str = "last") -> list[bytes]:
        path = run.checkpoint_path(which)
        return [(path / name).read_bytes() for name in ("splats.h5", "weights.safetensors")]

    return read
