"""Writing reports and pictures to where the user wants them."""

from __future__ import annotations

from pathlib import Path

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.files import write_atomically


def write_report(path: Path, content: bytes) -> None:
    """Make `content` the whole of `path`, which is replaced whole or not at all.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        write_atomically(path.expanduser(), content)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error.strerror}): choose another place"
        ) from error
