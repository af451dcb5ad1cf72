"""Laws of the expert choice that gradients cannot be checked at: ties, NaN, too many experts."""

import numpy as np
import pytest

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels.expert_gate import MAX_EXPERTS, reference


def test_ties_go_to_the_lower_index(any_device) -> None:
    rng = np.random.default_rng(1)
    logits = rng.integers(-1, 2, (67, 6)).astype(np.float32)
    outputs = {n: a.numpy() for n, a in any_device.run("expert_gate", logits=logits, A=3).items()}
    truth = reference(logits.astype(np.float64), 3)
    np.testing.assert_array_equal(outputs["index"], truth["index"])
    for name in ("weight", "load", "importance"):
        np.testing.assert_allclose(outputs[name], truth[name], atol=1e-6)


def test_nan_logits_still_choose_distinct_experts(any_device) -> None:
    logits = np.zeros((3, 5), np.float32)
    logits[0] = np.nan
    logits[1, 2] = np.nan
    index = any_device.run("expert_gate", logits=logits, A=3)["index"].numpy()
    assert index.min() >= 0
    assert index.max() < 5
    assert all(len(set(row)) == 3 for row in index)


@pytest.mark.parametrize(("experts", "active"), [(4, 5), (MAX_EXPERTS + 1, 2)])
def test_impossible_choices_are_refused(numba_device, experts: int, active: int) -> None:
    with pytest.raises(KernelError, match=r"experts"):
        numba_device.run("expert_gate", logits=np.zeros((2, experts), np.float32), A=active)
