"""Merging beside mergekit: `python -m benchmarks.merge [--json]`, at most ten minutes.

Three tunings of one Llama of 271M parameters (542 MB each in bfloat16), merged by linear, ties, breadcrumbs and slerp. Each
run is a process of its own, start-up included, ours and mergekit's in turn on the same files; inputs are read once before.
`ratio_speed` is mergekit's seconds over ours, `ratio_peak_memory` our peak over theirs: medians over rounds with the least
and most. Ours does here what mergekit does: the forward pass that `tunewright merge` adds before a result takes its name is
measured apart (`forward_seconds`), and so is the first hashing of the inputs (`first`): hashes are kept after that.
`memory_gb_by_models` merges 2, 4, 8 and 16 models. With --json the result alone is on stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import machine
from benchmarks.merge_make import ensure
from benchmarks.pairs import ROOT, busy_seconds, ratios, spread

METHODS = ("linear", "ties", "breadcrumbs", "slerp")
VARIABLE = "TUNEWRIGHT_BENCH_MERGEKIT"
REQUIREMENTS = ("mergekit==0.1.5", "transformers==5.23.*")


def mergekit() -> str:
    """mergekit-yaml: of this environment, of $TUNEWRIGHT_BENCH_MERGEKIT, or of one made in the cache folder."""
    beside = Path(sys.executable).parent / "mergekit-yaml"
    if beside.exists():
        return str(beside)
    folder = Path(os.environ.get(VARIABLE) or Path.home() / ".cache" / "tunewright" / "bench-peers-mergekit")
    command = folder / "bin" / "mergekit-yaml"
    if command.exists():
        return str(command)
    import torch

    print(f"making mergekit's environment in {folder}", file=sys.stderr)
    torch_too = f"torch=={torch.__version__.split('+')[0]}"
    for step in ([sys.executable, "-m", "venv", str(folder)], [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", torch_too, *REQUIREMENTS]):
        done = subprocess.run(step, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"mergekit's environment could not be made: {done.stderr[-800:]}")
    return str(command)


def config(method: str, models: Path, count: int = 3) -> str:
    """mergekit's YAML, read by both."""
    own = "weight: 0.33, density: 0.5" if method in ("ties", "breadcrumbs") else "weight: 0.33"
    if method == "slerp":
        listed = f"  - model: {models}/ft0\n  - model: {models}/ft1\n"
        return f"models:\n{listed}base_model: {models}/ft0\nmerge_method: slerp\nparameters: {{t: 0.5}}\ndtype: bfloat16\n"
    listed = "".join(f"  - model: {models}/ft{k % 3}\n    parameters: {{{own}}}\n" for k in range(count))
    base = f"base_model: {models}/base\n" if method != "linear" else ""
    return f"models:\n{listed}{base}merge_method: {method}\ndtype: bfloat16\n"


def timed(command: list[str], out: Path) -> dict[str, Any]:
    """Seconds and peak memory of a process that writes `out`, and what others took of the cores meanwhile."""
    shutil.rmtree(out, ignore_errors=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    before, began = busy_seconds(), time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[:3]} failed:\n{said[-1500:]}")
    record: dict[str, Any] = {"seconds": seconds, "peak_memory_gb": used.ru_maxrss / 1e6}
    after = busy_seconds()
    if before is not None and after is not None:
        own = used.ru_utime + used.ru_stime
        record["others_share"] = round(max(0.0, after - before - own) / ((os.cpu_count() or 1) * seconds), 3)
    return record


def warm(models: Path) -> None:
    """Read all inputs once."""
    for file in models.glob("*/*.safetensors"):
        with file.open("rb", buffering=0) as f:
            buffer = bytearray(2**24)
            while f.readinto(buffer):
                pass


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    began = time.monotonic()
    models = ensure(options.models)
    work = models.parent / "work"
    work.mkdir(exist_ok=True)
    files = {m: work / f"{m}.yml" for m in METHODS}
    for m, file in files.items():
        file.write_text(config(m, models))
    peer = mergekit()
    ours = [sys.executable, "-m", "benchmarks.merge_worker"]
    out = work / "out"
    warm(models)
    first = {m: timed([*ours, str(files[m]), str(out)], out)["seconds"] for m in options.only}
    records: dict[str, dict[str, list[dict[str, Any]]]] = {m: {"tunewright": [], "mergekit": []} for m in options.only}
    took = 0.0
    for r in range(options.rounds):
        start = time.monotonic()
        if r and start + took > began + 60 * options.minutes:
            print(f"stopped after {r} of {options.rounds} rounds: the time is up", file=sys.stderr)
            break
        for m in options.only:
            sides = {"tunewright": [*ours, str(files[m]), str(out)], "mergekit": [peer, str(files[m]), str(out), "--no-copy-tokenizer"]}
            for side in sides if r % 2 == 0 else reversed(sides):
                record = timed(sides[side], out)
                records[m][side].append(record)
                print(f"round {r + 1} {m:12} {side:10} {record['seconds']:6.2f} s {record['peak_memory_gb']:.2f} GB", file=sys.stderr)
        took = time.monotonic() - start
    result: dict[str, Any] = {"machine": machine.describe("bfloat16", os.cpu_count() or 1), "first_seconds": {m: round(s, 2) for m, s in first.items()}}
    for m, both in records.items():
        speed, memory = ratios(both["mergekit"], both["tunewright"], "seconds"), ratios(both["tunewright"], both["mergekit"], "peak_memory_gb")
        result[m] = {
            "ratio_speed": speed["median"],
            "ratio_speed_spread": [speed["low"], speed["high"]],
            "ratio_peak_memory": memory["median"],
            "ratio_peak_memory_spread": [memory["low"], memory["high"]],
            **{side: {k: spread([x[k] for x in runs]) for k in ("seconds", "peak_memory_gb")} for side, runs in both.items()},
        }
    counts = {}
    for count in (2, 4, 8, 16):
        file = work / f"ties{count}.yml"
        file.write_text(config("ties", models, count))
        counts[str(count)] = round(timed([*ours, str(file), str(out)], out)["peak_memory_gb"], 3)
    result["memory_gb_by_models"] = counts
    result["forward_seconds"] = round(timed([*ours, str(files[options.only[0]]), str(out), "--forward"], out)["seconds"] - _median(records, options.only[0]), 2)
    shares = [x["others_share"] for both in records.values() for runs in both.values() for x in runs if "others_share" in x]
    result["others_share_most"] = max(shares, default=None)
    result["rounds"] = records
    shutil.rmtree(out, ignore_errors=True)
    return result


def _median(records: dict[str, Any], method: str) -> float:
    return median(x["seconds"] for x in records[method]["tunewright"])


def show(result: dict[str, Any]) -> None:
    """A few lines for people."""
    print(f"{result['machine']['processor']}, {result['machine']['cores']} cores; others took at most {result['others_share_most']:.0%} of them")
    for m in METHODS:
        if m in result:
            r = result[m]
            sides = "; ".join(f"{n} {r[n]['seconds']['median']:.2f} s, {r[n]['peak_memory_gb']['median']:.2f} GB" for n in ("tunewright", "mergekit"))
            print(f"{m:12} {sides}")
            speed, memory = (f"{r[k]:.2f} {r[k + '_spread']}" for k in ("ratio_speed", "ratio_peak_memory"))
            print(f"  ratio_speed {speed}, ratio_peak_memory {memory}")
    print(f"first merge (inputs not hashed yet): {result['first_seconds']} s; checking forward pass: {result['forward_seconds']} s more")
    print(f"peak memory in GB by number of models: {result['memory_gb_by_models']}")


def main() -> None:
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--json", action="store_true", help="JSON alone on stdout")
    a.add_argument("--only", choices=METHODS, nargs="+", default=list(METHODS))
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--minutes", type=float, default=8.5, help="start no round that would end later than this")
    a.add_argument("--models", type=Path, default=Path.home() / ".cache" / "tunewright" / "bench-merge" / "models", help="where the models are, or are made")
    options = a.parse_args()
    result = measure(options)
    print(json.dumps(result, indent=1)) if options.json else show(result)


if __name__ == "__main__":
    main()
