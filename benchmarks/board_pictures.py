"""The pictures of the board in docs/: `python -m benchmarks.board_pictures [--runs DIR]`.

Small runs of the nano base are really made in DIR (those that are there already are kept; some minutes), one more is
shown while it trains, and headless Chromium takes the pictures.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.board import board
from benchmarks.pairs import ROOT
from tests.board import browser

RECIPE = """\
model: nano
task: text-generation
data: {train: "quickstart:train", eval: "quickstart:test", max_length: 256}
keep: [{data: "quickstart:keep", name: general, limit: 8}]
train: {batch_tokens: 512, learning_rate: 1e-3, eval_steps: 5, threads: 1}
measurement: {rows: 48, max_new_tokens: 12, drift_sequences: 8, drift_tokens: 48, strengths: [1], few_shot: 0}
methods: [lora]
budget: {steps: 40}
"""
RUNS: dict[str, tuple[str, ...]] = {
    "lora": (),
    "lora-rank-4": ("stages.0.methods=[{lora: {rank: 4}}]",),
    "lora-60-steps": ("stages.0.budget.steps=60",),
    "hft-20-steps": ("stages.0.methods=[hft]", "stages.0.budget.steps=20"),
    "full-20-steps": ("stages.0.methods=[full]", "stages.0.budget.steps=20"),
    "lift-20-steps": ("stages.0.methods=[lift]", "stages.0.budget.steps=20"),
}
SIZE = {"width": 1120, "height": 760}


def command(place: Path, name: str, sets: tuple[str, ...]) -> list[str]:
    recipe = place.parent / f"{place.name}.yaml"
    recipe.write_text(RECIPE)
    told = [sys.executable, "-m", "tunewright", "run", str(recipe), "--out", str(place / name), "--quiet"]
    return told + [word for value in sets for word in ("--set", value)]


def make(place: Path) -> None:
    for name, sets in RUNS.items():
        if not (place / name / "report.json").exists():
            shutil.rmtree(place / name, ignore_errors=True)
            subprocess.run(command(place, name, sets), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            print(f"made {name}", flush=True)


def live(place: Path) -> subprocess.Popen[bytes]:
    """A run that trains for as long as the pictures take, once it has logged some steps."""
    folder = place / "now-training"
    shutil.rmtree(folder, ignore_errors=True)
    process = subprocess.Popen(
        command(place, folder.name, ("stages.0.budget.steps=400", "measurement.rows=8")),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    metrics = folder / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text(encoding="utf-8").count("\n") < 30:
        if process.poll() is not None:
            raise RuntimeError("the run that was to be shown live has ended")
        time.sleep(0.2)
    return process


def taken(page: Any, file: Path) -> None:
    page.wait_for_timeout(1500)
    page.screenshot(path=str(file))
    print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB", flush=True)


def picked(page: Any) -> None:
    page.locator("#scatter .dot").nth(2).hover()
    page.wait_for_selector("#picked pre")


PICTURES: dict[str, tuple[str, str, Callable[[Any], None] | None]] = {
    "board-runs": ("/", "light", None),
    "board-compare": ("/compare", "light", picked),
    "board-run": ("/run/lora-60-steps", "dark", None),
    "board-papers": ("/papers", "light", None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("build/board-runs"))
    place = parser.parse_args().runs.resolve()
    place.mkdir(parents=True, exist_ok=True)
    make(place)
    process = live(place)
    try:
        with board(place) as address, browser.opened() as chromium:
            for name, (path, scheme, before) in PICTURES.items():
                context = chromium.new_context(viewport=SIZE, color_scheme=scheme)
                page = context.new_page()
                page.goto(address + path)
                page.wait_for_timeout(2500)
                if before is not None:
                    before(page)
                taken(page, ROOT / "docs" / f"{name}.png")
                context.close()
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(place / "now-training", ignore_errors=True)


if __name__ == "__main__":
    main()
