"""What a run does about values that are not finite, and about a device that is lost."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping

from torch import nn

from ebm_wgpu.errors import DeviceError, EbmError

ROLLBACK_RATE = 0.5
"""Factor of the learning rates after a rollback."""
_LOST = ("device lost", "device is lost", "device was lost", "devicelost")


class DivergedError(EbmError):
    """A loss or gradient that is not finite.

    Attributes:
        figure: what is not finite.
        value: nan or infinity.
        step: the optimiser step it would have been.
    """

    def __init__(self, figure: str, value: float, step: int) -> None:
        super().__init__(f"{figure} is {value} at step {step}")
        self.figure, self.value, self.step = figure, value, step


def check_finite(parts: Mapping[str, float], step: int) -> None:
    """Make sure that loss and gradient norm of `step` are finite.

    Raises:
        DivergedError: naming the first that is not.
    """
    for figure in ("loss", "grad_norm"):
        if not math.isfinite(parts.get(figure, 0.0)):
            raise DivergedError(figure, parts[figure], step)


def has_finite_parameters(model: nn.Module) -> bool:
    """Whether every parameter of `model` is finite."""
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def checkpoint_kept(last: int | None) -> str:
    """Half a sentence about what is left to go on from."""
    return "no checkpoint was written yet" if last is None else f"checkpoint {last} is kept"


def gave_up(error: DivergedError, last: int | None) -> EbmError:
    """The error of a run that diverged again after its rollback."""
    return EbmError(
        f"{error}; {checkpoint_kept(last)}: start a new run with lower train.lr and "
        "train.lr_splats or a lower train.grad_clip"
    )


def is_device_loss(error: BaseException) -> bool:
    """Whether `error` says that the GPU is gone: unplugged, reset by its driver, or asleep.

    wgpu reports that as errors of its own or as text in another error.
    """
    native = getattr(sys.modules.get("wgpu"), "GPUError", None)
    if not isinstance(error, (DeviceError, RuntimeError)) and not (
        native is not None and isinstance(error, native)
    ):
        return False
    text = str(error).lower()
    return any(words in text for words in _LOST)


def device_lost(error: BaseException, last: int | None) -> DeviceError:
    """The error of a run whose device was lost, with what to do about it."""
    reason = " ".join(str(error).split())
    return DeviceError(
        f"the GPU was lost ({reason}); {checkpoint_kept(last)}: go on with `ebm train --resume`, "
        "with --device numba if the GPU does not come back"
    )
