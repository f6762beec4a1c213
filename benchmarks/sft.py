"""Supervised fine-tuning beside peers: `python -m benchmarks.sft [--json]`, at most ten minutes.

LoRA r16 on all linears against TRL + PEFT and a raw PEFT loop, full fine-tuning against a raw padded torch loop: same
model, rows, batch and steps, interleaved, each run in a process of its own. `lora.ratio_*` are against TRL,
`lora.peft.ratio_*` against the raw PEFT loop, `full.ratio_*` against the raw torch loop; medians over rounds with the
least and most. With --json the result alone is on stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from statistics import median
from typing import Any

from benchmarks import machine
from benchmarks.pairs import Side, interleave, ratios, spread
from benchmarks.peers import peers_python

BOUND = {"30m": "1,080-1,169 tok/s, 68-72 % of GEMM peak (LoRA)", "100m": "364 tok/s, 73 % of GEMM peak (LoRA)"}
"""A hand-made plain-torch loop with every trick, fp32, 2 cores of an EPYC (Zen 4)."""


DISTURBED = 0.1
"""A run is called disturbed when other processes took more than this share of the cores: its ratios mean little."""


def sides(options: argparse.Namespace) -> tuple[list[Side], str | None]:
    """The sides asked for, and why TRL is not among them (None: it is, or was not wanted)."""
    common = (
        "--model",
        options.model,
        "--dtype",
        options.dtype,
        "--steps",
        str(options.steps),
        "--threads",
        str(options.threads),
    )
    wanted = {"lora": ["tunewright_lora", "peft_lora"], "full": ["tunewright_full", "torch_full"]}
    names = [n for kind in options.only for n in wanted[kind]]
    made = [Side(n, sys.executable, "benchmarks.worker", (n, *common)) for n in names]
    if "lora" not in options.only or options.no_trl:
        return made, "left out by --no-trl" if options.no_trl else None
    try:
        made.append(Side("trl_lora", peers_python(), "benchmarks.worker", ("trl_lora", *common)))
    except RuntimeError as error:
        return made, str(error)
    return made, None


def summary(results: dict[str, list[dict[str, Any]]], peak: float, trl_missing: str | None) -> dict[str, Any]:
    """Ratios and medians from the records of every round."""

    def against(ours: str, peer: str) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name, key in (("tokens_per_second", "tokens_per_second"), ("peak_memory", "peak_memory_gb")):
            found = ratios(results[ours], results[peer], key)
            out[f"ratio_{name}"], out[f"ratio_{name}_spread"] = found["median"], [found["low"], found["high"]]
        return out

    def share(side: str) -> float:
        return round(median(r["gflops"] for r in results[side]) / peak, 3)

    out: dict[str, Any] = {}
    if "tunewright_lora" in results:
        missing = {"ratio_tokens_per_second": None, "ratio_peak_memory": None, "trl_missing": trl_missing}
        trl = against("tunewright_lora", "trl_lora") if "trl_lora" in results else missing
        out["lora"] = {
            **trl,
            "share_of_gemm_peak": share("tunewright_lora"),
            "peft": against("tunewright_lora", "peft_lora"),
        }
    if "tunewright_full" in results:
        out["full"] = {**against("tunewright_full", "torch_full"), "share_of_gemm_peak": share("tunewright_full")}
    shares = [r["others_share"] for records in results.values() for r in records if "others_share" in r]
    out["disturbed_runs"] = {"runs": len(shares), "disturbed": sum(s > DISTURBED for s in shares), "limit": DISTURBED}
    out["sides"] = {
        name: {
            "tokens_per_second": spread([r["tokens_per_second"] for r in records]),
            "peak_memory_gb": spread([r["peak_memory_gb"] for r in records]),
        }
        for name, records in results.items()
    }
    return out


def show(result: dict[str, Any]) -> None:
    """A few lines for people."""
    m = result["machine"]
    print(
        f"{result['model']} {m['dtype']}, {m['threads']} threads of {m['processor']}; GEMM "
        f"{m['gemm_peak_gflops']:.0f} GFLOP/s"
    )
    for name, side in result["sides"].items():
        t, g = side["tokens_per_second"], side["peak_memory_gb"]
        print(f"  {name:16} {t['median']:7.0f} tok/s ({t['low']:.0f}-{t['high']:.0f})  {g['median']:.2f} GB")
    for kind, label in (("lora", "TRL + PEFT"), ("full", "a raw torch loop")):
        if kind in result:
            r = result[kind]
            for what in ("tokens_per_second", "peak_memory"):
                value = r[f"ratio_{what}"]
                text = (
                    f"{value:.2f} {r[f'ratio_{what}_spread']}"
                    if value is not None
                    else f"not measured: {r['trl_missing']}"
                )
                print(f"{kind}.ratio_{what}: {text}  (against {label})")
            if kind == "lora":
                for what in ("tokens_per_second", "peak_memory"):
                    print(
                        f"lora.peft.ratio_{what}: {r['peft'][f'ratio_{what}']:.2f} "
                        f"{r['peft'][f'ratio_{what}_spread']}  (against a raw PEFT loop)"
                    )
            print(f"{kind}.share_of_gemm_peak: {r['share_of_gemm_peak']:.2f}")
    d = result["disturbed_runs"]
    if d["disturbed"]:
        print(
            f"WARNING: in {d['disturbed']} of {d['runs']} runs other processes took over {d['limit']:.0%} of the "
            "cores; do not quote these ratios, run again"
        )
    print(f"hand-made bound: {result['bound']}")


def main() -> None:
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--json", action="store_true", help="JSON alone on stdout")
    a.add_argument("--model", choices=sorted(BOUND), default="30m")
    a.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    a.add_argument("--only", choices=("lora", "full"), nargs="+", default=["lora", "full"])
    a.add_argument("--no-trl", action="store_true", help="leave TRL out")
    a.add_argument("--steps", type=int, default=4, help="timed steps per run")
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--minutes", type=float, default=9, help="start no round that would end later than this")
    a.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = a.parse_args()
    began = time.monotonic()
    wanted, missing = sides(options)
    described = machine.describe(options.dtype, options.threads)
    peaks: list[float] = []
    results = interleave(
        wanted,
        options.rounds,
        began + 60 * options.minutes,
        lambda: peaks.append(machine.gemm_peak(options.dtype, options.threads)),
    )
    peaks.append(machine.gemm_peak(options.dtype, options.threads))
    # the ceiling is the best of them: a product slowed by others would make shares look better than they are
    described |= {"gemm_peak_gflops": round(max(peaks), 1), "gemm_all_gflops": [round(p, 1) for p in peaks]}
    result = {
        "model": options.model,
        "machine": described,
        **summary(results, max(peaks), missing),
        "bound": BOUND[options.model],
        "rounds": results,
    }
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        show(result)


if __name__ == "__main__":
    main()
