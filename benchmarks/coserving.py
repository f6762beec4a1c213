"""Training beside serving: `python -m benchmarks.coserving [--json] [--seconds N]`.

A random Llama of 30M parameters (`benchmarks.workload`), one thread. Clients ask for 32 new tokens after prompts of 32,
each again a second after its answer; a training loop adds gradients of two rows of 128 tokens to a LoRA of rank 16.
Each alone, then together: in pieces between the engine's steps (`serve/tinker/coserving.py`), and a whole step at once
in the same place. Told: milliseconds from one token of an answer to its next and seconds of a request (p50, p99), and
tokens a second that were trained on.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.serve import server_of

CLIENTS, PROMPT, NEW, PAUSE = 2, 32, 32, 1.0
ROW, ROWS, RANK = 128, 2, 16
ARRANGED: dict[str, dict[str, bool]] = {
    "serving alone": {"asked": True, "trains": False},
    "training alone": {"asked": False, "trains": True},
    "together, in pieces": {"asked": True, "trains": True},
    "together, whole steps": {"asked": True, "trains": True, "whole": True},
}


@contextmanager
def asking(server: Any, seconds: list[float], gaps: list[float]) -> Iterator[None]:
    """Clients that ask again and again; what each request and each token took."""
    from tunewright.serve.requests import Request
    from tunewright.serve.sampling import Sampling

    stop = threading.Event()

    def client(number: int) -> None:
        rng = np.random.default_rng(number)
        while not stop.is_set():
            prompt = rng.integers(10, 1000, PROMPT).tolist()
            began = last = time.perf_counter()
            for i, _ in enumerate(server.engine.submit(Request(prompt, Sampling(NEW, temperature=0.0)))):
                now = time.perf_counter()
                if i:
                    gaps.append(now - last)
                last = now
            seconds.append(last - began)
            stop.wait(PAUSE)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def measure(seconds: float, *, asked: bool, trains: bool, whole: bool = False) -> dict[str, float]:
    """Figures of one arrangement over so many seconds."""
    import torch

    from tunewright.serve.limits import Limits
    from tunewright.serve.tinker.coserving import CoServing
    from tunewright.serve.tinker.learner import Datum, Learner, Shape

    trained, requests, gaps = [0.0], list[float](), list[float]()
    with server_of(Limits(max_length=512, max_batch=8, cache_tokens=8192)) as server:
        learner, shared = Learner(server.engine.model.model), CoServing(server.engine, whole=whole)
        change = learner.begin(Shape(RANK, unembed=False), 0)
        ids = torch.randint(10, 1000, (ROWS, ROW + 1), generator=torch.Generator().manual_seed(0))
        data = [Datum(r[:-1].tolist(), r[1:], {"weights": torch.ones(ROW)}) for r in ids]
        stop = threading.Event()

        def train() -> None:
            while not stop.is_set():
                began = time.perf_counter()
                change.forget()
                learner.learn(change, data, "cross_entropy", {}, shared.run)
                trained[0] += ROWS * ROW
                spent.append(time.perf_counter() - began)

        spent: list[float] = []
        loop = threading.Thread(target=train)
        if trains:
            loop.start()
        if asked:
            with asking(server, requests, gaps):
                time.sleep(seconds)
        else:
            time.sleep(seconds)
        stop.set()
        if trains:
            loop.join()
    out: dict[str, float] = {}
    if trains:
        out["trained_tokens_per_second"] = trained[0] / sum(spent)
    if asked:
        out |= {f"token_p{p}_ms": float(np.percentile(gaps, p)) * 1000 for p in (50, 99)}
        out |= {f"request_p{p}_s": float(np.percentile(requests, p)) for p in (50, 99)}
        out["requests"] = len(requests)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coserving", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each arrangement")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    found = {}
    for name, how in ARRANGED.items():
        found[name] = measure(args.seconds, **how)
        if not args.json:
            print(f"{name}: " + ", ".join(f"{k} {v:,.3g}" for k, v in found[name].items()), flush=True)
    if args.json:
        print(json.dumps({"machine": machine.describe("float32", 1), "figures": found}, indent=1))


if __name__ == "__main__":
    main()
