import functools
import os
import signal
import threading

import numba
import numpy as np
import pytest
import torch

from ebm_wgpu.training.interrupts import Interrupts, deterministic_torch

HANGUP = getattr(signal, "SIGHUP", signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, HANGUP])
def test_the_first_signal_is_a_request(number, request):
    # Whoever runs the tests may ignore hangups, as nohup does.
    request.addfinalizer(functools.partial(signal.signal, number, signal.getsignal(number)))
    if number == HANGUP:
        signal.signal(number, signal.SIG_DFL)
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        assert not interrupts.requested
        os.kill(os.getpid(), number)
        assert interrupts.requested
        assert signal.getsignal(number) is before
    assert signal.getsignal(number) is before


def test_the_second_signal_acts_as_ever():
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.requested
        os.kill(os.getpid(), signal.SIGINT)


def test_a_hangup_that_is_ignored_stays_ignored():
    before = signal.signal(HANGUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), HANGUP)
            assert not interrupts.requested
    finally:
        signal.signal(HANGUP, before)


def test_handlers_come_back_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="x"), Interrupts():
        raise ValueError("x")
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_watch_nothing():
    seen = []

    def work():
        with Interrupts() as interrupts:
            seen.append((interrupts.requested, signal.getsignal(signal.SIGINT)))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


@numba.njit(parallel=True)
def _count(n: int) -> np.ndarray:
    out = np.empty(n)
    for i in numba.prange(n):
        out[i] = i
    return out


def test_torch_is_deterministic_inside_and_as_before_outside():
    threads = torch.get_num_threads()
    with deterministic_torch():
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
        _count(4)
        assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
