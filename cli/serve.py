"""`ebm serve`: a trained model behind HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import _options

if TYPE_CHECKING:
    from ebm_wgpu.models.energy_transformer_config import StepRule


@click.command("serve")
@_options.checkpoint
@_options.model
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen at; 0 takes a free one.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Texts of a request written side by side.",
)
@click.option(
    "--most-waiting",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Requests that may be under way or wait; more are told to come back.",
)
@_options.think_steps
@_options.think_best_of
@_options.think_rule
@_options.device
def command(
    checkpoint: Path | None,
    family: str | None,
    host: str,
    port: int,
    batch_size: int,
    most_waiting: int,
    think_steps: int | None,
    think_best_of: int | None,
    think_rule: StepRule | None,
    device: str,
) -> None:
    """Serve a trained model over HTTP, until Ctrl-C.

    POST /v1/completions takes what clients of OpenAI's API send, /v1/embeddings and /v1/energies
    place texts on the sphere, and /docs describes all of it. It asks nobody for a password: listen
    at other addresses than this machine's own only where everyone may use it.
    """
    import contextlib
    import socket

    from ebm_wgpu.errors import ConfigError

    try:
        import uvicorn

        from ebm_wgpu.serving.app import create_app
    except ImportError as error:
        raise ConfigError(
            f'serving needs a package that is not installed ({error.name}): pip install "ebm-wgpu'
            '[serve]"'
        ) from error
    from . import _embedding

    run, kernels = _embedding.load(checkpoint, device, family)
    run.model.think(think_steps, think_best_of, think_rule)
    app = create_app(run, kernels, batch_size=batch_size, most_waiting=most_waiting)
    try:
        listener = socket.create_server((host, port))
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {host} port {port} ({error.strerror or error}): choose others with "
            "--host and --port"
        ) from error
    with listener:
        at = listener.getsockname()[1]
        click.echo(f"serving {run.run.path} at http://{host}:{at}, described at /docs", err=True)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
        # Ctrl-C is how it ends.
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
