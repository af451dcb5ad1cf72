"""Sums of squares of several tensors: rows that are not there."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.kernels._many import NAMES


def test_sums_that_have_no_row_are_refused(any_device: KernelDevice) -> None:
    arrays = {name: np.zeros(9) for name in NAMES}
    with pytest.raises(KernelError, match="row 4 does not lie in an array of 4"):
        any_device.run("square_sums", **arrays, partials=np.zeros((4, 3)), first=4)
