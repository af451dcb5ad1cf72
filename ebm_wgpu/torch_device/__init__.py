"""torch.device("wgpu"): ordinary PyTorch modules, autograd and optimisers on any GPU.

Importing this registers the device. Tensors live in WebGPU buffers; every operator runs a kernel
of `ebm_wgpu.kernels`, or raises an error that names it.

    import torch, ebm_wgpu.torch_device
    x = torch.randn(3, 4).to("wgpu").requires_grad_()
    (x * x).exp().mean().backward()

Importing does not open an adapter: the first tensor does, or `open_device`.
"""

from ebm_wgpu.torch_device import backend

backend.register()

# Operators register themselves when their modules are imported.
from ebm_wgpu.torch_device import (  # noqa: E402, F401
    activations,
    advanced_indexing,
    assembly,
    attention,
    autocast,
    copies,
    embedding,
    extremes,
    foreach,
    guard,
    indexing,
    losses,
    masks,
    matmul,
    norms,
    optimizers,
    persistence,
    pointwise,
    random,
    reductions,
    statistics,
    topk,
    views,
)
from ebm_wgpu.torch_device.registration import (  # noqa: E402
    UnsupportedOperatorError,
    allow_fallback,
    claims,
    fallbacks,
    implements,
    registered,
)
from ebm_wgpu.torch_device.replay import Replayed  # noqa: E402
from ebm_wgpu.torch_device.state import device, open_device, synchronize  # noqa: E402

autocast.install()
persistence.install()
hooks_may_raise = guard.answer_natively()
"""Whether an exception in a tensor hook surfaces as one; if not, it aborts the process."""
backward_threads = guard.start_backward_threads()
"""Whether backward passes may be started from any thread, or only from the importing one."""

__all__ = [
    "Replayed",
    "UnsupportedOperatorError",
    "allow_fallback",
    "backward_threads",
    "claims",
    "device",
    "fallbacks",
    "hooks_may_raise",
    "implements",
    "open_device",
    "registered",
    "synchronize",
]
