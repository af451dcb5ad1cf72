"""What the steps of Adam have in common: rates that change from step to step."""

from __future__ import annotations

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels.spec import Scalar


def adam_rates(
    step: int, learning_rate: float, betas: tuple[float, float], epsilon: float
) -> dict[str, Scalar]:
    """Rates of step `step`, counted from 1, with the bias corrections, worked out in float64.

    m moves by "mean_rate" of the way, v <- "square_keep" v + "square_rate" g^2, and the step is
    "step_size" m / ("square_correction" sqrt(v) + "epsilon").

    Raises:
        KernelError: the step is below 1, or a beta lies outside [0, 1).
    """
    first, second = betas
    if step < 1 or not 0 <= first < 1 or not 0 <= second < 1:
        raise KernelError(
            f"Adam needs step >= 1 and betas in [0, 1), not step {step} and betas {betas}"
        )
    return {
        "step_size": learning_rate / (1 - first**step),
        "mean_rate": 1 - first,
        "square_keep": second,
        "square_rate": 1 - second,
        "square_correction": (1 - second**step) ** -0.5,
        "epsilon": epsilon,
    }
