"""The gradient of an embedding: the dense product with one-hot rows, the same in every run."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ebm_wgpu.kernels import KernelDevice

VOCABULARY = 19


@settings(max_examples=15)
@given(
    ids=arrays(np.int32, st.integers(1, 300), elements=st.integers(0, VOCABULARY - 1)),
    padding=st.integers(-1, VOCABULARY - 1),
)
def test_whole_numbers_are_summed_exactly(
    any_device: KernelDevice, ids: np.ndarray, padding: int
) -> None:
    grad_out = np.arange(ids.size * 3).reshape(-1, 3) % 23 - 11.0
    one_hot = (ids[:, None] == np.arange(VOCABULARY)) & (ids[:, None] != padding)
    places = any_device.run("token_order", ids=ids)
    result = any_device.run(
        "embedding_backward", **places, grad_out=grad_out, padding_index=padding, V=VOCABULARY
    )["grad_weight"]
    np.testing.assert_array_equal(result.numpy(), one_hot.T @ grad_out)


def test_the_same_bits_in_every_run(any_device: KernelDevice) -> None:
    rng = np.random.default_rng(2)
    ids = rng.integers(0, 3, 700).astype(np.int32)
    grad_out = rng.standard_normal((700, 70)).astype(np.float32)
    results = []
    for _ in range(3):
        places = any_device.run("token_order", ids=ids)
        outputs = any_device.run(
            "embedding_backward", **places, grad_out=grad_out, padding_index=-1, V=4
        )
        results.append(outputs["grad_weight"].numpy().tobytes())
    assert len(set(results)) == 1
