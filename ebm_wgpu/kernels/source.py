"""Assemble complete WGSL: generated header, included snippets, conditional parts.

Directives, each alone on a line:
    //!family             the first line of a text that many kernels share
    //!include reduce     the text of wgsl/lib/reduce.wgsl, once
    //!if SUBGROUP        kept only if the flag is set
    //!else
    //!endif
    //!unroll k COUNT     the lines up to //!end, COUNT times (a number or a constant), with the
    //!end                round, from 0, in place of each `$k`

In the WGSL of a family, `$NAME` stands for the member's own text of that name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels.spec import Kernel

_INVOCATION = """\
struct Invocation {{
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,{subgroup}
}}
fn group_index(invocation: Invocation) -> u32 {{
    return invocation.group.x + invocation.group.y * 65535u;
}}
"""
_SUBGROUP_BUILTINS = """
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,"""
_LATER = ("//!family", "//!unroll", "//!end")


@cache
def _text(package: str, stem: str) -> str:
    return (files(package) / f"{stem}.wgsl").read_text(encoding="utf-8")


def _expand(text: str, stem: str, flags: frozenset[str], included: set[str]) -> list[str]:
    lines: list[str] = []
    keep = [True]
    for number, line in enumerate(text.splitlines(), 1):
        directive, _, argument = line.strip().partition(" ")
        if directive == "//!if":
            keep.append(keep[-1] and argument.strip() in flags)
        elif directive == "//!else":
            keep[-1] = keep[-2] and not keep[-1]
        elif directive == "//!endif":
            keep.pop()
        elif not keep[-1]:
            continue
        elif directive == "//!include":
            name = argument.strip()
            if name not in included:
                included.add(name)
                lines += _expand(_text("ebm_wgpu.wgsl.lib", name), f"lib/{name}", flags, included)
        elif directive.startswith("//!") and directive not in _LATER:
            raise KernelError(f"wgsl/{stem}.wgsl line {number}: unknown directive {directive}")
        else:
            lines.append(line)
    if len(keep) != 1:
        raise KernelError(f"wgsl/{stem}.wgsl: //!if without //!endif")
    return lines


def _unroll(lines: list[str], kernel: Kernel) -> list[str]:
    body: list[str] = []
    outer: list[tuple[str, int, list[str]]] = []
    for line in lines:
        directive, *words = line.split() or [""]
        if directive == "//!unroll":
            if len(words) != 2 or not (words[1].isdigit() or words[1] in kernel.constants):
                raise KernelError(f"kernel {kernel.stem}: {line.strip()} lacks name or count")
            count = int(words[1]) if words[1].isdigit() else kernel.constants[words[1]]
            outer.append((words[0], count, body))
            body = []
        elif directive == "//!end":
            if not outer:
                raise KernelError(f"kernel {kernel.stem}: //!end without //!unroll")
            name, count, before = outer.pop()
            body = before + [
                copy.replace(f"${name}", str(n)) for n in range(count) for copy in body
            ]
        else:
            body.append(line)
    if outer:
        raise KernelError(f"kernel {kernel.stem}: //!unroll without //!end")
    return body


def immediate_fields(kernel: Kernel) -> list[tuple[str, str]]:
    """Name and WGSL type of each field of the parameter block, in order."""
    fields = [(name, "u32") for name in kernel.dims]
    for param in kernel.params:
        if param.dtype == "u64":
            fields += [(f"{param.name}_lo", "u32"), (f"{param.name}_hi", "u32")]
        else:
            fields.append((param.name, param.dtype))
    return fields


def header(kernel: Kernel, storage: Mapping[str, str], flags: frozenset[str]) -> str:
    """The generated declarations: extensions, parameters, bindings, accessors and constants.

    Args:
        kernel: the declaration.
        storage: bindings held in another type than declared ("f16").
        flags: "SUBGROUP" adds the subgroup built-ins (naga has no `enable subgroups`).
    """
    parts: list[str] = []
    if "f16" in storage.values():
        parts.append("enable f16;\n")
    fields = immediate_fields(kernel)
    if fields:
        body = ", ".join(f"{name}: {kind}" for name, kind in fields)
        parts.append(f"struct Params {{ {body} }}\nvar<immediate> params: Params;\n")
    for index, binding in enumerate(kernel.bindings):
        kind = storage.get(binding.name, binding.dtype)
        value = binding.dtype if binding.lanes == 1 else f"vec4<{binding.dtype}>"
        kind = kind if binding.lanes == 1 else f"vec4<{kind}>"
        access = "read" if binding.access == "in" else "read_write"
        name = binding.name
        parts.append(f"@group(0) @binding({index}) var<storage, {access}> {name}: array<{kind}>;\n")
        convertible = len(binding.storage) > 1
        if convertible or (binding.access == "in" and binding.dtype == "f32"):
            parts.append(f"fn load_{name}(i: u32) -> {value} {{ return {value}({name}[i]); }}\n")
        if convertible and binding.access != "in":
            parts.append(
                f"fn store_{name}(i: u32, value: {value}) {{ {name}[i] = {kind}(value); }}\n"
            )
    parts += [f"const {name}: u32 = {value}u;\n" for name, value in kernel.constants.items()]
    subgroup = _SUBGROUP_BUILTINS if "SUBGROUP" in flags else ""
    return "".join(parts) + _INVOCATION.format(subgroup=subgroup)


def assemble(
    kernel: Kernel, storage: Mapping[str, str], flags: frozenset[str], body: str | None = None
) -> str:
    """Complete WGSL of one variant of a kernel.

    Args:
        kernel: the declaration.
        storage: bindings held in another type than declared.
        flags: variant flags.
        body: WGSL to use instead of wgsl/<stem>.wgsl (tests break a kernel this way).
    """
    source = kernel.source or kernel.stem
    text = _text("ebm_wgpu.wgsl", source) if body is None else body
    lines = _expand(text, source, flags.union(kernel.defines), set())
    code = "\n".join(_unroll(lines, kernel)) + "\n"
    if kernel.source is not None:
        code = _substitute(code, kernel)
    return header(kernel, storage, flags) + code


def _substitute(code: str, kernel: Kernel) -> str:
    def text(match: re.Match[str]) -> str:
        name = match[1]
        if name not in kernel.defines:
            raise KernelError(f"wgsl/{kernel.source}.wgsl: {kernel.stem} does not define ${name}")
        return kernel.defines[name]

    return re.sub(r"\$([A-Z_]+)", text, code)
