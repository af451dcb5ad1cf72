from pathlib import Path

from ebm_wgpu.training.callbacks import CallbackList, TrainerCallback, TrainResult

RESULT = TrainResult("finished", 3, 1.0, Path("c"), 3, None, None)


class Named(TrainerCallback):
    def __init__(self, name, told):
        self.name, self.told = name, told

    def on_checkpoint(self, step, path, best):
        self.told.append((self.name, step, path, best))

    def on_end(self, result):
        self.told.append((self.name, result))


def test_all_are_told_in_order():
    told = []
    callbacks = CallbackList(Named(name, told) for name in "ab")
    callbacks.on_checkpoint(3, Path("c"), True)
    callbacks.on_end(RESULT)
    assert told == [
        ("a", 3, Path("c"), True),
        ("b", 3, Path("c"), True),
        ("a", RESULT),
        ("b", RESULT),
    ]


def test_a_callback_may_leave_events_out():
    TrainerCallback().on_end(RESULT)
    CallbackList([TrainerCallback()]).on_eval(0, None)
