"""NPZ archives: one that is not what it says is refused before anything is allocated for it."""

import zipfile

import numpy as np
import pytest

from ebm_wgpu.errors import StoreError
from ebm_wgpu.splats.export import import_splats

from .conftest import make_store
from .test_export import exported


def test_an_npz_with_pickles_or_false_claims_is_refused(tmp_path):
    table = exported(tmp_path, ".npz", make_store())
    with np.load(table) as arrays:
        held = dict(arrays)
    np.savez(table, **{**held, "alpha": np.array([{}] * 5, object)})
    with pytest.raises(StoreError, match="alpha is object"):
        import_splats(table, tmp_path / "back.h5")
    with zipfile.ZipFile(table, "w") as archive:
        for name, array in held.items():
            with archive.open(f"{name}.npy", "w") as member:
                if name != "mu":
                    np.save(member, array)
                    continue
                header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 8)}
                np.lib.format.write_array_header_1_0(member, header)
    with pytest.raises(StoreError, match="mu claims shape"):
        import_splats(table, tmp_path / "back.h5")
