"""`ebm devices`: adapters, what they can do, and which one `--device auto` takes."""

from __future__ import annotations

import click

from . import _options

_SHOWN_FEATURES = ("shader-f16", "subgroup", "timestamp-query")
_SHOWN_LIMITS = {
    "max-storage-buffer-binding-size": "largest binding",
    "max-buffer-size": "largest buffer",
    "max-compute-workgroup-storage-size": "workgroup memory",
}


@click.command("devices")
@_options.as_json
def command(as_json: bool) -> None:
    """List GPU adapters, their limits and features, and the automatic choice."""
    import dataclasses
    import json

    from ebm_wgpu.errors import DeviceError
    from ebm_wgpu.gpu.adapters import AdapterInfo, list_adapters
    from ebm_wgpu.kernels import open_device

    adapters: list[AdapterInfo]
    try:
        adapters, problem = list_adapters(), ""
    except DeviceError as error:
        adapters, problem = [], str(error)
    choice = open_device("auto")
    if as_json:
        record = {
            "adapters": [dataclasses.asdict(info) for info in adapters],
            "auto": {"device": choice.name, "description": choice.description},
            "problem": problem,
        }
        click.echo(json.dumps(record, indent=2, default=dict))
        return
    for info in adapters:
        click.echo(info.summary + (f": unusable, lacks {info.lacks}" if info.lacks else ""))
        features = [f for f in _SHOWN_FEATURES if f in info.features]
        click.echo(f"  features: {', '.join(features) or 'none of ' + ', '.join(_SHOWN_FEATURES)}")
        for limit, label in _SHOWN_LIMITS.items():
            click.echo(f"  {label}: {info.limits[limit]:,} bytes")
    if not adapters:
        from ebm_wgpu.gpu.adapters import INSTALL_HINT

        click.echo(problem or f"no GPU adapter was found; {INSTALL_HINT}")
    click.echo(f"auto: {choice.name}, {choice.description}")
