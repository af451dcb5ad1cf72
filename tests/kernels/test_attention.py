"""Attention beyond parity: torch's own, parts of a sequence, and shapes that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import DeviceArray, KernelDevice
from ebm_wgpu.kernels._attention import attention_params
from ebm_wgpu.kernels.spec import Array

HEADS, LENGTH, WIDTH = 4, 45, 20
NO_MASK = np.zeros((1, 1, 1), np.float32)


def _draw(*shape: int) -> Array:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def test_gradients_are_those_of_torch(any_device: KernelDevice) -> None:
    q, k, v = (_draw(n, HEADS, LENGTH, WIDTH)[0] for n in (1, 2, 3))
    grad_out = _draw(4, HEADS, LENGTH, WIDTH)[0]
    hidden = np.random.default_rng(1).random((1, LENGTH, LENGTH)) < 0.4
    hidden[:, :, 0] = False
    mask = np.where(hidden, -np.inf, 0.0).astype(np.float32)
    options = attention_params(WIDTH**-0.5, masked=True)

    truth = [torch.from_numpy(x).double().requires_grad_() for x in (q, k, v)]
    expected = scaled_dot_product_attention(*truth, attn_mask=torch.from_numpy(~hidden))
    expected.backward(torch.from_numpy(grad_out).double())

    shared = {"q": q, "k": k, "v": v, "mask": mask, **options}
    forward = any_device.run("attention", **shared)
    shared |= {"lse": forward["lse"], "grad_out": grad_out}
    queries = any_device.run("attention_query_backward", **shared, out=forward["out"])
    keys = any_device.run("attention_key_backward", **shared, delta=queries["delta"])
    results = (forward["out"], queries["grad_q"], keys["grad_k"], keys["grad_v"])
    wanted = (expected.detach(), *(x.grad for x in truth))
    for result, right in zip(results, wanted, strict=True):
        assert right is not None
        np.testing.assert_allclose(result.numpy(), right.numpy(), atol=5e-6)


def test_a_cache_continues_the_sequence(any_device: KernelDevice) -> None:
    q, k, v = (_draw(n, HEADS, LENGTH, WIDTH)[0] for n in (5, 6, 7))
    whole = any_device.run(
        "attention", q=q, k=k, v=v, mask=NO_MASK, **attention_params(0.2, causal=True)
    )
    past = 33
    rest = any_device.run(
        "attention",
        q=q[:, past:],
        k=k,
        v=v,
        mask=NO_MASK,
        **attention_params(0.2, causal=True, offset=past),
    )
    for name in ("out", "lse"):
        np.testing.assert_allclose(
            rest[name].numpy(), whole[name].numpy()[:, past:], rtol=1e-5, atol=1e-6
        )


def test_memory_beyond_the_arrays_is_never_used(wgpu_device: KernelDevice) -> None:
    """A pooled buffer may be longer than its array, and hold NaN there."""
    shape = (2, 33, 9)

    def with_nan_behind(values: Array) -> DeviceArray:
        longer = np.concatenate([values.ravel(), np.full(1000, np.nan, np.float32)])
        return DeviceArray(wgpu_device, shape, "f32", wgpu_device.array(longer).storage)

    plain = {name: _draw(n, *shape)[0] for n, name in enumerate("qkv", 1)}
    spoiled = {name: with_nan_behind(values) for name, values in plain.items()}
    common = {"mask": NO_MASK, **attention_params(0.3)}
    right = wgpu_device.run("attention", **plain, **common)
    result = wgpu_device.run("attention", **spoiled, **common)
    backward = {"lse": right["lse"], "grad_out": with_nan_behind(plain["q"]), **common}
    queries = wgpu_device.run("attention_query_backward", **spoiled, **backward, out=right["out"])
    keys = wgpu_device.run("attention_key_backward", **spoiled, **backward, delta=queries["delta"])
    np.testing.assert_array_equal(result["out"].numpy(), right["out"].numpy())
    for gradient in (queries["grad_q"], keys["grad_k"], keys["grad_v"]):
        assert np.isfinite(gradient.numpy()).all()


def test_nan_shows(any_device: KernelDevice) -> None:
    q, k, v = (_draw(n, 2, 40, 8)[0] for n in (1, 2, 3))
    q, k, v = (np.stack([x, x]) for x in (q[0], k[0], v[0]))
    q[0, 5, 3] = np.nan
    v[1, 20, 6] = np.nan
    outputs = any_device.run("attention", q=q, k=k, v=v, mask=NO_MASK, **attention_params(0.3))
    wrong = np.zeros(q.shape, bool)
    wrong[0, 5] = True
    wrong[1, :, 6] = True
    np.testing.assert_array_equal(np.isnan(outputs["out"].numpy()), wrong)
    np.testing.assert_array_equal(np.argwhere(np.isnan(outputs["lse"].numpy())), [[0, 5]])


@pytest.mark.parametrize(
    ("heads", "key_heads", "width", "mask_shape", "complaint"),
    [
        (3, 2, 8, (1, 1, 1), "3 heads cannot share 2 key heads"),
        (4, 4, 129, (1, 1, 1), "129 exceed 128"),
        (4, 2, 8, (3, 5, 7), "4 heads cannot share 3 masks"),
        (4, 2, 8, (2, 4, 7), "MT=4, which must be 1 or 5"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    any_device: KernelDevice,
    heads: int,
    key_heads: int,
    width: int,
    mask_shape: tuple[int, int, int],
    complaint: str,
) -> None:
    q, k = np.zeros((heads, 5, width)), np.zeros((key_heads, 7, width))
    options = attention_params(1.0, masked=True)
    with pytest.raises(KernelError, match=complaint):
        any_device.run("attention", q=q, k=k, v=k, mask=np.zeros(mask_shape), **options)


def test_dropout_is_a_probability() -> None:
    with pytest.raises(KernelError, match=r"dropout 1\.0"):
        attention_params(1.0, dropout=1.0)
