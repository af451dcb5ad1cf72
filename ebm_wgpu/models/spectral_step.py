"""Step sizes for gradient descent from the curvature of the energy itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

EnergyOf = Callable[[Tensor], Tensor]
_SEED = 0x5EC7


def dominant_curvature(energy: EnergyOf, x: Tensor, iterations: int) -> Tensor:
    """|lambda|_max of the Hessian of each row's energy, by power iteration.

    v <- H v / |H v|, where H v = grad(grad E . v); the estimate is the last |H v|, which comes from
    below. The first v is a fixed draw, the same for each row, so that a row's figure does not
    depend on which others are computed with it.

    Args:
        energy: from x to the energies, (...); each depends on its own row of x alone.
        x: where, (..., V).
        iterations: Hessian-vector products, at least 1.

    Returns:
        (..., 1), without gradient; 0 where the energy is linear.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(energy(x).sum(), x, create_graph=True)
    generator = torch.Generator().manual_seed(_SEED)
    v = torch.randn(x.shape[-1], generator=generator, dtype=torch.float64).to(x)
    v = (v / v.norm()).expand_as(x)
    size = x.new_zeros(*x.shape[:-1], 1)
    if not gradient.requires_grad:
        return size
    for _ in range(iterations):
        (product,) = torch.autograd.grad(
            gradient, x, grad_outputs=v, retain_graph=True, materialize_grads=True
        )
        size = product.norm(dim=-1, keepdim=True)
        v = product / size.clamp_min(torch.finfo(x.dtype).tiny)
    return size


def spectral_step_size(
    energy: EnergyOf, x: Tensor, largest: Tensor, c: float, iterations: int
) -> Tensor:
    """min(largest, c / |lambda|_max) for each row of x, (..., 1).

    A step along the gradient lowers an energy of curvature at most L if it is shorter than 2 / L,
    and by the most that L promises at 1 / L. Differentiable in `largest`, where that is the
    smaller one. Arguments as `dominant_curvature`; `largest` broadcasts against (..., 1).
    """
    return torch.minimum(largest, c / dominant_curvature(energy, x, iterations))
