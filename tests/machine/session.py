"""What a user does, in a process that lacks what Linux has: `python -m tests.machine.session SYSTEM WORKER
FOLDER`, where WORKER is real or fake.

Prints one JSON object of what came out; anything that does not work ends it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.machine.lacking import take_away


@contextmanager
def other_process(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Another process (with all that Linux has) that says one line when it is ready, and is ended at the end."""
    command = [sys.executable, "-c", f"import sys\n{code}\nprint(flush=True); sys.stdin.read()", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "\n"
        yield process
        process.communicate("")


def training(folder: Path) -> dict[str, Any]:
    """A run, and one that is interrupted and resumed; equal bits."""
    from safetensors.torch import load_file

    from tests import small
    from tunewright.errors import Interrupted
    from tunewright.recipe import Recipe
    from tunewright.runs.run import resume, run
    from tunewright.runs.stages import TrainingCallback
    from tunewright.training.stage import Stop

    small.write_inputs(folder)
    recipe = Recipe.load(small.write_recipe(folder, train__save_steps=2))
    whole = run(recipe, folder / "whole", quiet=True)
    real = TrainingCallback.__call__

    def ask(self: TrainingCallback, loop: Any, record: dict[str, Any]) -> None:
        self.stop_requested = loop.step_number == 3
        real(self, loop, record)

    TrainingCallback.__call__ = ask  # type: ignore[method-assign]
    stopped = False
    try:
        run(recipe, folder / "resumed", quiet=True)
    except (Interrupted, Stop):
        stopped = True
    TrainingCallback.__call__ = real  # type: ignore[method-assign]
    resumed = resume(folder / "resumed", quiet=True)
    assert resumed is not None
    files = [sorted(r.folder.glob("adapter/*.safetensors")) for r in (whole, resumed)]
    one, other = (load_file(f[0]) for f in files)
    return {
        "stopped": stopped,
        "resumed": resumed.report.run.resumed,
        "same bits": one.keys() == other.keys() and all(one[n].equal(other[n]) for n in one),
        "hardware": whole.report.run.hardware.model_dump(mode="json") if whole.report.run.hardware else {},
        "peak": whole.report.cost.peak_memory_bytes,
    }


def trials(folder: Path) -> dict[str, Any]:
    """Two trials side by side."""
    from tests import small
    from tunewright.recipe import Recipe
    from tunewright.trials.pool import Trial, Workers, run_all
    from tunewright.trials.trial import Store

    Workers.module = "tests.machine.worker"
    both = [Trial("lora", seed, Recipe.load(small.write_recipe(folder, train__seed=seed))) for seed in (1, 2)]
    records = run_all(both, Store(folder / "store"), workers=2)
    return {
        "statuses": sorted(r.status for r in records.values()),
        "errors": [r.error.message for r in records.values() if r.error],
        "work left": [p.name for p in (folder / "store" / ".work").glob("*")],
    }


def sweeping(folder: Path) -> dict[str, Any]:
    """Work of a process that lives, and then does not."""
    from tunewright.machine import host
    from tunewright.trials.trial import Store

    store = Store(folder / "swept")
    own = store.work_folder()
    with other_process("") as process:
        work = store.folder / ".work" / f"{host.mark(process.pid)}-work"
        work.mkdir()
        store.sweep()
        alive = work.exists() and own.exists()
    store.sweep()
    return {"live work stays": alive, "dead work goes": own.exists() and not work.exists()}


def locking(folder: Path) -> dict[str, Any]:
    """A folder that a live process holds. On Windows the other process locks as this one does."""
    from tunewright.errors import FolderError
    from tunewright.runs.folder import RunFolder, locked

    (folder / "locked").mkdir()
    take = "from pathlib import Path\nfrom tunewright.machine.host import Lock\nlock = Lock(Path(sys.argv[1]))"
    with other_process(take, str(folder / "locked" / ".lock")) as process:
        try:
            with locked(RunFolder(folder / "locked")):
                message = "not held"
        except FolderError as e:
            message = e.what.replace(str(process.pid), "PID")
    with locked(RunFolder(folder / "locked")):
        return {"held": message}


def merging(folder: Path) -> dict[str, Any]:
    """A base merged with itself is itself."""
    from safetensors.torch import load_file

    from tunewright.weights.request import Part, Request
    from tunewright.weights.stream import merge

    base = str(folder / "base")
    merge(Request("linear", [Part(base), Part(base)], folder / "merged"), forward=False)
    one, other = (load_file(folder / n / "model.safetensors") for n in ("base", "merged"))
    return {"tensors": len(other), "same": all(one[n].allclose(other[n]) for n in other)}


def main() -> None:
    system, worker, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    os.environ.update(LACKING=system, WORKER=worker, TUNEWRIGHT_CACHE=str(folder / "cache"))
    take_away(system)
    from tunewright.commands.doctor import examine
    from tunewright.machine import host

    out: dict[str, Any] = {"doctor": {f.name: [f.status, f.detail] for f in examine()}}
    out["cores"] = [host.cores(), host.usable_cores()]
    out["memory"] = [host.total_memory(), host.available_memory()]
    for part in (training, trials, sweeping, locking, merging):
        out[part.__name__] = part(folder)
    print(json.dumps(out))


if __name__ == "__main__":
    main()
