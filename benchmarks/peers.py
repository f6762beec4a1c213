"""TRL's own environment, made once: its dependencies are not ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

REQUIREMENTS = ("trl==1.16.*", "peft==0.21.*", "transformers==5.23.*")
VARIABLE = "TUNEWRIGHT_BENCH_PEERS"


def peers_python() -> str:
    """Python of the peers' environment, at $TUNEWRIGHT_BENCH_PEERS or in the cache folder; made where it is missing.

    Raises RuntimeError where it cannot be made.
    """
    folder = Path(os.environ.get(VARIABLE) or Path.home() / ".cache" / "tunewright" / "bench-peers")
    python = folder / "bin" / "python"
    if python.exists() and subprocess.run([python, "-c", "import trl, peft"], capture_output=True).returncode == 0:
        return str(python)
    print(f"making the peers' environment in {folder}", file=sys.stderr)
    version = torch.__version__.split("+")[0]
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", f"torch=={version}", *REQUIREMENTS],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the peers' environment could not be made: {done.stderr[-800:]}")
    return str(python)
