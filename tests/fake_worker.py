"""A worker process that makes its records up, so that tests of the pool cost no torch. What it does is in the arm's
name.

dies: SIGKILL at every try; dies-once: at the first; full: the disk is full; heavy: says that it held 6 GB; anything
else finishes.
"""

from __future__ import annotations

import datetime
import json
import os
import signal
import sys
import time
from pathlib import Path

from tunewright.trials.trial import Reading, Store, TrialRecord
from tunewright.trials.worker import take_output

PAUSE = 0.05


def main() -> None:
    answers = take_output()
    print(json.dumps({"ready": os.getpid()}), file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        arm, store = order["arm"], Store(order["store"])
        mark = store.folder / f"{order['key']}.died"
        if arm == "dies" or (arm == "dies-once" and not mark.exists()):
            store.folder.mkdir(parents=True, exist_ok=True)
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if arm == "full":
            print(
                json.dumps(
                    {"key": order["key"], "fatal": {"what": "the disk is full", "where": "there", "remedy": None}}
                ),
                file=answers,
                flush=True,
            )
            continue
        began = time.time()
        time.sleep(PAUSE)
        with open(Path(order["store"]) / "spans.txt", "a") as f:
            f.write(f"{began} {time.time()}\n")
        reading = Reading(strength=1.0, target=float(order["recipe"]["train"]["seed"]))
        now = datetime.datetime.now(datetime.UTC)
        seed = order["recipe"]["train"]["seed"]
        store.put(
            TrialRecord(
                key=order["key"],
                arm=arm,
                seed=seed,
                started=now,
                strengths=[reading],
                seconds=PAUSE,
                attempt=len(store.attempts(order["key"])) + 1,
            )
        )
        print(
            json.dumps({"key": order["key"], "peak": 6 * 10**9 if arm == "heavy" else 10**8}), file=answers, flush=True
        )


if __name__ == "__main__":
    main()
