"""Commands recorded into one compute pass, to be submitted together."""

from __future__ import annotations

from typing import Any

from ebm_wgpu.errors import DeviceError


class Recording:
    """An open command encoder with one compute pass.

    Dispatches call wgpu-native's C functions as wgpu-py does, without the error scope that wgpu-py
    puts around each call and that costs more than the call: wgpu-native reports what is wrong with
    a pass when its encoder is finished, which `submit` does in such a scope.

    Attributes:
        serial: unique number of this recording, above all earlier ones.
        dispatches: how many dispatches it holds.
    """

    __slots__ = ("_encoder", "_library", "_none", "_pass", "_pipeline", "dispatches", "serial")

    def __init__(self, device: Any, serial: int, timestamps: Any = None) -> None:
        """Begin to record.

        Args:
            device: the wgpu device.
            serial: number of the recording.
            timestamps: where the pass writes its times, as wgpu's `begin_compute_pass` takes it.
        """
        from wgpu.backends.wgpu_native._ffi import ffi, lib

        self._library = lib
        self._none = ffi.NULL
        self._encoder = device.create_command_encoder()
        self._pass = self._encoder.begin_compute_pass(timestamp_writes=timestamps)
        self._pipeline: Any = None
        self.serial = serial
        self.dispatches = 0

    def dispatch(
        self, pipeline: Any, group: Any, immediates: bytes, x: int, y: int, z: int
    ) -> None:
        """Record one dispatch of x by y by z workgroups.

        Args:
            pipeline: wgpu pipeline.
            group: wgpu bind group of its group 0.
            immediates: the parameter block.
        """
        library, handle = self._library, self._pass._internal
        if self._pipeline is not pipeline:
            library.wgpuComputePassEncoderSetPipeline(handle, pipeline._internal)
            self._pipeline = pipeline
        library.wgpuComputePassEncoderSetBindGroup(handle, 0, group._internal, 0, self._none)
        if immediates:
            library.wgpuComputePassEncoderSetImmediates(handle, 0, immediates, len(immediates))
        library.wgpuComputePassEncoderDispatchWorkgroups(handle, x, y, z)
        self.dispatches += 1

    def submit(self, queue: Any) -> None:
        """Hand everything recorded to the device, which runs it in order.

        Raises:
            DeviceError: wgpu refuses the commands; none of them runs.
        """
        import wgpu

        try:
            self._pass.end()
            queue.submit([self._encoder.finish()])
        except wgpu.GPUError as error:
            words = " ".join(str(error).split())
            raise DeviceError(
                f"the adapter refused {self.dispatches} recorded commands ({words}): this is a bug "
                "of ebm-wgpu or of the driver; report it, or use --device numba"
            ) from error
