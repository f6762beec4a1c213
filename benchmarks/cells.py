"""Benchmarks of many cells: each is kept in a JSON file as soon as it is done and not run again, and a page is written
from that file alone.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

Cell = dict[str, Any]


def known(results: Path) -> dict[str, Cell]:
    """Finished cells by "place name"."""
    if not results.exists():
        return {}
    found: dict[str, Cell] = json.loads(results.read_text(encoding="utf-8"))
    return found


def targets_of(arm: Any) -> Cell:
    """What is kept of an arm of a comparison, whatever is compared."""
    runs = sorted(arm.finished, key=lambda r: r.seed)
    return {
        "rate": arm.rate,
        "rate_at_edge": arm.rate_at_edge,
        "targets": [r.target for r in runs],
        "train_seconds": arm.train_seconds,
        "setup_seconds": arm.setup_seconds,
        "flops_per_token": arm.flops_per_token,
    }


def main(
    told: str | None,
    words: tuple[str, str],
    results: Path,
    page: tuple[Path, Callable[[Mapping[str, Cell]], str]],
    cells: Iterable[tuple[Any, str]],
    run_cell: Callable[[Any, str, Path, Path], Cell],
) -> None:
    """The command line. `words`: what a cell's place and name are called; `page`: the file and what writes it."""
    place, name = words
    parser = argparse.ArgumentParser(description=told, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder of data sets (default: TUNEWRIGHT_DATA)")
    parser.add_argument("--work", type=Path, default=Path("build") / results.stem, help="where runs are kept")
    parser.add_argument("--minutes", type=float, help="begin no cell later than this")
    parser.add_argument("--only", help=f"one {place}")
    parser.add_argument(f"--{name}", dest="name", help=f"one {name}")
    parser.add_argument("--page", action="store_true", help=f"write docs/{page[0].name} from the results alone")
    options = parser.parse_args()
    if not options.page:
        wanted = [c for c in cells if options.only in (None, c[0].name) and options.name in (None, c[1])]
        _run(wanted, results, run_cell, options)
    page[0].write_text(page[1](known(results)), encoding="utf-8")


def _run(
    wanted: Iterable[tuple[Any, str]],
    results: Path,
    run_cell: Callable[[Any, str, Path, Path], Cell],
    options: argparse.Namespace,
) -> None:
    source = options.data or Path(os.environ["TUNEWRIGHT_DATA"])
    until = time.monotonic() + 60 * options.minutes if options.minutes else None
    for place, name in wanted:
        key = f"{place.name} {name}"
        if key in known(results):
            continue
        if until is not None and time.monotonic() >= until:
            return
        cell = run_cell(place, name, source, (options.work / place.name).resolve())
        results.write_text(json.dumps({**known(results), key: cell}, indent=1) + "\n", encoding="utf-8")
        told = cell.get("refused") or f"{cell['figures']['targets']} at {cell['figures']['rate']:.3g}"
        print(f"{key}: {told} ({cell.get('seconds', 0)} s)", flush=True)
