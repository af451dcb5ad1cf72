"""AdamW for ordinary parameters, and Adam along geodesics for rows that are unit vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ebm_wgpu.config import TrainConfig
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.kernels._adam import adam_rates
from ebm_wgpu.models.kernel_tensors import Kernels
from ebm_wgpu.training.grown_rows import GrownRows, is_splat_parameter

ADAM_EPS = 1e-8
_BASE_RATE = "base_lr"
_CLIP_SAFETY = 1e-6
"""What torch adds to a norm before it divides by it."""
_SECOND_MOMENTS = ("exp_avg_sq", "square")


class RiemannianAdam(torch.optim.Optimizer):
    """Adam on a product of spheres, one a row: each row moves along the geodesic of its momentum.

        g_t = P_mu grad                          m_t = b1 m'_{t-1} + (1 - b1) g_t
        v_t = b2 v_{t-1} + (1 - b2) |g_t|^2      (one number a row)
        mu_{t+1} = exp_mu(-lr (m_t / (1 - b1^t)) / (sqrt(v_t / (1 - b2^t)) + eps))
        m'_t = m_t transported from mu_t to mu_{t+1}

    The rate is the angle in radians of a step whose gradients agree. The kernel `riemannian_adam`
    does all of it; rows are normalised again, since rounding would let them drift off the sphere
    over thousands of steps.

    Source: Becigneul and Ganea, "Riemannian Adaptive Optimization Methods" (2019), algorithm 1a,
    with the bias correction of Kingma and Ba (2015).
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        device: KernelDevice,
        lr: float = 0.02,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = ADAM_EPS,
    ) -> None:
        """Take parameters of shape (N, d), float32, with unit rows.

        Args:
            params: what to move.
            device: runs the kernels.
            lr: learning rate, radians.
            betas: decays of the first and the second moment.
            eps: keeps rows without gradient where they are.
        """
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})
        self._device = device

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)
        return loss

    def _move(self, parameter: nn.Parameter, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["momentum"] = torch.zeros_like(parameter)
            state["square"] = parameter.new_zeros(len(parameter))
        state["step"] += 1
        Kernels(self._device, parameter).update(
            "riemannian_adam",
            {"x": parameter, "mean": state["momentum"], "square": state["square"]},
            grad=grad,
            **adam_rates(state["step"], group["lr"], group["betas"], group["eps"]),
        )


class Optimizers:
    """The optimisers of a model as one: AdamW, and `RiemannianAdam` for spherical parameters.

    Parameters with the attribute `spherical` move on the sphere at `train.lr_splats`; those with
    the attribute `splat_rate` (weights and concentrations of splats, and numbers that move as they
    do) get AdamW at that rate; all others AdamW at `train.lr`. Only matrices decay: vectors and
    scalars (biases, gates, scales), and parameters with the attribute `no_decay`, do not.

    Attributes:
        parameters: all that learn.
    """

    def __init__(self, model: nn.Module, train: TrainConfig, device: KernelDevice) -> None:
        """Collect the parameters of `model` that need gradients."""
        spherical: list[nn.Parameter] = []
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for parameter in model.parameters():
            if not parameter.requires_grad:
                continue
            if getattr(parameter, "spherical", False):
                spherical.append(parameter)
                continue
            scalar = getattr(parameter, "splat_rate", False)
            plain = scalar or parameter.ndim < 2 or getattr(parameter, "no_decay", False)
            rate = train.lr_splats if scalar else train.lr
            decay = 0.0 if plain else train.weight_decay
            groups.setdefault((rate, decay), []).append(parameter)
        self.parameters = [*spherical, *(p for group in groups.values() for p in group)]
        self._optimizers: list[torch.optim.Optimizer] = []
        if groups:
            self._optimizers.append(
                torch.optim.AdamW(
                    [
                        {"params": members, "lr": rate, "weight_decay": decay, _BASE_RATE: rate}
                        for (rate, decay), members in groups.items()
                    ],
                    betas=train.betas,
                    eps=ADAM_EPS,
                    fused=True,
                )
            )
        if spherical:
            geodesic = RiemannianAdam(spherical, device, train.lr_splats, train.betas)
            geodesic.param_groups[0][_BASE_RATE] = train.lr_splats
            self._optimizers.append(geodesic)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)

    def gradient_norm(self) -> Tensor:
        """The common norm of all gradients, a scalar where the model is."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        return nn.utils.get_total_norm(gradients)

    def clip(self, length: float, norm: float, loss_scale: float = 1.0) -> None:
        """Scale all gradients so that their common norm is at most `norm`.

        As `torch.nn.utils.clip_grad_norm_`, but gradients that need no change are not touched, and
        neither are any whose norm is not finite.

        Args:
            length: their norm now, `gradient_norm`.
            norm: the greatest that is left.
            loss_scale: gradients are divided by it first.
        """
        factor = min(1.0, norm / (length / loss_scale + _CLIP_SAFETY)) / loss_scale
        if math.isfinite(length) and factor != 1:
            torch._foreach_mul_([p.grad for p in self.parameters if p.grad is not None], factor)

    def step(self, factor: float) -> None:
        """Take a step at `factor` times the configured learning rates."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group[_BASE_RATE] * factor
            optimizer.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """The state of all, in plain types and tensors."""
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Go to a state that `state_dict` gave for a model of the same shape."""
        for optimizer, state in zip(self._optimizers, states, strict=True):
            optimizer.load_state_dict(state)

    def take_over(self, before: Optimizers, rows: GrownRows) -> None:
        """Go on from the state of the optimisers of a model whose splats have grown into these.

        The state of a splat that was there stays; a new one has the second moments of the splat it
        split off and no momentum.
        """
        for new, old in zip(self._optimizers, before._optimizers, strict=True):
            for group, old_group in zip(new.param_groups, old.param_groups, strict=True):
                for now, then in zip(group["params"], old_group["params"], strict=True):
                    if then in old.state:
                        held = old.state[then]
                        grown = is_splat_parameter(now)
                        new.state[now] = _grown(held, rows) if grown else held


def _grown(state: dict[str, Any], rows: GrownRows) -> dict[str, Any]:
    """State of a parameter with a row a splat, after growth."""
    return {
        name: rows.take(value, new=name in _SECOND_MOMENTS)
        if isinstance(value, Tensor) and value.ndim
        else value
        for name, value in state.items()
    }
