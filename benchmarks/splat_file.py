"""A file of a million splats: seconds and peak memory to open, list, search and verify it.

The file is written by another process, so that the memory measured is that of reading alone. Its
directions, weights and ages are random. The search is exact: ten nearest of one splat.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from _common import Claim, parse_arguments, print_table, write_result

from ebm_wgpu.splats import hdf5
from ebm_wgpu.splats.inspection import nearest, ranked, summarize
from ebm_wgpu.splats.splat_file import SplatFile
from ebm_wgpu.splats.store import SplatColumns

ROWS = 8192
MOST_MEGABYTES = 400.0


def write(path: Path, count: int, dimension: int) -> None:
    """Write a file of random splats, block by block."""
    rng = np.random.default_rng(0)

    def blocks() -> Iterator[np.ndarray]:
        for first in range(0, count, ROWS):
            block = rng.standard_normal((min(ROWS, count - first), dimension), np.float32)
            yield block / np.linalg.norm(block, axis=1, keepdims=True)

    columns = SplatColumns(
        alpha=rng.uniform(0.5, 2, count).astype(np.float32),
        kappa=rng.uniform(1, 50, count).astype(np.float32),
        sid=rng.integers(0, 50_000, count),
        frequency=rng.random(count) / count,
        age=rng.integers(0, 1000, count),
        width=dimension,
    )
    hdf5.write_rows(path, columns, blocks())


def main() -> None:
    arguments = parse_arguments("splat_file", __doc__, splats=1_000_000, dimension=640)
    rows: list[dict[str, str | float]] = []

    def timed(step: str, function: Callable[[], object]) -> None:
        wall, processor = time.perf_counter(), time.process_time()
        function()
        rows.append(
            {
                "step": step,
                "seconds": time.perf_counter() - wall,
                "core seconds": time.process_time() - processor,
                "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "splats.h5"
        sizes = (path, arguments.splats, arguments.dimension)
        writer = multiprocessing.get_context("spawn").Process(target=write, args=sizes)
        writer.start()
        writer.join()
        opened: list[SplatFile] = []
        with contextlib.ExitStack() as stack:
            timed("open", lambda: opened.append(stack.enter_context(SplatFile(path))))
            (file,) = opened
            query = file.rows([arguments.splats // 2])
            timed("list", lambda: ranked(file.columns, "usage")[:20])
            timed("search", lambda: nearest(file, query, 10))
            timed("verify", lambda: summarize(file))
        size = path.stat().st_size
    print_table(f"{arguments.splats:,} x {arguments.dimension} splats, {size / 1e9:.2f} GB", rows)
    payload = {
        "splats": arguments.splats,
        "dimension": arguments.dimension,
        "file_bytes": size,
        "rows": rows,
    }
    peak = max(float(row["peak MB"]) for row in rows)
    claim = Claim("peak memory", peak, MOST_MEGABYTES, "MB", at_most=True)
    write_result("splat_file", payload, claims=[claim], output=arguments.output)


if __name__ == "__main__":
    main()
