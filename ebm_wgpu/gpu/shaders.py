"""Shader modules: with the checks that wgpu adds to WGSL, or without."""

from __future__ import annotations

from typing import Any


def create_module(device: Any, label: str, code: str, checked: bool = True) -> Any:
    """Compile WGSL to a shader module.

    Unchecked code neither keeps indices within arrays nor ends loops that would not end: it is for
    shaders that are known to do both. WebGPU has no such thing; wgpu-native's C library has.

    Args:
        device: the wgpu device.
        label: name used in error messages.
        code: complete WGSL source.
        checked: whether wgpu adds its checks.

    Raises:
        wgpu.GPUError: the source does not compile.
    """
    if checked:
        return device.create_shader_module(label=label, code=code)
    from wgpu.backends.wgpu_native import _api
    from wgpu.backends.wgpu_native._ffi import ffi, lib

    # What cffi allocates lives as long as the names here.
    text, name = (ffi.new("char[]", word.encode()) for word in (code, label))
    source = ffi.new("WGPUShaderSourceWGSL *")
    source.chain.sType = lib.WGPUSType_ShaderSourceWGSL
    source.code.data, source.code.length = text, len(text) - 1
    descriptor = ffi.new("WGPUShaderModuleDescriptor *")
    descriptor.nextInChain = ffi.cast("WGPUChainedStruct *", source)
    descriptor.label.data, descriptor.label.length = name, len(name) - 1
    handle = _api.libf.wgpuDeviceCreateShaderModuleTrusted(
        device._internal, descriptor, lib.WGPUShaderRuntimeChecks_None
    )
    return _api.GPUShaderModule(label, handle, device)
