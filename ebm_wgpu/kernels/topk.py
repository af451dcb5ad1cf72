"""Search for the most similar splats, spread over as many workgroups as a GPU can use."""

from __future__ import annotations

import numpy as np

from ebm_wgpu.kernels.device import DeviceArray, KernelDevice
from ebm_wgpu.kernels.similarity_topk import QUERIES
from ebm_wgpu.kernels.spec import Array

_WORKGROUPS = 256
_SHORTEST_SEGMENT = 512


def similarity_topk(
    device: KernelDevice, x: DeviceArray | Array, mu: DeviceArray | Array, k: int
) -> tuple[DeviceArray, DeviceArray]:
    """The k rows of mu with the largest x.mu for each row of x.

    On a GPU mu is searched in segments whose results are merged, so that a single query keeps the
    device busy too; the result does not depend on their number.

    Args:
        device: where to search.
        x: queries (B, d) float32.
        mu: splat directions (N, d), float32 or, on the device, float16.
        k: 1 to 128, at most N.

    Returns:
        values (B, k) float32 in descending order and indices (B, k) int32; equal values by the
        lower index, NaN last.

    Raises:
        KernelError: shapes that do not fit, or k out of range.
    """
    n_queries, n_splats = _rows(x), _rows(mu)
    segments = 1
    if device.name == "wgpu" and n_queries:
        wanted = -(-_WORKGROUPS // -(-n_queries // QUERIES))
        segments = max(1, min(wanted, n_splats // _SHORTEST_SEGMENT))
    found = device.run("similarity_topk", x=x, mu=mu, K=k, R=n_queries * segments)
    if segments > 1:
        found = device.run(
            "topk_merge",
            candidate_values=found["values"],
            candidate_indices=found["indices"],
            B=n_queries,
            K=k,
        )
    return found["values"], found["indices"]


def _rows(array: DeviceArray | Array) -> int:
    shape = array.shape if isinstance(array, DeviceArray) else np.shape(array)
    return shape[0] if shape else 0
