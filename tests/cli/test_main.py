"""The group: every command is found, its help loads nothing heavy, errors are one line."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from ebm_wgpu.cli import main
from ebm_wgpu.errors import DataError

COMMANDS = main.list_commands(None)  # type: ignore[arg-type]


def test_help_names_every_command_with_its_purpose() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for name in COMMANDS:
        assert name in result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith("Usage:")


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom click.testing import CliRunner\nfrom ebm_wgpu.cli import main\n"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'numba', 'wgpu', 'numpy', 'scipy', 'rich', 'transformers', 'h5py'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_a_users_error_is_one_line_and_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise DataError("corpus x.txt is empty:\n  give a longer one")

    monkeypatch.setattr(main.get_command(None, "devices"), "callback", lambda **_: fail())  # type: ignore[arg-type]
    result = CliRunner().invoke(main, ["devices"])
    assert result.exit_code == 1
    assert result.output == "Error: corpus x.txt is empty: give a longer one\n"


def test_unknown_command_is_a_usage_error() -> None:
    result = CliRunner().invoke(main, ["trian"])
    assert result.exit_code == 2
    assert "No such command 'trian'" in result.output
