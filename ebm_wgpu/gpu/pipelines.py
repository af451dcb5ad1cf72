"""Compiled compute shaders, and the bind groups made for them.

WebGPU forbids a dispatch to read one range of a buffer through a read-only binding and to write
another. Where small arrays share a buffer, or an array is updated in place, the kernel runs as
compiled with all its bindings writable.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from ebm_wgpu.errors import KernelError
from ebm_wgpu.gpu.buffers import KEY_SHIFT, Buffer, BufferView
from ebm_wgpu.gpu.shaders import create_module

MAX_BIND_GROUPS = 8192
"""Bind groups kept for one pipeline; beyond that all are made anew."""

Storage = Buffer | BufferView


class Pipeline:
    """A compute shader with the bind groups made for it so far.

    Attributes:
        label: name used in error messages.
        code: the WGSL.
        writable: for each binding, whether the shader writes it.
        immediate_size: bytes of the parameter block.
        checked: whether wgpu adds its checks to the code.
        bind_groups: by the keys of the buffers, the compiled pipeline to use and the bind group.
        compiled: (pipeline, bind-group layout) as declared, and with every binding writable.
    """

    __slots__ = (
        "bind_groups",
        "checked",
        "code",
        "compiled",
        "immediate_size",
        "label",
        "writable",
    )

    def __init__(
        self, label: str, code: str, writable: Sequence[bool], immediate_size: int, checked: bool
    ) -> None:
        self.label = label
        self.code = code
        self.writable = tuple(writable)
        self.immediate_size = immediate_size
        self.checked = checked
        self.bind_groups: dict[tuple[int, ...], tuple[Any, Any]] = {}
        self.compiled: dict[bool, tuple[Any, Any]] = {}


class PipelineCache:
    """All pipelines of a device, by their code."""

    def __init__(self, device: Any) -> None:
        """`device` is the wgpu device."""
        self._device = device
        self._pipelines: dict[tuple[str, bool], Pipeline] = {}

    def get(
        self,
        code: str,
        writable: Sequence[bool],
        immediate_size: int,
        label: str,
        checked: bool = True,
    ) -> Pipeline:
        """Compile WGSL, or return the pipeline compiled before; as `GpuRuntime.pipeline`."""
        known = self._pipelines.get((code, checked))
        if known is not None:
            return known
        pipeline = Pipeline(label, code, writable, immediate_size, checked)
        self._compile(pipeline, aliased=False)
        self._pipelines[code, checked] = pipeline
        return pipeline

    def _compile(self, pipeline: Pipeline, aliased: bool) -> tuple[Any, Any]:
        import wgpu

        device, code = self._device, pipeline.code
        if aliased:
            code = code.replace("var<storage, read>", "var<storage, read_write>")
        entries = [
            {
                "binding": index,
                "visibility": wgpu.ShaderStage.COMPUTE,
                "buffer": {"type": "storage" if written or aliased else "read-only-storage"},
            }
            for index, written in enumerate(pipeline.writable)
        ]
        try:
            layout = device.create_bind_group_layout(entries=entries)
            module = create_module(device, pipeline.label, code, pipeline.checked)
            handle = device.create_compute_pipeline(
                label=pipeline.label,
                layout=device.create_pipeline_layout(
                    bind_group_layouts=[layout], immediate_size=pipeline.immediate_size
                ),
                compute={"module": module, "entry_point": "main"},
            )
        except wgpu.GPUError as error:
            raise KernelError(f"kernel {pipeline.label} does not compile: {error}") from error
        pipeline.compiled[aliased] = (handle, layout)
        return handle, layout

    def bind(
        self, pipeline: Pipeline, buffers: Sequence[Storage], key: tuple[int, ...]
    ) -> tuple[Any, Any]:
        """Make a bind group and keep it under `key`; returns the compiled pipeline and the group.

        Raises:
            KernelError: the variant with all bindings writable does not compile.
        """
        written: set[int] = set()
        read: set[int] = set()
        for buffer, writes in zip(buffers, pipeline.writable, strict=True):
            (written if writes else read).add(id(buffer.block.raw))
        aliased = not written.isdisjoint(read)
        handle, layout = pipeline.compiled.get(aliased) or self._compile(pipeline, aliased)
        group = self._device.create_bind_group(
            layout=layout,
            entries=[
                {
                    "binding": index,
                    "resource": {
                        "buffer": buffer.block.raw.handle,
                        "offset": buffer.block.offset + buffer.start,
                        "size": buffer.block.capacity - buffer.start,
                    },
                }
                for index, buffer in enumerate(buffers)
            ],
        )
        if len(pipeline.bind_groups) >= MAX_BIND_GROUPS:
            pipeline.bind_groups.clear()
        pipeline.bind_groups[key] = (handle, group)
        return handle, group

    def forget(self, serials: Collection[int]) -> None:
        """Drop the bind groups that refer to blocks with these serial numbers."""
        gone = set(serials)
        for pipeline in self._pipelines.values():
            stale = [
                key
                for key in pipeline.bind_groups
                if not gone.isdisjoint([part >> KEY_SHIFT for part in key])
            ]
            for key in stale:
                del pipeline.bind_groups[key]
