"""Train one run undisturbed, and one in processes that SIGKILL themselves at chosen moments.

    python killed_runs.py CONFIG WHOLE KILLED SEED

Moments are counted in everything a run does to be safe: steps, syncs and renames, so that kills
fall between and inside the writing of checkpoints, pointers and metrics. WHOLE and KILLED are run
folders. The second run is killed four times and resumed each time, the last time to its end.
"""

import importlib
import os
import signal
import sys
import traceback
from pathlib import Path

import numpy as np

from ebm_wgpu.config import Config
from ebm_wgpu.kernels import open_device
from ebm_wgpu.training.callbacks import StepEvent, TrainerCallback
from ebm_wgpu.training.run_folder import RunFolder
from ebm_wgpu.training.trainer import Trainer


class Moments(TrainerCallback):
    """Counts moments, and kills this process at one of them, or after one of the run's steps."""

    def __init__(self, fatal: int | None, fatal_step: int | None) -> None:
        self.count = 0
        self.fatal, self.fatal_step = fatal, fatal_step
        self._fsync, self._replace = os.fsync, Path.replace
        os.fsync = self.fsync
        Path.replace = lambda path, target: self.replace(path, target)

    def pass_one(self) -> None:
        self.count += 1
        if self.count == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def fsync(self, descriptor: int) -> None:
        self.pass_one()
        self._fsync(descriptor)

    def replace(self, path: Path, target: Path) -> Path:
        self.pass_one()
        result = self._replace(path, target)
        self.pass_one()
        return result

    def on_step(self, event: StepEvent) -> None:
        self.pass_one()
        if event.step == self.fatal_step:
            os.kill(os.getpid(), signal.SIGKILL)


def train(config: Config, folder: Path, fatal: int | None = None, step: int | None = None) -> int:
    """Train in a child process until it is killed or done; how many moments it had, if done."""
    reader, writer = os.pipe()
    # No thread pool has been started yet, so that a fork is safe and saves the imports.
    child = os.fork()
    if child == 0:
        moments = Moments(fatal, step)
        resume = RunFolder(folder).exists()
        try:
            Trainer(config, folder, open_device("numba"), [moments], resume=resume).train()
            os.write(writer, str(moments.count).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if killed != (fatal is not None or step is not None) or killed == bool(answer):
        sys.exit(f"the child to be killed at {fatal}, step {step}, ended with status {status}")
    return int(answer or 0)


def main() -> None:
    config = Config.from_json(Path(sys.argv[1]).read_text())
    whole, killed = Path(sys.argv[2]), Path(sys.argv[3])
    rng = np.random.default_rng(int(sys.argv[4]))
    # Every optimiser of torch loads this; loaded here, the children need not.
    importlib.import_module("torch._dynamo")
    moments = train(config, whole)
    train(config, killed, int(rng.integers(2, 10)))  # while the run is set up
    train(config, killed, step=int(rng.integers(1, config.train.checkpoint_every)))
    for _ in range(2):
        train(config, killed, int(rng.integers(5, moments // 2)))
    train(config, killed)


if __name__ == "__main__":
    main()
