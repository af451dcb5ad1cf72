"""The device guard: torch asks it what it guards from any thread, and from C++ that must not throw.

torch lets the guard of a Python device answer by a Python method. It is called while a Python
exception is pending in a backward pass, and while the interpreter ends; either aborts the process.
So the guard gets a copy of its table of virtual functions in which those that ask Python for the
type are native code that returns constants: there is one device, number 0.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import torch
from llvmlite import binding as llvm  # type: ignore[import-untyped]

from ebm_wgpu.torch_device.tensors import set_sizes

_REGISTRY = "_ZN3c104impl26device_guard_impl_registryE"
_BEFORE, _ENTRIES = 2, 40
"""Words of a table before its first function (Itanium ABI), and more functions than a guard has."""
_kept: list[object] = []

_DEVICE_TYPE = int(torch._C._autograd.DeviceType.PrivateUse1.value)


# Places in the order of declaration in c10/core/impl/DeviceGuardImplInterface.h. A Device is a byte
# for the type and one for the number; a Stream is a Device and a 64-bit number.
_FUNCTIONS: dict[int, str] = {
    0: "type",
    1: "exchange_device",
    2: "get_device",
    3: "set_device",
    4: "set_device",
    5: "get_stream",
    9: "exchange_stream",
}
_CODE = f"""
define i8 @type(i8* %this) {{ ret i8 {_DEVICE_TYPE} }}
define i16 @exchange_device(i8* %this, i16 %device) {{ ret i16 {_DEVICE_TYPE} }}
define i16 @get_device(i8* %this) {{ ret i16 {_DEVICE_TYPE} }}
define void @set_device(i8* %this, i16 %device) {{ ret void }}
define {{i64, i64}} @get_stream(i8* %this, i16 %device) {{
    ret {{i64, i64}} {{ i64 {_DEVICE_TYPE}, i64 0 }}
}}
define {{i64, i64}} @exchange_stream(i8* %this, i64 %device, i64 %id) {{
    ret {{i64, i64}} {{ i64 {_DEVICE_TYPE}, i64 0 }}
}}
"""


def _compile() -> dict[str, int]:
    """Addresses of the native functions by name; they live as long as the process."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(_CODE), machine)
    engine.finalize_object()
    _kept.append(engine)
    return {name: engine.get_function_address(name) for name in set(_FUNCTIONS.values())}


def answer_natively() -> bool:
    """Make the registered guard answer without Python.

    Returns:
        Whether it could be done; where not (another C++ ABI), an exception in a tensor hook aborts
        the process.
    """
    if sys.platform == "win32":
        return False
    name = "libc10.dylib" if sys.platform == "darwin" else "libc10.so"
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name))
        registry = (ctypes.c_void_p * 32).in_dll(library, _REGISTRY)
    except (OSError, ValueError):
        return False
    meta = int(torch._C._autograd.DeviceType.Meta.value)
    guard, other = registry[_DEVICE_TYPE], registry[meta]
    if not guard or not other or _ask(other) != meta:
        return False
    pointer = ctypes.c_void_p.from_address(guard)
    assert pointer.value is not None
    word = ctypes.sizeof(ctypes.c_void_p)
    table = (ctypes.c_void_p * (_BEFORE + _ENTRIES))()
    ctypes.memmove(table, pointer.value - _BEFORE * word, ctypes.sizeof(table))
    addresses = _compile()
    for index, function in _FUNCTIONS.items():
        table[_BEFORE + index] = addresses[function]
    _kept.append(table)
    pointer.value = ctypes.addressof(table) + _BEFORE * word
    return _ask(guard) == _DEVICE_TYPE


def _ask(guard: int) -> int:
    """What the first virtual function of a guard returns: its device type."""
    table = ctypes.c_void_p.from_address(guard).value
    assert table is not None
    function = ctypes.c_void_p.from_address(table).value
    assert function is not None
    return int(ctypes.CFUNCTYPE(ctypes.c_int8, ctypes.c_void_p)(function)(guard))


def start_backward_threads() -> bool:
    """Have torch start its thread for backward passes on this device, which it does only once.

    Returns:
        Whether there is one. It starts threads at the process's first backward pass, for the
        devices it knows then. Where that was earlier, backward passes run on the calling thread,
        and only on the thread that imported the device.
    """
    # Views alone, so that no adapter is opened.
    point = _without_memory(()).requires_grad_()
    try:
        torch.autograd.grad(point.view(1), point, _without_memory((1,)))
    except RuntimeError:
        torch.autograd.set_multithreading_enabled(False)
        return False
    return True


def _without_memory(shape: tuple[int, ...]) -> torch.Tensor:
    tensor: torch.Tensor = torch._C._acc.create_empty_tensor(shape, torch.float32)
    return set_sizes(tensor, tensor.untyped_storage(), 0, shape, tensor.stride())
