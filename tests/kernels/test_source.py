"""Assembly of WGSL: generated header, includes once, conditionals, complaints."""

import pytest

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import get_kernel
from ebm_wgpu.kernels.source import assemble, immediate_fields
from ebm_wgpu.kernels.spec import Binding, Kernel, Param


def test_header_follows_the_declaration() -> None:
    kernel = Kernel(
        stem="example",
        bindings=(
            Binding("x", "f32", ("B", "D"), half=True),
            Binding("i", "i32", ("B",)),
            Binding("out", "f32", ("B",), "out"),
        ),
        params=(Param("scale", "f32"), Param("seed", "u64")),
        workgroups=lambda dims, params: 1,
        mirror=lambda: None,
        reference=dict,
        cases=(),
    )
    code = assemble(kernel, {"x": "f16"}, frozenset(), "body")
    assert code.startswith("enable f16;\n")
    assert "struct Params { B: u32, D: u32, scale: f32, seed_lo: u32, seed_hi: u32 }" in code
    assert "@binding(0) var<storage, read> x: array<f16>;" in code
    assert "fn load_x(i: u32) -> f32" in code
    assert "load_i" not in code
    assert "@binding(2) var<storage, read_write> out: array<f32>;" in code
    assert len(immediate_fields(kernel)) == 5


def test_conditionals_nest_and_includes_come_once() -> None:
    body = "\n".join(
        [
            "//!include reduce",
            "//!include reduce",
            "//!if A",
            "a",
            "//!if B",
            "ab",
            "//!else",
            "a-b",
            "//!endif",
            "//!else",
            "none",
            "//!endif",
        ]
    )
    kernel = get_kernel("sphere_normalize")
    code = assemble(kernel, {}, frozenset({"A"}), body)
    assert code.count("fn reduce_sum") == 1
    assert code.splitlines()[-2:] == ["a", "a-b"]
    assert assemble(kernel, {}, frozenset({"B"}), body).splitlines()[-1] == "none"


@pytest.mark.parametrize("body", ["//!if A\nx", "//!repeat"])
def test_malformed_directives_are_errors(body: str) -> None:
    with pytest.raises(KernelError, match=r"wgsl/sphere_normalize\.wgsl"):
        assemble(get_kernel("sphere_normalize"), {}, frozenset(), body)
