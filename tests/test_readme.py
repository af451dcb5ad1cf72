"""The README's own code runs, its commands and options exist, and its files are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from ebm_wgpu.cli import main
from ebm_wgpu.config import apply_overrides
from ebm_wgpu.presets import preset

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = sorted(set(re.findall(r"^ {4}ebm (.+?)(?:\s+#.*)?$", README, re.MULTILINE)))


@pytest.mark.parametrize("code", PYTHON)
def test_python_runs(code: str) -> None:
    exec(compile(code, "README.md", "exec"), {})


def _leaf(words: list[str]) -> tuple[click.Command, list[str]]:
    context = click.Context(main)
    command: click.Command = main
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, words
        command, words = found, words[1:]
    return command, words


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_and_options_exist(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command, words = _leaf(shlex.split(line))
    # Paths in examples need not exist; everything else must parse.
    for parameter in command.params:
        if isinstance(parameter.type, click.Path):
            monkeypatch.setattr(parameter, "type", click.Path())
    context = command.make_context("ebm", list(words), resilient_parsing=False)
    overrides = context.params.get("overrides", ())
    apply_overrides(preset(context.params.get("config_name") or "small"), overrides)


def test_commands_were_found() -> None:
    assert len(PYTHON) >= 1
    assert len(COMMANDS) >= 10


def test_files_and_targets_exist() -> None:
    for path in re.findall(r"`((?:\w+/)+(?:\w+\.\w+)?)`", README):
        assert (ROOT / path).exists(), path
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake (\w+)", README)) - {"and"}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
