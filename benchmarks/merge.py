"""Merging beside mergekit: `python -m benchmarks.merge [--json]`, at most ten minutes.

Three tunings of one Llama of 271M parameters (542 MB each in bfloat16), merged by linear, ties, breadcrumbs and slerp.
Each run is a process of its own, start-up included, ours and mergekit's in turn on the same files; inputs are read once
before. `ratio_speed` is mergekit's seconds over ours, `ratio_peak_memory` our peak over theirs: medians over rounds
with the least and most. Ours does there what mergekit does. `tunewright merge` also loads the result and runs a few
tokens before it takes its name: `ratio_speed_checked` is mergekit's seconds, without such a check, over ours with it.
The first merge also hashes the inputs (`first_seconds`); hashes are kept after that. `floor_seconds` is
`benchmarks.merge_floor`, `ratio_to_floor` our seconds, start-up included, over that. `memory_gb_by_models` merges 2, 4,
8 and 16 models. With --json the result alone is on stdout; --markdown FILE prints a saved result as
benchmarks/README.md shows it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import machine
from benchmarks.merge_make import ensure
from benchmarks.pairs import ROOT, busy_seconds, ratios, spread

OURS = (sys.executable, "-m", "benchmarks.merge_worker")
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
    for step in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", torch_too, *REQUIREMENTS],
    ):
        done = subprocess.run(step, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"mergekit's environment could not be made: {done.stderr[-800:]}")
    return str(command)


def config(method: str, models: Path, count: int = 3) -> str:
    """mergekit's YAML, read by both."""
    own = "weight: 0.33, density: 0.5" if method in ("ties", "breadcrumbs") else "weight: 0.33"
    if method == "slerp":
        listed = f"  - model: {models}/ft0\n  - model: {models}/ft1\n"
        return (
            f"models:\n{listed}base_model: {models}/ft0\nmerge_method: slerp\nparameters: {{t: 0.5}}\ndtype: bfloat16\n"
        )
    listed = "".join(f"  - model: {models}/ft{k % 3}\n    parameters: {{{own}}}\n" for k in range(count))
    base = f"base_model: {models}/base\n" if method != "linear" else ""
    return f"models:\n{listed}{base}merge_method: {method}\ndtype: bfloat16\n"


def timed(command: list[str], out: Path) -> dict[str, Any]:
    """Seconds and peak memory of a process that writes `out`, and what others took of the cores meanwhile."""
    shutil.rmtree(out, ignore_errors=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    before, began = busy_seconds(), time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
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


Records = dict[str, dict[str, list[dict[str, Any]]]]
"""Method -> side -> its runs."""


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    began = time.monotonic()
    models = ensure(options.models)
    work = models.parent / "work"
    work.mkdir(exist_ok=True)
    files = {m: work / f"{m}.yml" for m in METHODS}
    for m, file in files.items():
        file.write_text(config(m, models))
    out = work / "out"
    warm(models)
    shutil.rmtree(work / "cache", ignore_errors=True)  # hashes of an earlier call
    os.environ["TUNEWRIGHT_CACHE"] = str(work / "cache")
    first = {m: timed([*OURS, str(files[m]), str(out)], out)["seconds"] for m in options.only[:1]}
    records = _rounds(options, files, out, began)
    result: dict[str, Any] = {
        "machine": machine.describe("bfloat16", os.cpu_count() or 1),
        "first_seconds": {m: round(s, 2) for m, s in first.items()},
        **{m: _figures(sides) for m, sides in records.items()},
        "memory_gb_by_models": _memory_by_models(models, work, out),
        "floor_seconds": _floor(models, work),
    }
    for m in {"linear", "ties"} & result.keys():
        result[m]["ratio_to_floor"] = round(_median(records, m) / result["floor_seconds"][m], 2)
    shares = [
        x["others_share"] for sides in records.values() for runs in sides.values() for x in runs if "others_share" in x
    ]
    result["others_share_most"] = max(shares, default=None)
    result["rounds"] = records
    shutil.rmtree(out, ignore_errors=True)
    return result


def _rounds(options: argparse.Namespace, files: Mapping[str, Path], out: Path, began: float) -> Records:
    """Every method's runs, the sides in turn, until the rounds are done or the time is up."""
    peer = mergekit()
    records: Records = {m: {"tunewright": [], "checked": [], "mergekit": []} for m in options.only}
    took = 0.0
    for r in range(options.rounds):
        start = time.monotonic()
        if r and start + took > began + 60 * options.minutes:
            print(f"stopped after {r} of {options.rounds} rounds: the time is up", file=sys.stderr)
            break
        for m in options.only:
            sides = {
                "tunewright": [*OURS, str(files[m]), str(out)],
                "mergekit": [peer, str(files[m]), str(out), "--no-copy-tokenizer"],
            }
            sides["checked"] = [*sides["tunewright"], "--forward"]
            for side in sides if r % 2 == 0 else reversed(sides):
                record = timed(sides[side], out)
                records[m][side].append(record)
                print(
                    f"round {r + 1} {m:12} {side:10} {record['seconds']:6.2f} s {record['peak_memory_gb']:.2f} GB",
                    file=sys.stderr,
                )
        took = time.monotonic() - start
    return records


def _figures(sides: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Ratios and spreads of one method."""
    speed = ratios(sides["mergekit"], sides["tunewright"], "seconds")
    memory = ratios(sides["tunewright"], sides["mergekit"], "peak_memory_gb")
    checked = ratios(sides["mergekit"], sides["checked"], "seconds")
    return {
        "ratio_speed": speed["median"],
        "ratio_speed_spread": [speed["low"], speed["high"]],
        "ratio_speed_checked": checked["median"],
        "ratio_speed_checked_spread": [checked["low"], checked["high"]],
        "ratio_peak_memory": memory["median"],
        "ratio_peak_memory_spread": [memory["low"], memory["high"]],
        **{
            side: {k: spread([x[k] for x in runs]) for k in ("seconds", "peak_memory_gb")}
            for side, runs in sides.items()
        },
    }


def _memory_by_models(models: Path, work: Path, out: Path) -> dict[str, float]:
    """Peak memory of TIES by the number of models."""
    counts = {}
    for count in (2, 4, 8, 16):
        file = work / f"ties{count}.yml"
        file.write_text(config("ties", models, count))
        counts[str(count)] = round(timed([*OURS, str(file), str(out)], out)["peak_memory_gb"], 3)
    return counts


def _floor(models: Path, work: Path) -> dict[str, float]:
    """Seconds of a loop that only reads, computes and writes, by method."""
    floor = subprocess.run(
        [sys.executable, "-m", "benchmarks.merge_floor", str(models), str(work / "floor.bin")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if floor.returncode:
        raise RuntimeError(f"the floor failed:\n{floor.stderr[-800:]}")
    seconds: dict[str, float] = json.loads(floor.stdout)
    return seconds


def _median(records: dict[str, Any], method: str) -> float:
    return median(x["seconds"] for x in records[method]["tunewright"])


def show(result: dict[str, Any]) -> None:
    """A few lines for people."""
    print(
        f"{result['machine']['processor']}, {result['machine']['cores']} cores; others took at most "
        f"{result['others_share_most']:.0%} of them"
    )
    for m in METHODS:
        if m in result:
            r = result[m]
            sides = "; ".join(
                f"{n} {r[n]['seconds']['median']:.2f} s, {r[n]['peak_memory_gb']['median']:.2f} GB"
                for n in ("tunewright", "mergekit")
            )
            print(f"{m:12} {sides}")
            speed, memory = (f"{r[k]:.2f} {r[k + '_spread']}" for k in ("ratio_speed", "ratio_peak_memory"))
            print(
                f"  ratio_speed {speed}, with the forward check {r['ratio_speed_checked']:.2f}, "
                f"ratio_peak_memory {memory}"
            )
    print(f"first merge (inputs not hashed yet): {result['first_seconds']} s; floor: {result['floor_seconds']} s")
    print(f"peak memory in GB by number of models: {result['memory_gb_by_models']}")


def markdown(result: dict[str, Any]) -> str:
    """Tables of a result for benchmarks/README.md."""

    def cell(x: dict[str, Any]) -> str:
        return f"{x['median']:.2f} ({x['low']:.2f}-{x['high']:.2f})"

    lines = [
        f"{result['machine']['processor']}, {result['machine']['cores']} cores; "
        f"{len(next(iter(result['rounds'].values()))['mergekit'])} rounds;"
        f" others took at most {result['others_share_most']:.0%} of the cores.",
        "",
        "| | Tunewright, s | with its forward check, s | mergekit, s | times mergekit's speed | with the check"
        " | peak memory, GB | share of mergekit's | over the floor |",
        "| --- " * 9 + "|",
    ]
    for m in METHODS:
        if m in result:
            r = result[m]
            seconds = " | ".join(cell(r[side]["seconds"]) for side in ("tunewright", "checked", "mergekit"))
            speed = f"{r['ratio_speed']:.1f} ({r['ratio_speed_spread'][0]:.1f}-{r['ratio_speed_spread'][1]:.1f})"
            memory = f"{r['tunewright']['peak_memory_gb']['median']:.2f} | {r['ratio_peak_memory']:.2f}"
            lines.append(
                f"| {m} | {seconds} | {speed} | {r['ratio_speed_checked']:.1f} | {memory} | "
                f"{r.get('ratio_to_floor', '')} |"
            )
    first, floor, models = result["first_seconds"], result["floor_seconds"], result["memory_gb_by_models"]
    lines += [
        "",
        "Start-up is in every figure but the floor's. First merge, inputs not hashed yet: "
        f"{next(iter(first.values()))} s"
        f" ({next(iter(first))}). Floor: reading and writing alone {floor['io']} s, linear {floor['linear']} s, ties "
        f"{floor['ties']} s."
        " Peak memory of ties by number of models: " + ", ".join(f"{n}: {gb} GB" for n, gb in models.items()) + ".",
    ]
    return "\n".join(lines)


def main() -> None:
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--json", action="store_true", help="JSON alone on stdout")
    a.add_argument("--only", choices=METHODS, nargs="+", default=list(METHODS))
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--minutes", type=float, default=7.0, help="start no round that would end later than this")
    a.add_argument(
        "--models",
        type=Path,
        default=Path.home() / ".cache" / "tunewright" / "bench-merge" / "models",
        help="where the models are, or are made",
    )
    a.add_argument("--markdown", type=Path, metavar="FILE", help="print a saved result as a table, and measure nothing")
    options = a.parse_args()
    if options.markdown:
        print(markdown(json.loads(options.markdown.read_text())))
        return
    result = measure(options)
    print(json.dumps(result, indent=1)) if options.json else show(result)


if __name__ == "__main__":
    main()
