"""What dividing weights among processes saves: the most memory that each takes; and what it costs, seconds a step.

`python -m benchmarks.divided` makes a random Llama (`--layers`, `--hidden`, a small vocabulary; stored in bfloat16,
trained in float32) and trains LoRA on it for a few steps in one process and in two on this machine. Memory is what
is a process's own (`RssAnon`, looked at every 5 ms): pages of the model's file, which all of them share and the system
takes back, are not in it. The base of it, what a process takes without a model, is told beside.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.offload import make
from tunewright.machine.group import present
from tunewright.recipe import Recipe
from tunewright.runs import launching
from tunewright.runs.run import run

WAYS: tuple[tuple[int, str | None], ...] = ((1, None), (2, None), (2, "full_shard"))


def own_memory() -> int:
    """Bytes of this process that no file holds."""
    said = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert said is not None
    return 1024 * int(said[1])


class Peak(threading.Thread):
    """The most that the process took while this ran."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.over = 0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.005):
            self.most = max(self.most, own_memory())


def train(model: str, fsdp: str | None, steps: int, tokens: int, out: Path) -> dict[str, Any]:
    """A few steps in one of several processes: its own memory before and at most, losses, seconds a step."""
    text = out / "text.txt"
    text.write_text(" ".join(f"{w} {i}" for i in range(tokens * (steps + 1)) for w in ("tunes", "a", "model")))
    tree = {
        "model": model,
        "task": "text-generation",
        "data": {"train": str(text), "max_length": tokens},
        "methods": [{"lora": {"rank": 8}}],
        "budget": {"steps": steps},
        "train": {
            "batch_tokens": 4 * tokens,
            "precision": "float32",
            "threads": 1,
            "fsdp": fsdp,
            "learning_rate": 1e-3,
        },
        "measurement": {"drift_sequences": 1, "drift_tokens": 2, "few_shot": 0, "strengths": [1]},
    }
    (out / f"r{os.getpid()}.yaml").write_text(json.dumps(tree))
    before, peak = own_memory(), Peak()
    peak.start()
    done = run(Recipe.load(out / f"r{os.getpid()}.yaml"), out / "run", quiet=True)
    peak.over.set()
    records = [json.loads(line) for line in (done.folder / "metrics.jsonl").read_text().splitlines()]
    seconds = done.report.stages[0].seconds / len(records)
    return {"before": before, "peak": peak.most, "losses": [r["loss"] for r in records], "seconds": seconds}


def several(count: int, fsdp: str | None, asked: argparse.Namespace, model: str, folder: Path) -> list[dict[str, Any]]:
    """What each of so many processes says."""
    out = Path(tempfile.mkdtemp(dir=folder))
    words = ["--steps", str(asked.steps), "--tokens", str(asked.tokens), "--one", json.dumps([model, fsdp, str(out)])]
    with launching.held_port() as port:
        started = []
        for rank in range(count):
            names = launching._names(rank, count, port) if count > 1 else {}
            env = {**os.environ, "OMP_NUM_THREADS": "1", "TUNEWRIGHT_CACHE": str(out / f"cache-{rank}"), **names}
            command = [sys.executable, "-m", "benchmarks.divided", *words]
            started.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
        said = [p.communicate()[0] for p in started]
    return [json.loads(one.splitlines()[-1]) for one in said]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        model, fsdp, out = json.loads(asked.one)
        print(json.dumps(train(model, fsdp, asked.steps, asked.tokens, Path(out))))
        return
    assert not present().many, "this begins its processes itself"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model").mkdir()
        make(folder / "model", asked.layers, asked.hidden, "nano")
        size = 2 * sum(f.stat().st_size for f in (folder / "model").glob("*.safetensors"))  # in float32
        print(f"weights in float32: {size / 1e9:.2f} GB")
        first: list[float] = []
        for count, fsdp in WAYS:
            found = several(count, fsdp, asked, str(folder / "model"), folder)
            first = first or found[0]["losses"]
            apart = max(abs(a - b) / abs(a) for r in found for a, b in zip(first, r["losses"], strict=True))
            most = max(r["peak"] for r in found) / 1e9
            print(
                f"{count} {'divided' if fsdp else 'whole  '}  at most {most:5.2f} GB each, "
                f"{median(r['before'] for r in found) / 1e9:4.2f} GB of it before the model; "
                f"{max(r['seconds'] for r in found):6.2f} s a step; losses {apart:.0e} from one process's"
            )


if __name__ == "__main__":
    main()
