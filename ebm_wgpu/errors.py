"""Errors a user can act on: each message names the value, the place and the remedy.

The command line prints these as one line and exits with status 1; anything else is a defect and
keeps its traceback.
"""


class EbmError(Exception):
    """Base of every error that bad input, a bad file or a missing device can cause."""


class ConfigError(EbmError):
    """A preset, override or argument that does not exist or is out of range."""


class DataError(EbmError):
    """A corpus, tokenizer or vocabulary that is missing, empty, binary or inconsistent."""


class StoreError(EbmError):
    """A splat file that is truncated, altered, of another version or holds invalid values."""


class CheckpointError(EbmError):
    """A run folder or checkpoint that is missing, incomplete or of another shape."""


class DeviceError(EbmError):
    """No usable adapter, or an adapter that lacks what a kernel needs."""


class KernelError(EbmError):
    """A kernel called with arrays or parameters that do not match its declaration."""
