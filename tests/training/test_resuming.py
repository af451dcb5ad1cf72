import dataclasses

import pytest

from ebm_wgpu.config import apply_overrides
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.training.resuming import CHANGEABLE, REPLACEABLE, check_resumable, differences


def test_length_and_reports_may_change(tiny):
    changed = apply_overrides(
        tiny,
        ["train.steps=99", "train.max_minutes=5", "train.log_every=7", "train.eval_every=11"],
    )
    check_resumable(tiny, changed)
    assert set(differences(tiny, changed)) == {
        "train.steps was 24 and is now 99",
        "train.max_minutes was None and is now 5.0",
        "train.log_every was 3 and is now 7",
        "train.eval_every was 8 and is now 11",
    }
    assert differences(tiny, tiny) == ()
    fields = {f"train.{field.name}" for field in dataclasses.fields(tiny.train)}
    assert fields >= CHANGEABLE
    assert not REPLACEABLE & CHANGEABLE


def test_what_a_model_is_may_not_change(tiny):
    changed = apply_overrides(tiny, ["model.dim=24", "train.steps=99"])
    for check in (check_resumable, differences):
        with pytest.raises(ConfigError, match=r"model\.dim was 16 and is now 24: resume with"):
            check(tiny, changed)


def test_texts_may_have_moved_once_their_content_was_compared(tiny):
    moved = apply_overrides(tiny, ["data.dataset=elsewhere.txt"])
    assert len(differences(tiny, moved)) == 1
    with pytest.raises(ConfigError, match=r"data\.dataset was"):
        check_resumable(tiny, moved)
