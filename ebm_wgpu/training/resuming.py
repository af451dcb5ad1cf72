"""Whether a run may go on with another configuration than it was started with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from ebm_wgpu.config import OPTIONS, Config
from ebm_wgpu.errors import ConfigError

CHANGEABLE = frozenset(
    f"train.{name}"
    for name in (
        "steps",
        "max_minutes",
        "eval_every",
        "eval_tokens",
        "patience",
        "checkpoint_every",
        "keep_last",
        "keep_best",
        "log_every",
        "report",
        "device",
    )
)
"""What may differ when a run is resumed: its length, its reports, and the device it computes on."""


REPLACEABLE = frozenset({"data.dataset", "data.data_dir", "data.valid_path"})
"""Where texts are: what they hold is compared by other means."""


def differences(before: Config, now: Config) -> tuple[str, ...]:
    """Sentences that say which options have another value now.

    Raises:
        ConfigError: one of them is neither in `CHANGEABLE` nor in `REPLACEABLE`.
    """
    check_resumable(before, now, CHANGEABLE | REPLACEABLE)
    return tuple(
        f"{key} was {was} and is now {is_now}" for key, was, is_now in _changed(before, now)
    )


def check_resumable(before: Config, now: Config, changeable: frozenset[str] = CHANGEABLE) -> None:
    """Compare the configuration a run was started with and the one it is to go on with.

    Raises:
        ConfigError: a key outside `changeable` differs.
    """
    for key, was, is_now in _changed(before, now):
        if key not in changeable:
            raise ConfigError(
                f"{key} was {was} and is now {is_now}: resume with the old value, or start "
                f"a new run; only {', '.join(sorted(CHANGEABLE))} may change"
            )


def _changed(before: Config, now: Config) -> Iterator[tuple[str, Any, Any]]:
    old, new = asdict(before), asdict(now)
    for option in OPTIONS.values():
        was, is_now = old[option.section][option.name], new[option.section][option.name]
        if was != is_now:
            yield option.key, was, is_now
