"""Functions of tensors whose kernels are recorded once and then launched without Python.

A training step asks the device for the same launches each time, and on a fast GPU working out which
they are takes longer than running them. `Replayed` does it twice, compares, and from then on only
launches: what `torch.cuda.make_graphed_callables` is to CUDA.

    step = Replayed(lambda tokens: loss_and_backward(model, tokens), list(model.parameters()))
    for tokens in batches:
        loss = step(tokens)   # and every parameter has its gradient
        optimizer.step()
        optimizer.zero_grad()
"""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch.utils import _pytree as pytree

from ebm_wgpu.errors import DeviceError
from ebm_wgpu.gpu.replay import Replay, Trace
from ebm_wgpu.torch_device import generator, state
from ebm_wgpu.torch_device.copies import copy_from
from ebm_wgpu.torch_device.tensors import empty, is_device_tensor, memory

REPLAY_VARIABLE = "EBM_WGPU_REPLAY"
"""Environment variable: 0 has every call run its function."""
MAX_TRIES = 16
"""Calls with inputs of the same shapes after which no more are noted down."""
LOOK_BACK = 4
"""Calls whose memory is compared: what a caller keeps of one moves that of the next."""
MAX_SHAPES = 2
"""Combinations of shapes for which something is kept; the one not used for longest goes first."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Recording(Generic[Result]):
    """A call to be done again.

    Attributes:
        replay: its launches.
        result: the tensors that they write.
        gradients: those of the parameters, likewise.
        written: all tensors among the result and the gradients.
        places: where the parameters were.
        begins: seed and number of draws when the call began.
        draws: how many it made.
    """

    replay: Replay
    result: Result
    gradients: list[torch.Tensor | None]
    written: list[torch.Tensor]
    places: tuple[int, ...]
    begins: tuple[int, int]
    draws: int

    def fits(self, places: tuple[int, ...]) -> bool:
        """Whether its launches still do what the function would."""
        seed, drawn = generator.position()
        return (
            bool(self.replay.launches)
            and self.places == places
            and self.begins[0] == seed
            and drawn + self.draws < 1 << 32
        )


@dataclass
class _Shapes(Generic[Result]):
    """What is known of calls with inputs of some shapes.

    Attributes:
        inputs: where their values are put.
        before: the last calls that were not kept, and how many draws had been made at each.
        recording: what was kept.
        tries: calls that were noted down.
    """

    inputs: list[torch.Tensor]
    before: deque[tuple[Trace, int]] = field(default_factory=lambda: deque(maxlen=LOOK_BACK))
    recording: _Recording[Result] | None = None
    tries: int = 0


class Replayed(Generic[Result]):
    """A function of tensors; calls after the first few launch what it launched, and no more.

    Two calls in a row must have launched the same kernels with the same numbers, but for what
    counts random draws, on the same memory as one of the last calls, and must have left nothing in
    new memory but result and gradients. From then on only values may differ from call to call:
    those of the inputs, of the parameters, and of other tensors that are written where they stand.
    A function must therefore do the same whatever it is given; one that reads values back, or
    copies some to the device, is run each time, and so is one that never does the same twice.
    Random numbers follow torch's random state as they would without. Memory that the launches use
    is held, until the device runs out of memory.

    Attributes:
        replays: calls that launched what was kept.
        obstacle: why the last call was not kept, or none.
    """

    def __init__(
        self,
        function: Callable[..., Result],
        parameters: Sequence[torch.Tensor] = (),
    ) -> None:
        """Wrap a function.

        Args:
            function: takes tensors of the device, and returns tensors without gradient, in lists,
                tuples or dictionaries with whatever else; may leave gradients in `parameters`.
            parameters: tensors of the device whose gradients it computes anew.
        """
        self._function = function
        self._parameters = list(parameters)
        self._known: OrderedDict[tuple[Any, ...], _Shapes[Result]] = OrderedDict()
        self._allowed = os.environ.get(REPLAY_VARIABLE) != "0"
        self.replays = 0
        self.obstacle = "" if self._allowed else f"{REPLAY_VARIABLE}=0"

    def __call__(self, *inputs: torch.Tensor) -> Result:
        """The function of the inputs, which may be in main memory.

        The result and the gradients are the same tensors each time once calls are replayed, with
        new values: read or copy what is to last.

        Raises:
            DeviceError: a result that requires its gradient, which nothing could compute later.
        """
        shapes = self._shapes_of(inputs)
        for place, values in zip(shapes.inputs, inputs, strict=True):
            copy_from(values.detach(), place)
        recording = shapes.recording
        places = tuple([memory(parameter).key for parameter in self._parameters])
        fresh = all(parameter.grad is None for parameter in self._parameters)
        if recording is not None and fresh and recording.fits(places):
            return self._replay(recording)
        if not self._allowed or not fresh or shapes.tries >= MAX_TRIES:
            return self._function(*shapes.inputs)
        shapes.recording = None
        return self._record(shapes, places)

    def _shapes_of(self, inputs: Sequence[torch.Tensor]) -> _Shapes[Result]:
        key = tuple([(tensor.shape, tensor.dtype) for tensor in inputs])
        known = self._known.get(key)
        if known is None:
            if len(self._known) == MAX_SHAPES:
                self._known.popitem(last=False)
            known = _Shapes([empty(tensor.shape, tensor.dtype) for tensor in inputs])
            self._known[key] = known
        self._known.move_to_end(key)
        return known

    def _replay(self, recording: _Recording[Result]) -> Result:
        draws = generator.position()[1] - recording.begins[1]
        state.device().runtime.replay(recording.replay, draws)
        generator.pass_over(recording.draws)
        for parameter, gradient in zip(self._parameters, recording.gradients, strict=True):
            parameter.grad = gradient
        torch.autograd.graph.increment_version(recording.written)
        self.replays += 1
        return recording.result

    def _record(self, shapes: _Shapes[Result], places: tuple[int, ...]) -> Result:
        runtime, begins = state.device().runtime, generator.position()
        shapes.tries += 1
        with runtime.trace() as trace:
            result = self._function(*shapes.inputs)
        seed, drawn = generator.position()
        _check_detached(result)
        if seed != begins[0] or drawn < begins[1]:
            trace.obstacles.append("the random seed was set")
        self.obstacle = "; ".join(sorted(set(trace.obstacles)))
        if self.obstacle:
            return result
        earlier = [then for then, _ in shapes.before]
        if not all(trace.is_like(then, begins[1] - draws) for then, draws in shapes.before):
            shapes.before.clear()
        shapes.before.append((trace, begins[1]))
        if len(shapes.before) == 1:
            self.obstacle = "it has not launched the same twice in a row"
            return result
        if not any(trace.lies_like(then) for then in earlier):
            self.obstacle = "it has not used the same memory again"
            return result
        gradients = [parameter.grad for parameter in self._parameters]
        written = _tensors((result, gradients))
        if trace.leaves_behind([memory(tensor) for tensor in written]):
            self.obstacle = "it leaves values behind beside its result"
            return result
        replay = runtime.keep(trace)
        if replay is None:
            self.obstacle = "memory has gone to others"
            return result
        shapes.recording = _Recording(
            replay, result, gradients, written, places, begins, drawn - begins[1]
        )
        shapes.before.clear()
        shapes.tries = 0
        return result


def _tensors(values: Any) -> list[torch.Tensor]:
    """The tensors of the device in nested lists, tuples and dictionaries."""
    return [leaf for leaf in pytree.tree_leaves(values) if is_device_tensor(leaf)]


def _check_detached(result: Any) -> None:
    if any(tensor.requires_grad for tensor in _tensors(result)):
        raise DeviceError(
            "a replayed function returned a tensor that requires its gradient: run the backward "
            "pass inside it, and return detached tensors"
        )
