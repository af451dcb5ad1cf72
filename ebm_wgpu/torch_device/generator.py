"""The source of random numbers: a seed and a counter, from which kernels take Philox streams.

`torch.manual_seed` seeds it; `torch.wgpu.get_rng_state` and `set_rng_state` save and restore it, as
`torch.random.fork_rng` and gradient checkpointing do. It is apart from the processor's generator:
numbers drawn on one do not move the other.
"""

from __future__ import annotations

import struct
import threading

import torch

from ebm_wgpu.errors import DeviceError
from ebm_wgpu.gpu.replay import Drawn

_STATE = struct.Struct("<QQ")
_WORD = (1 << 64) - 1

_lock = threading.Lock()
_seed: int | None = None
_drawn = 0


def seed_all(seed: int) -> None:
    """Begin the stream of a seed."""
    global _seed, _drawn
    with _lock:
        _seed, _drawn = seed & _WORD, 0


def state() -> torch.Tensor:
    """Seed and counter as 16 bytes."""
    with _lock:
        block = _STATE.pack(_current_seed(), _drawn)
    return torch.frombuffer(bytearray(block), dtype=torch.uint8)


def set_state(saved: torch.Tensor) -> None:
    """Continue where a saved state stands.

    Raises:
        DeviceError: it is none of this device.
    """
    global _seed, _drawn
    block = bytes(saved.to("cpu", torch.uint8).tolist())
    if len(block) != _STATE.size:
        raise DeviceError(
            f'a random state of torch.device("wgpu") has {_STATE.size} bytes, not {len(block)}'
        )
    with _lock:
        _seed, _drawn = _STATE.unpack(block)


def _current_seed() -> int:
    global _seed
    if _seed is None:
        _seed = torch.initial_seed() & _WORD
    return _seed


def position() -> tuple[int, int]:
    """The seed, and how many draws were made since it was set."""
    with _lock:
        return _current_seed(), _drawn


def pass_over(draws: int) -> None:
    """Go on as if `draws` draws were made."""
    global _drawn
    with _lock:
        _drawn += draws


def next_draw(generator: torch.Generator | None = None) -> tuple[int, int]:
    """Seed and number (`Drawn`) of the next draw: a Philox stream of its own.

    Args:
        generator: a processor's generator that gives the seed instead.
    """
    global _drawn
    if generator is not None:
        word = torch.empty((), dtype=torch.int64).random_(generator=generator)
        return int(word.item()) & _WORD, 0
    with _lock:
        seed = _current_seed()
        _drawn += 1
        # The kernels' step has 32 bits; what goes beyond them moves the seed.
        return (seed + (_drawn >> 32)) & _WORD, Drawn(_drawn & 0xFFFFFFFF, per_draw=1)
