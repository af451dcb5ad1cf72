"""Kernels by name: single ones and families."""

import pytest

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import get_kernel, kernel_names, registry
from ebm_wgpu.kernels.source import assemble
from ebm_wgpu.kernels.spec import Kernel


def test_members_of_a_family_are_kernels_of_their_own() -> None:
    names = kernel_names()
    assert {"pointwise_add", "pointwise_add_scalar", "pointwise_add_int"} <= set(names)
    assert "pointwise" not in names
    assert list(names) == sorted(set(names))
    add, mul = get_kernel("pointwise_add"), get_kernel("pointwise_mul")
    assert add.source == mul.source == "pointwise"
    assert "a + alpha * b" in assemble(add, {}, frozenset())
    assert "a * b" in assemble(mul, {}, frozenset())


def test_definitions_are_flags_and_must_be_complete() -> None:
    kernel = get_kernel("pointwise_exp")
    assert "fn exp_accurate" in assemble(kernel, {}, frozenset())
    assert "fn exp_accurate" not in assemble(get_kernel("pointwise_add"), {}, frozenset())
    with pytest.raises(KernelError, match=r"pointwise_exp does not define \$WRONG"):
        assemble(kernel, {}, frozenset(), body="$WRONG")


def test_a_member_named_otherwise_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = get_kernel("pointwise_add")

    class Module:
        KERNELS = (Kernel(**{**kernel.__dict__, "stem": "other_add"}),)

    monkeypatch.setattr("importlib.import_module", lambda name: Module)
    with pytest.raises(KernelError, match="'other_add' of another family"):
        registry._family.__wrapped__("pointwise")


def test_near_names_are_suggested_for_members_too() -> None:
    with pytest.raises(KernelError, match="did you mean pointwise_maximum"):
        get_kernel("pointwise_maximun")
