"""A worker process of the pool: `python -m tunewright.trials.worker` reads one JSON order per line from standard input
and answers on standard output, where nothing else is printed.

Torch is imported once. Each record is written into the store here, whole or not at all, before it is answered for. When
the process that started it is gone (its end of the pipe closes), the worker ends at once.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from pathlib import Path
from typing import IO, Any


def _orders() -> queue.Queue[str]:
    """Lines of standard input as they come; the end of it ends the process, whatever it is doing."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return lines


def _begin() -> None:
    """Everything that a trial needs is imported before the first one, and left out of the collector's rounds: it
    never becomes garbage.
    """
    import gc

    import transformers.models.llama.modeling_llama  # noqa: F401

    from tunewright.runs import artefacts, assemble, meter, results, run, stages  # noqa: F401

    gc.collect()
    gc.freeze()


def do(order: dict[str, Any]) -> dict[str, Any]:
    """One trial; answers with its key, or with an error of ours that ends the whole pool (a folder that cannot be
    written).
    """
    from tunewright.errors import Interrupted, TunewrightError
    from tunewright.recipe import Recipe
    from tunewright.trials.trial import Store, run_trial

    try:
        recipe = Recipe(**order["recipe"])
        recipe._base = Path(order["base"])
        record = run_trial(recipe, Store(order["store"]), arm=order["arm"], key=order["key"], threads=order["threads"])
        return {"key": record.key, "peak": record.cost.get("peak_memory_bytes")}
    except Interrupted:
        return {"key": order["key"], "interrupted": True}
    except TunewrightError as error:
        return {"key": order["key"], "fatal": {"what": error.what, "where": error.where, "remedy": error.remedy}}


def take_output() -> IO[str]:
    """Standard output for answers alone: what else this process prints, libraries in C included, is thrown away."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return answers


def main() -> None:
    answers = take_output()
    orders = _orders()
    _begin()
    print(json.dumps({"ready": os.getpid()}), file=answers, flush=True)
    while True:
        answer = do(json.loads(orders.get()))
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
