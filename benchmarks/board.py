"""The board over many runs in headless Chromium: `python -m benchmarks.board [--runs 2000] [--json]`.

One real run of a few steps is made and copied with other figures. Then: what the server takes to read them all, and
what a browser takes from asking to the first paint and to the whole page, on a board that has just begun and on one
that has read them; each the median of five fresh pages.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.pairs import ROOT
from tests.board import browser

RECIPE = """\
model: nano
task: text-generation
data: {train: "quickstart:train", eval: "quickstart:test", max_length: 128}
keep: ["quickstart:keep"]
train: {batch_tokens: 256}
methods: [{lora: {rank: 4}}]
budget: {steps: 4}
measurement: {rows: 8, drift_sequences: 2, drift_tokens: 16, strengths: [1], few_shot: 0, max_new_tokens: 4}
"""
PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd"
VIEWS = ("/", "/?sort=target", "/compare", "/papers", "/methods")


def make(place: Path, count: int) -> None:
    """`count` runs below a folder: one made, the others its copies with figures of their own."""
    first = place / "run-0000"
    (place.parent / "recipe.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "tunewright", "run", str(place.parent / "recipe.yaml"), "--out", str(first), "-q"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    for folder in ("adapter", "stages"):
        shutil.rmtree(first / folder)
    told = json.loads((first / "report.json").read_text(encoding="utf-8"))
    draw = random.Random(0)
    for i in range(1, count):
        folder = shutil.copytree(first, place / f"run-{i:04}")
        told["target"]["after"]["value"], told["drift"]["value"]["value"] = draw.random(), 2 * draw.random()
        told["trained"]["methods"][0]["name"] = draw.choice(("lora", "hft", "full", "lift", "ist"))
        (folder / "report.json").write_text(json.dumps(told, indent=2), encoding="utf-8")


@contextmanager
def board(place: Path) -> Iterator[str]:
    """The address of a board that has just begun."""
    command = [sys.executable, "-m", "tunewright", "board", place.name, "--port", "0", "--json"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=place.parent, env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = ""
        while not said.endswith("}\n"):
            said += process.stdout.readline()
        yield json.loads(said)["address"].rstrip("/")
    finally:
        process.terminate()
        process.wait()


def opened(chromium: Any, address: str) -> tuple[float, float]:
    """(milliseconds to the first paint, to the whole page) of a fresh page."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(address, wait_until="load")
    page.wait_for_timeout(300)
    out = float(page.evaluate(PAINT)), float(page.evaluate(LOADED))
    context.close()
    return out


def measured(place: Path, rounds: int = 5) -> dict[str, Any]:
    """The figures, in milliseconds."""
    out: dict[str, Any] = {}
    with browser.opened() as chromium:
        opened(chromium, "data:text/html,<p>warm")
        with board(place) as address:
            began = time.perf_counter()
            out["just begun"] = opened(chromium, address + "/")
            count = len(list(place.iterdir()))
            while f"{count:,} runs" not in chromium_text(chromium, address):
                time.sleep(0.05)
            out["all read after"] = 1000 * (time.perf_counter() - began)
            for view in VIEWS:
                each = [opened(chromium, address + view) for _ in range(rounds)]
                out[view] = tuple(statistics.median(column) for column in zip(*each, strict=True))
    return out


def chromium_text(chromium: Any, address: str) -> str:
    page = chromium.new_page()
    page.goto(address, wait_until="domcontentloaded")
    text = page.inner_text("main")
    page.close()
    return str(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "runs"
        place.mkdir()
        make(place, given.runs)
        told = measured(place)
    if given.json:
        print(json.dumps(told, indent=2))
        return
    for name, value in told.items():
        print(
            f"{name:16}" + (f"{value:8.0f} ms" if isinstance(value, float) else "".join(f"{v:8.0f} ms" for v in value))
        )


if __name__ == "__main__":
    main()
