"""Losses: softmax cross-entropy in one kernel, negative log-likelihood, squares and their kin.

`cross_entropy` of whole-number targets runs as one kernel that keeps no probabilities, and its
gradient takes one array of the logits' size; a gradient that is itself to be differentiated, class
weights and targets that are distributions go through `log_softmax`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ebm_wgpu.torch_device.elementwise import implements_all
from ebm_wgpu.torch_device.reductions import deliver
from ebm_wgpu.torch_device.registration import claim, implements, implements_with_gradient
from ebm_wgpu.torch_device.tensors import empty, run_kernel

Maybe = torch.Tensor | None
_NONE, _MEAN, _SUM = 0, 1, 2
"""Numbers of torch's reductions."""


def _reduced(losses: torch.Tensor, reduction: int) -> torch.Tensor:
    if reduction == _MEAN:
        return losses.mean()
    return losses.sum() if reduction == _SUM else losses


def _spread(grad: torch.Tensor, like: torch.Tensor, reduction: int) -> torch.Tensor:
    """The gradient of each entry's loss."""
    return grad / max(like.numel(), 1) if reduction == _MEAN else grad


class _CrossEntropy(torch.autograd.Function):
    """Losses of rows of logits, one row a target, in float32 whatever the logits are stored in."""

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, targets: torch.Tensor, ignore: int, smoothing: float
    ) -> torch.Tensor:
        loss, lse = (empty((len(logits),), torch.float32) for _ in range(2))
        if logits.numel():
            run_kernel(
                "cross_entropy",
                logits=logits,
                targets=targets,
                ignore_index=ignore,
                smoothing=smoothing,
                loss=loss,
                lse=lse,
            )
        ctx.save_for_backward(logits, targets, lse)
        ctx.options = (ignore, smoothing)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Maybe, None, None, None]:
        (grad,) = gradients
        logits, targets, lse = ctx.saved_tensors
        ignore, smoothing = ctx.options
        if torch.is_grad_enabled():
            return _differentiable(logits, targets, grad, ignore, smoothing), None, None, None
        result = logits.clone(memory_format=torch.contiguous_format)
        if logits.numel():
            run_kernel(
                "cross_entropy_backward",
                logits=result,
                targets=targets,
                lse=lse,
                grad_loss=grad.float(),
                ignore_index=ignore,
                smoothing=smoothing,
            )
        return result, None, None, None


def _differentiable(
    logits: torch.Tensor, targets: torch.Tensor, grad: torch.Tensor, ignore: int, smoothing: float
) -> torch.Tensor:
    """The gradient of the losses, of operators that have gradients."""
    count = logits.shape[1]
    hit = torch.arange(count, device=logits.device).eq(targets.unsqueeze(1)).to(logits.dtype)
    slope = logits.softmax(1) - (1 - smoothing) * hit - smoothing / count
    return slope * (grad * targets.ne(ignore)).unsqueeze(1)


@implements_with_gradient("cross_entropy_loss")
def cross_entropy_loss(
    self: torch.Tensor,
    target: torch.Tensor,
    weight: Maybe = None,
    reduction: int = _MEAN,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Softmax cross-entropy along dimension 1 (0 of a vector).

    A target outside the classes gives NaN, not an error.
    """
    if weight is not None or target.is_floating_point():
        # In float32, since sums over many targets leave the range of half precision.
        weight = None if weight is None else weight.float()
        target = target.float() if target.is_floating_point() else target
        loss = _composite_cross_entropy(
            self.float(), target, weight, reduction, ignore_index, label_smoothing
        )
        return loss.to(self.dtype)
    classes = self.shape[1 if self.dim() > 1 else 0]
    expected = self.shape[:1] + self.shape[2:] if self.dim() > 1 else torch.Size([])
    if target.shape != expected:
        raise ValueError(
            f"Expected target size {list(expected)}, got {list(target.shape)}: one class for each "
            "vector of logits"
        )
    rows = self.movedim(1, -1) if self.dim() > 1 else self
    losses: torch.Tensor = _CrossEntropy.apply(
        rows.reshape(-1, classes).contiguous(), target.reshape(-1), ignore_index, label_smoothing
    )
    if reduction == _NONE:
        return losses.view(target.shape).to(self.dtype)
    total = losses.sum()
    return (total if reduction == _SUM else total / target.ne(ignore_index).sum()).to(self.dtype)


_composite_cross_entropy: Callable[..., torch.Tensor] = (
    torch.ops.aten.cross_entropy_loss.default.decompose
)


def _weights(
    target: torch.Tensor, weight: Maybe, ignore_index: int, like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight of each target's loss, 0 where it is ignored, and targets that can be read."""
    counted = target.ne(ignore_index)
    safe = torch.where(counted, target, 0)
    chosen = counted.to(like.dtype)
    if weight is not None:
        chosen = chosen * weight.index_select(0, safe.reshape(-1)).view(safe.shape)
    return chosen, safe


def _nll(
    self: torch.Tensor,
    target: torch.Tensor,
    weight: Maybe,
    reduction: int,
    ignore_index: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    axis = 1 if self.dim() > 1 else 0
    chosen, safe = _weights(target, weight, ignore_index, self)
    losses = -self.gather(axis, safe.unsqueeze(axis)).squeeze(axis) * chosen
    if reduction == _NONE:
        return losses, torch.zeros((), dtype=self.dtype, device=self.device)
    # In float32, since both sums leave the range of half precision.
    total, loss = (terms.sum(dtype=torch.float32) for terms in (chosen, losses))
    return (loss / total if reduction == _MEAN else loss).to(self.dtype), total


def _nll_backward(
    grad_output: torch.Tensor,
    self: torch.Tensor,
    target: torch.Tensor,
    weight: Maybe,
    reduction: int,
    ignore_index: int,
    total_weight: torch.Tensor,
) -> torch.Tensor:
    axis = 1 if self.dim() > 1 else 0
    chosen, safe = _weights(target, weight, ignore_index, self)
    grad = -chosen * (grad_output / total_weight if reduction == _MEAN else grad_output)
    return torch.zeros_like(self).scatter_(axis, safe.unsqueeze(axis), grad.unsqueeze(axis))


implements("nll_loss_forward", "nll_loss2d_forward")(_nll)
implements("nll_loss_backward", "nll_loss2d_backward")(_nll_backward)


def mse_loss(
    self: torch.Tensor, target: torch.Tensor, reduction: int = _MEAN, *, out: Maybe = None
) -> torch.Tensor:
    """(self - target)^2."""
    return deliver(_reduced((self - target).square_(), reduction), out)


@implements("mse_loss_backward")
def mse_loss_backward(
    grad_output: torch.Tensor, self: torch.Tensor, target: torch.Tensor, reduction: int
) -> torch.Tensor:
    """Gradient of `mse_loss` for self."""
    return 2 * (self - target) * _spread(grad_output, self, reduction)


@implements("huber_loss")
def huber_loss(
    self: torch.Tensor, target: torch.Tensor, reduction: int = _MEAN, delta: float = 1.0
) -> torch.Tensor:
    """x^2 / 2 up to |x| = delta, then delta (|x| - delta / 2), x = self - target."""
    distance = (self - target).abs()
    near = distance.clamp(max=delta)
    return _reduced(near * (distance - near / 2), reduction)


@implements("huber_loss_backward")
def huber_loss_backward(
    grad_output: torch.Tensor,
    self: torch.Tensor,
    target: torch.Tensor,
    reduction: int,
    delta: float,
) -> torch.Tensor:
    """Gradient of `huber_loss` for self."""
    return (self - target).clamp(-delta, delta) * _spread(grad_output, self, reduction)


def smooth_l1_loss(
    self: torch.Tensor,
    target: torch.Tensor,
    reduction: int = _MEAN,
    beta: float = 1.0,
    *,
    out: Maybe = None,
) -> torch.Tensor:
    """x^2 / (2 beta) up to |x| = beta, then |x| - beta / 2, x = self - target."""
    if beta == 0:
        return deliver(_reduced((self - target).abs(), reduction), out)
    distance = (self - target).abs()
    near = distance.clamp(max=beta)
    return deliver(_reduced(near * (distance - near / 2) / beta, reduction), out)


@implements("smooth_l1_loss_backward")
def smooth_l1_loss_backward(
    grad_output: torch.Tensor,
    self: torch.Tensor,
    target: torch.Tensor,
    reduction: int,
    beta: float,
) -> torch.Tensor:
    """Gradient of `smooth_l1_loss` for self."""
    away = self - target
    slope = away.sign() if beta == 0 else (away / beta).clamp(-1, 1)
    return slope * _spread(grad_output, self, reduction)


def _cross_logs(self: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log x and log(1 - x), at least -100 as torch has them."""
    return self.log().clamp_(min=-100), (-self).log1p_().clamp_(min=-100)


@implements("binary_cross_entropy")
def binary_cross_entropy(
    self: torch.Tensor, target: torch.Tensor, weight: Maybe = None, reduction: int = _MEAN
) -> torch.Tensor:
    """-(t log x + (1 - t) log(1 - x))."""
    inside, outside = _cross_logs(self)
    losses = (target - 1) * outside - target * inside
    return _reduced(losses if weight is None else losses * weight, reduction)


@implements("binary_cross_entropy_backward")
def binary_cross_entropy_backward(
    grad_output: torch.Tensor,
    self: torch.Tensor,
    target: torch.Tensor,
    weight: Maybe = None,
    reduction: int = _MEAN,
) -> torch.Tensor:
    """Gradient of `binary_cross_entropy` for self."""
    slope = (self - target) / ((1 - self) * self).clamp_(min=1e-12)
    slope = slope if weight is None else slope * weight
    return slope * _spread(grad_output, self, reduction)


@implements("log_sigmoid_forward")
def log_sigmoid_forward(self: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log sigmoid(x) = min(x, 0) - log(1 + exp(-|x|)); torch wants a second, empty, tensor."""
    return self.clamp(max=0) - (-self.abs()).exp_().log1p_(), empty((0,), self.dtype)


@implements("log_sigmoid_backward")
def log_sigmoid_backward(
    grad_output: torch.Tensor, self: torch.Tensor, buffer: torch.Tensor
) -> torch.Tensor:
    """Gradient of `log_sigmoid_forward`: sigmoid(-x)."""
    return grad_output * (-self).sigmoid_()


def softplus(
    self: torch.Tensor, beta: Any = 1, threshold: Any = 20, *, out: Maybe = None
) -> torch.Tensor:
    """log(1 + exp(beta x)) / beta; x itself where beta x exceeds the threshold."""
    scaled = self * beta
    smooth = (scaled.clamp(min=0) + (-scaled.abs()).exp_().log1p_()) / beta
    return deliver(torch.where(scaled.gt(threshold), self, smooth), out)


@implements("softplus_backward")
def softplus_backward(
    grad_output: torch.Tensor, self: torch.Tensor, beta: Any, threshold: Any
) -> torch.Tensor:
    """Gradient of `softplus`: sigmoid(beta x), 1 beyond the threshold."""
    scaled = self * beta
    return grad_output * torch.where(scaled.gt(threshold), 1.0, scaled.sigmoid())


def xlogy(self: Any, other: Any, *, out: Maybe = None) -> torch.Tensor:
    """self log(other), 0 where self is 0 and other a number."""
    x, y = (
        value if isinstance(value, torch.Tensor) else torch.tensor(float(value))
        for value in (self, other)
    )
    device = x.device if x.device.type == "wgpu" else y.device
    x, y = x.to(device), y.to(device)
    product = x * y.log()
    return deliver(torch.where(x.eq(0) & y.isnan().logical_not(), 0.0, product), out)


def logit(self: torch.Tensor, eps: float | None = None, *, out: Maybe = None) -> torch.Tensor:
    """log(x / (1 - x)), of entries brought between eps and 1 - eps if eps is given."""
    x = self if eps is None else self.clamp(eps, 1 - eps)
    return deliver((x / (1 - x)).log_(), out)


def logit_backward(
    grad_output: torch.Tensor, self: torch.Tensor, eps: float | None = None, *, out: Maybe = None
) -> torch.Tensor:
    """Gradient of `logit`: 1 / (x (1 - x)), 0 (NaN without eps) where x lies outside the bounds."""
    low, beyond = (0.0, float("nan")) if eps is None else (eps, 0.0)
    inside = self.ge(low) & self.le(1 - low)
    slope = grad_output / (self * (1 - self))
    return deliver(torch.where(inside, slope, beyond), out)


implements_all("xlogy", xlogy)
implements_all("logit", logit)
implements_all("logit_backward", logit_backward)
implements_all("mse_loss", mse_loss)
implements_all("smooth_l1_loss", smooth_l1_loss)
implements_all("softplus", softplus)

claim("nn.functional.cross_entropy", "nn.functional.nll_loss", "nn.functional.mse_loss")
claim("nn.functional.huber_loss", "nn.functional.smooth_l1_loss", "nn.functional.l1_loss")
claim("nn.functional.binary_cross_entropy", "nn.functional.binary_cross_entropy_with_logits")
claim("xlogy", "logit", "nn.functional.logsigmoid", "nn.functional.softplus")
claim("nn.functional.kl_div", "nn.functional.pairwise_distance", "nn.functional.soft_margin_loss")
claim("nn.functional.margin_ranking_loss", "nn.functional.hinge_embedding_loss")
claim("nn.functional.triplet_margin_loss", "nn.functional.cosine_embedding_loss")
claim("nn.functional.poisson_nll_loss", "nn.functional.gaussian_nll_loss")
