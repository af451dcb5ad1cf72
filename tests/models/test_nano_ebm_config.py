"""NanoEBMConfig: the options of the section `nano` and their bounds."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.models.nano_ebm_config import NanoEBMConfig, System2Config


def test_the_options_of_system_2_come_first() -> None:
    names = [entry.name for entry in fields(NanoEBMConfig)]
    thinking = [entry.name for entry in fields(System2Config)]
    assert names[: len(thinking)] == thinking
    assert len(names) > len(thinking)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"think_steps": -1}, "nano.think_steps=-1 must be >= 0"),
        ({"step_size": 0.0}, "nano.step_size=0.0 must be > 0"),
        ({"infonce_negatives": 0}, "nano.infonce_negatives=0 must be >= 1"),
        ({"tokens": "firm"}, "nano.tokens='firm' must be soft or hard"),
    ],
)
def test_what_is_out_of_range_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NanoEBMConfig(**given)
