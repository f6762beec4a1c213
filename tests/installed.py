"""What an installed package must do, outside of a checkout: `python tests/installed.py` with the environment's Python.

Every verb that needs no model answers, the package's data are there, and a tiny run on a base that ships goes through.
The network is not used. (No test file: pytest runs in a checkout, where all this is there anyway.)
"""

from __future__ import annotations

import importlib.resources
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

VERBS = (
    ["--version"],
    ["--help"],
    ["methods"],
    ["methods", "lora"],
    ["papers"],
    ["papers", "show", "lora"],
    ["papers", "verdicts"],
    ["schema"],
    ["doctor"],
    ["merge", "--help"],
    ["compare", "--help"],
    ["board", "--help"],
)
DATA = (
    "py.typed",
    "recipes/quickstart.yaml",
    "data/quickstart/train.jsonl",
    "data/quickstart/test.jsonl",
    "data/quickstart/keep.txt",
    "data/quickstart/CREDITS.md",
    "measure/packs/facts/pack.yaml",
    "measure/packs/tool-calls/rows.jsonl",
    "catalogue/aliases.toml",
    "papers/lora.toml",
    "claims/results/hft.json",
    "report/templates/report.html",
    "board/templates/runs.html",
    "board/static/uplot.js",
    "board/static/uplot.LICENSE.txt",
    *(f"claims/lab/bases/{base}/model.safetensors" for base in ("nano", "nano-large", "nano-encoder", "nano-vit")),
)
RECIPE = """\
model: nano
task: text-generation
data: {train: "quickstart:train", eval: "quickstart:test", max_length: 128}
keep: ["quickstart:keep"]
train: {batch_tokens: 256}
methods: [{lora: {rank: 4}}]
budget: {steps: 2}
evaluation: {rows: 8, drift_sequences: 2, drift_tokens: 16, strengths: [1], few_shot: 0, max_new_tokens: 4}
"""


def tunewright(folder: Path, *words: str) -> str:
    """Run the installed command in a folder; its standard output. Ends the program when it fails."""
    command = shutil.which("tunewright", path=sysconfig.get_path("scripts"))
    if command is None:
        sys.exit("the command `tunewright` is not installed beside this Python")
    env = {**os.environ, "TUNEWRIGHT_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"}
    env.pop("PYTHONPATH", None)
    done = subprocess.run([command, *words], cwd=folder, env=env, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        sys.exit(f"tunewright {' '.join(words)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    print(f"ok  tunewright {' '.join(words)}: {len(done.stdout.splitlines())} lines", flush=True)
    return done.stdout


def main() -> None:
    package = importlib.resources.files("tunewright")
    here = Path(__file__).resolve().parents[1] / "tunewright"
    if Path(str(package)).resolve() == here:
        sys.exit(f"this tries the checkout {here}, not an installed package")
    missing = [name for name in DATA if not package.joinpath(name).is_file()]
    if missing:
        sys.exit(f"not in the package: {', '.join(missing)}")
    print(f"ok  {len(DATA)} data files in {package}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for words in VERBS:
            if not tunewright(folder, *words).strip():
                sys.exit(f"tunewright {' '.join(words)} said nothing")
        (folder / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
        tunewright(folder, "check", "tiny.yaml")
        tunewright(folder, "run", "tiny.yaml", "--out", "out")
        report = json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))
        steps = [stage["steps"] for stage in report["stages"]]
        if steps != [2] or not (folder / "out" / "report.html").is_file():
            sys.exit(f"the run did {steps} steps, or wrote no page")
    print("ok  a tiny run")


if __name__ == "__main__":
    main()
