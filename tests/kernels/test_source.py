"""Assembly of WGSL: generated header, includes once, conditionals, complaints."""

import dataclasses

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


def test_unrolled_lines_are_repeated_inside_out() -> None:
    kernel = dataclasses.replace(get_kernel("sphere_normalize"), constants={"WG": 64, "ROWS": 2})
    body = "\n".join(
        ["//!unroll i ROWS", "//!unroll j 2", "x_$i_$j", "//!end", "y$i", "//!end", "z"]
    )
    code = assemble(kernel, {}, frozenset(), body)
    assert code.splitlines()[-7:] == ["x_0_0", "x_0_1", "y0", "x_1_0", "x_1_1", "y1", "z"]


@pytest.mark.parametrize(
    "body", ["//!unroll i 2\nx", "x\n//!end", "//!unroll i COUNT\n//!end", "//!unroll 2\n//!end"]
)
def test_unrolling_without_name_count_or_end_is_an_error(body: str) -> None:
    with pytest.raises(KernelError, match=r"kernel sphere_normalize: .*unroll"):
        assemble(get_kernel("sphere_normalize"), {}, frozenset(), body)


def test_arrays_of_four_lanes_are_read_by_vectors() -> None:
    kernel = get_kernel("matmul_tiled_64x64_vec4")
    code = assemble(kernel, {"a": "f16"}, frozenset())
    assert "var<storage, read> a: array<vec4<f16>>;" in code
    assert "fn load_a(i: u32) -> vec4<f32> { return vec4<f32>(a[i]); }" in code
    assert "var<storage, read_write> out: array<f32>;" in code
