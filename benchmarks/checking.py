"""Checking data: `python -m benchmarks.checking [--against CHECKOUT] [--json]`.

Chat rows of about 65 tokens (the shipped base `nano`), drawn from a list of words, and documents of about 4,000
characters. Each check is a process of its own, on one core, with an empty cache: figures are CPU seconds from the
recipe to the verdict, without start-up, and peak memory with it; of figures of several rounds, the median, the least
and the most. Beside them, in the same process, what the JSON library and the tokenizer alone take for the file's first
4,096 rows, by the same window. `--against`: a checkout of another version, run in turn on the same file. `--rows` and
`--gigabytes`: the large file of each kind, checked once by this version; `small` is a check of eight rows, whose memory
is what it begins with.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import machine
from benchmarks.pairs import ROOT

WORDS = (
    "the card lost fee cash rate account please how why when money transfer payment top up pending refund cancel app "
    "phone number address change verify identity pin blocked exchange currency foreign abroad travel atm withdraw "
    "charge twice wrong amount statement balance help need want can could would"
).split()
WORKER = """
import json, os, resource, sys, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from tunewright.planning.check import check_recipe
def recipe(path):
    about = {"model": "nano", "task": "text-generation", "methods": ["lora"], "budget": {"steps": 1}}
    return {**about, "data": {"train": path}}
check_recipe(recipe(sys.argv[2]))
began, wall = time.process_time(), time.perf_counter()
report = check_recipe(recipe(sys.argv[1])).report
seconds, wall = time.process_time() - began, time.perf_counter() - wall
counts, peak = report.sources[0].counts, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
figures = {"rows": counts["read"], "tokens": counts["tokens"], "peak_mb": peak, "ok": report.ok}
from itertools import islice
from transformers import AutoTokenizer
import tunewright.claims.lab.bases as bases
tokenizer = AutoTokenizer.from_pretrained(bases.__path__[0] + "/nano")
def cost(made, *, over):
    began = time.process_time()
    out = [made(lines) for lines in over]
    return out, (time.process_time() - began) / sum(map(len, over))
with open(sys.argv[1]) as f:
    lines = list(islice(f, 4096))
windows = [lines[i : i + 512] for i in range(0, len(lines), 512)]
rows, figures["json"] = cost(lambda some: [json.loads(line) for line in some], over=windows)
said = lambda row: " ".join(t["content"] for t in row["messages"]) if "messages" in row else row["text"]
texts = [[said(row) for row in some] for some in rows]
batch = tokenizer.backend_tokenizer.encode_batch_fast
_, figures["tokenizer"] = cost(lambda some: [e.ids for e in batch(some, add_special_tokens=False)], over=texts)
print(json.dumps({"seconds": seconds, "wall": wall, **figures}))
"""


def write(path: Path, *, rows: int | None = None, size: float = 0, chat: bool = True) -> Path:
    """A file of `rows` rows, or of `size` bytes; equal for equal arguments."""
    draw, written, i = random.Random(0), 0, 0
    with path.open("w", encoding="utf-8") as f:
        while i < rows if rows is not None else written < size:
            row: dict[str, Any] = {"text": _words(draw, 700) + "."}
            if chat:
                asked, said = _words(draw, draw.randint(8, 20)), _words(draw, draw.randint(8, 24))
                row = {
                    "messages": [{"role": "user", "content": f"{asked} {i}?"}, {"role": "assistant", "content": said}]
                }
            written += f.write(json.dumps(row) + "\n")
            i += 1
    return path


def _words(draw: random.Random, count: int) -> str:
    return " ".join(draw.choices(WORDS, k=count))


def check(file: Path, small: Path, checkout: Path = ROOT) -> dict[str, Any]:
    """One check of a file in a process of its own, after one of a small file."""
    with tempfile.TemporaryDirectory(prefix="tunewright-bench-") as cache:
        environment = {**os.environ, "PYTHONPATH": str(checkout), "TUNEWRIGHT_CACHE": cache, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", WORKER, str(file), str(small)]
        done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the check failed:\n{done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    figures["times_the_tokenizer"] = round(figures["seconds"] / figures["rows"] / figures["tokenizer"], 2)
    return figures


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    with tempfile.TemporaryDirectory(prefix="tunewright-bench-") as folder:
        here = Path(folder)
        small, file = write(here / "small.jsonl", rows=8), write(here / "rows.jsonl", rows=options.sample)
        sides = {"this": ROOT, **({"against": options.against.resolve()} if options.against else {})}
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
        for k in range(options.rounds):
            for name in list(sides)[:: 1 if k % 2 == 0 else -1]:
                runs[name].append(check(file, small, sides[name]))
        out: dict[str, Any] = {"machine": machine.processor(), "sample": options.sample, "runs": runs}
        for name, figures in runs.items():
            out[name] = {
                "us_a_row": _spread([x["seconds"] / x["rows"] * 1e6 for x in figures]),
                "times_the_tokenizer": _spread([x["times_the_tokenizer"] for x in figures]),
                "tokenizer_us": _spread([x["tokenizer"] * 1e6 for x in figures]),
                "json_us": _spread([x["json"] * 1e6 for x in figures]),
                "peak_mb": _spread([x["peak_mb"] for x in figures]),
            }
        if options.against:
            pairs = zip(runs["against"], runs["this"], strict=True)
            out["ratio_time"] = _spread([theirs["seconds"] / ours["seconds"] for theirs, ours in pairs])
        out["small"] = check(small, small)
        if options.rows:
            out["rows"] = check(write(file, rows=options.rows), small)
        if options.gigabytes:
            out["documents"] = check(write(file, size=options.gigabytes * 1e9, chat=False), small)
            out["documents"]["bytes"] = file.stat().st_size
    return out


def _spread(values: list[float]) -> list[float]:
    """Median, least, most."""
    return [round(v, 2) for v in (median(values), min(values), max(values))]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="a checkout of another version")
    parser.add_argument("--sample", type=int, default=10_000, help="rows that both versions check")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1_000_000, help="chat rows of the large file; 0: none")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of the large file of documents; 0: none")
    parser.add_argument("--json", action="store_true", help="the result alone, on one line")
    options = parser.parse_args()
    result = measure(options)
    print(json.dumps(result, indent=None if options.json else 1))


if __name__ == "__main__":
    main()
