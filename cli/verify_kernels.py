"""`ebm verify-kernels`: prove every kernel on every device at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from . import _options

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ebm_wgpu.kernels import KernelDevice
    from ebm_wgpu.kernels.speed import Speed
    from ebm_wgpu.kernels.verify import Verdict


def _open_devices(name: str) -> tuple[list[KernelDevice], str]:
    """The devices to prove, and why the GPU side is missing if it is."""
    from ebm_wgpu.errors import DeviceError
    from ebm_wgpu.kernels import open_device

    if name != "all":
        return [open_device(name)], ""
    mirrors = open_device("numba")
    try:
        return [open_device("wgpu"), mirrors], ""
    except DeviceError as error:
        return [mirrors], f"the GPU side was not run: {error}"


def _print_verdicts(verdicts: Iterable[Verdict]) -> None:
    from rich.console import Console
    from rich.table import Table

    rows: dict[tuple[str, str, str], list[Verdict]] = {}
    for verdict in verdicts:
        rows.setdefault((verdict.kernel, verdict.case, verdict.mode), []).append(verdict)
    table = Table(box=None, header_style="bold")
    for title in ("kernel", "case", "proof"):
        table.add_column(title, overflow="fold")
    for title in ("error wgpu", "error mirror"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("tolerance", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    misses = []
    for (kernel, case, mode), group in rows.items():
        gpu = [v.error for v in group if v.subject.split()[0] == "wgpu"]
        mirror = [v.error for v in group if v.subject.split()[0] == "numba"]
        missed = [v for v in group if not v.passed]
        table.add_row(
            kernel,
            case,
            mode,
            f"{max(gpu):.1e}" if gpu else "not run",
            f"{max(mirror):.1e}" if mirror else "not run",
            max(group, key=lambda v: v.excess).tolerance,
            "[red]MISS[/]" if missed else "[green]ok[/]",
        )
        for verdict in missed:
            reason = verdict.detail or f"{verdict.excess:.3g} times the tolerance"
            misses.append(f"MISS {kernel}, {case}, {mode}, {verdict.subject}: {reason}")
    Console(width=None if _is_terminal() else 160).print(table)
    for line in misses:
        click.echo(line)


def _is_terminal() -> bool:
    import sys

    return sys.stdout.isatty()


def _print_speeds(speeds: Iterable[Speed]) -> None:
    click.echo(
        f"{'kernel':28} {'device':6} {'ms':>10} {'GB/s':>8} {'GFLOP/s':>9} {'of copy':>8} "
        f"{'of FMA':>8}  shape"
    )
    for s in speeds:
        shape = " ".join(f"{name}={size}" for name, size in s.dims.items())
        click.echo(
            f"{s.kernel:28} {s.device:6} {s.seconds * 1e3:10.3f} {s.gigabytes_per_second:8.2f} "
            f"{s.gflops:9.2f} {s.share_of_copy:8.1%} {s.share_of_fma:8.1%}  {shape}"
        )


@click.command("verify-kernels")
@click.option("--kernel", "kernels", multiple=True, help="Only this kernel; may be repeated.")
@click.option(
    "--device",
    default="all",
    show_default=True,
    metavar="all|auto|wgpu|vulkan|numba|cpu",
    help="all proves the mirrors, and the WGSL on the best adapter, software ones included.",
)
@click.option(
    "--mode",
    type=click.Choice(["parity", "gradient", "speed"]),
    multiple=True,
    help="What to do; may be repeated. [default: parity and gradient]",
)
@click.option("--list", "only_list", is_flag=True, help="Print the kernels' names and stop.")
@_options.as_json
def command(
    kernels: tuple[str, ...], device: str, mode: tuple[str, ...], only_list: bool, as_json: bool
) -> None:
    """Prove each kernel: WGSL and Numba mirror against float64, and against each other.

    Exits with status 1 if any error exceeds its stated tolerance.
    """
    import dataclasses
    import json

    from rich.console import Console
    from rich.progress import track

    from ebm_wgpu.kernels import get_kernel, kernel_names
    from ebm_wgpu.kernels.speed import measure_speed
    from ebm_wgpu.kernels.verify import verify_gradient, verify_parity

    if only_list:
        click.echo("\n".join(kernel_names()))
        return
    stems = tuple(get_kernel(stem).stem for stem in kernels) or kernel_names()
    modes = mode or ("parity", "gradient")
    devices, problem = _open_devices(device)
    proofs = {"parity": verify_parity, "gradient": verify_gradient}
    verdicts: list[Verdict] = []
    work = [(prove, stem) for name, prove in proofs.items() if name in modes for stem in stems]
    progress = Console(stderr=True)
    for prove, stem in track(work, "proving", console=progress, transient=True):
        verdicts += prove(stem, devices)
    speeds = [s for d in devices if "speed" in modes for s in measure_speed(d, stems)]
    missed = sum(not v.passed for v in verdicts)
    if as_json:
        record = {
            "devices": {d.name: d.description for d in devices},
            "problem": problem,
            "passed": missed == 0,
            "verdicts": [{**dataclasses.asdict(v), "passed": v.passed} for v in verdicts],
            "speeds": [dataclasses.asdict(s) for s in speeds],
        }
        click.echo(json.dumps(record, indent=1))
    else:
        for opened in devices:
            click.echo(f"{opened.name}: {opened.description}")
        if verdicts:
            _print_verdicts(verdicts)
            proven = len({v.kernel for v in verdicts})
            click.echo(f"{len(verdicts)} checks of {proven} kernels, {missed} missed")
        if speeds:
            _print_speeds(speeds)
        if problem:
            click.echo(problem)
    if missed:
        raise SystemExit(1)
