"""Serving many adapters: `python -m benchmarks.serve [--json] [--quick] [--only PART]`.

A random Llama of 30M parameters (`benchmarks.workload`) or `--model NAME`, in float32, one thread, and adapters of
rank 16 on all its linear layers.

- decode: 64 requests of 32 tokens, 24 new ones each: of the base, and each with an adapter of its own; beside PEFT's
  mixed batches (`adapter_names`) with `generate`. Interleaved; the speed with adapters as a share of that without, by
  the clock and by the CPU seconds that the process took, which other work on the machine disturbs less.
- clients: 32 clients at once, each asking over HTTP for 48 and for 128 new tokens after a prompt of 24 to 96: of the
  base, beside its `generate` with one request after the other, and of an adapter each, which are read from disk when
  first asked, beside PEFT's `generate`. Tokens a second, p50 and p99 of a request.
- memory: 1,000 adapters on disk, every one asked once by 16 clients; peak memory against the limits.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks import machine
from benchmarks.workload import SHAPES, make_model

MODEL, RANK, ADAPTERS = "30m", 16, 64
REQUESTS, PROMPT, NEW = 64, 32, 24
CLIENTS, ASKED = 32, (48, 128)


class Words:
    """A tokenizer of numbers: the random model has none."""

    eos_token_id, pad_token_id, chat_template, all_special_ids = None, 1, None, ()

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [int(t) for t in text.split()]}

    def decode(self, tokens: Sequence[int], **_: Any) -> str:
        return "".join(f"{t} " for t in tokens)


def model_of(name: str) -> Any:
    """The random model of the workload, or one that is installed, fp32."""
    from tunewright.loading.locate import locate

    if name in SHAPES:
        return make_model(name, "float32")
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(locate(name).folder, dtype=torch.float32)


def server_of(name: str, limits: Any, root: Path | None = None) -> Any:
    import torch

    from tunewright.loading.load import Loaded
    from tunewright.serve.server import Server

    model = model_of(name).eval()
    model.generation_config.eos_token_id = model.config.eos_token_id = None  # every answer has its whole length
    return Server(Loaded(model, Words(), None, name, "fresh", "", None, torch.float32), "base", root, limits)


def low_rank(adapted: Any, seed: int) -> dict[str, Any]:
    import torch

    from tunewright.models.deltas import LowRank

    g = torch.Generator().manual_seed(seed)
    return {
        s.name: LowRank(
            torch.randn(RANK, s.in_features, generator=g) * 0.01,
            torch.randn(s.out_features, RANK, generator=g) * 0.02,
            2.0,
        )
        for s in adapted.structure.linear_sites()
    }


def decode(name: str, rounds: int) -> dict[str, Any]:
    """Tokens a second, by the clock and of CPU, of base and 64 adapters, ours and PEFT's, round by round."""
    import torch
    from peft import LoraConfig, get_peft_model

    from tunewright.serve.limits import Limits
    from tunewright.serve.requests import Request
    from tunewright.serve.sampling import Sampling

    torch.set_num_threads(1)
    prompts = torch.randint(3, 8000, (REQUESTS, PROMPT), generator=torch.Generator().manual_seed(0))
    limits = Limits(max_batch=REQUESTS, chunk=REQUESTS * PROMPT, prefix_bytes=0, cache_tokens=REQUESTS * 256)
    server = server_of(name, limits)
    for k in range(ADAPTERS):
        server.library.add(f"a{k}", low_rank(server.engine.model, k))

    def ours(names: Sequence[str]) -> None:
        sampling = Sampling(NEW, temperature=0.0)
        found = [Request(p, sampling, server.library.find(n)) for p, n in zip(prompts.tolist(), names, strict=True)]
        for handle in [server.engine.submit(r) for r in found]:
            handle.result()

    model = model_of(name).eval()
    config = LoraConfig(r=RANK, lora_alpha=32, target_modules="all-linear", init_lora_weights=False)
    peft: Any = get_peft_model(model, config, adapter_name="a0")
    for k in range(1, ADAPTERS):
        peft.add_adapter(f"a{k}", config)
    peft.eval()
    how = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 1, "eos_token_id": None}

    def theirs(names: Sequence[str]) -> None:
        with torch.inference_mode():
            peft.generate(input_ids=prompts, attention_mask=torch.ones_like(prompts), adapter_names=list(names), **how)

    own = [f"a{k}" for k in range(REQUESTS)]
    sides = {
        "base": lambda: ours(["base"] * REQUESTS),
        "adapters": lambda: ours(own),
        "peft base": lambda: theirs(["__base__"] * REQUESTS),
        "peft adapters": lambda: theirs(own),
    }
    clocks = {"seconds": time.perf_counter, "cpu": time.process_time}
    out: dict[str, dict[str, list[float]]] = {c: {kind: [] for kind in sides} for c in clocks}
    with server:
        sides["base"](), sides["adapters"]()
        for _ in range(rounds):
            for kind, side in sides.items():
                began = {c: clock() for c, clock in clocks.items()}
                side()
                for c, clock in clocks.items():
                    out[c][kind].append(REQUESTS * NEW / (clock() - began[c]))
    pairs = {"ours": ("adapters", "base"), "peft": ("peft adapters", "peft base")}
    shares = {
        f"{who} by {c}": [a / b for a, b in zip(out[c][first], out[c][second], strict=True)]
        for c in clocks
        for who, (first, second) in pairs.items()
    }
    return {"tokens_per_second": out["seconds"], "tokens_per_cpu_second": out["cpu"], "share_of_base": shares}


@contextlib.contextmanager
def served(server: Any) -> Iterator[str]:
    import uvicorn

    from tunewright.serve.app import build

    web = uvicorn.Server(uvicorn.Config(build(server), host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=web.run, daemon=True)
    thread.start()
    while not web.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{web.servers[0].sockets[0].getsockname()[1]}/v1/completions"
    finally:
        web.should_exit = True
        thread.join()


def write_adapters(name: str, folder: Path, count: int, different: int) -> None:
    """Folders of adapters; those after the first `different` are links to the same files."""
    from tunewright.models import deltas as forms
    from tunewright.models import peft_format
    from tunewright.models.adapted import Adapted

    adapted = Adapted(model_of(name))
    for k in range(count):
        own = folder / f"a{k}"
        if k < different:
            for site, delta in low_rank(adapted, k).items():
                forms.attach(adapted.structure.site(site), "a", delta)
            peft_format.save_adapter(adapted, own, "base")
            adapted.forget_changes()
            continue
        own.mkdir()
        for file in (folder / f"a{k % different}").iterdir():
            os.link(file, own / file.name)


def asks(count: int, seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(3, 8000) for _ in range(rng.randint(24, 96))] for _ in range(count)]


def clients(name: str, each: int, new: int, folder: Path | None) -> dict[str, Any]:
    """Throughput of 32 clients over HTTP against `generate` one by one: of the base, or of the folder's adapters."""
    import torch
    from peft import PeftModel

    from tunewright.serve.limits import Limits

    torch.set_num_threads(1)
    prompts = asks(CLIENTS * each, 1)
    names = [f"a{k}" if folder else "base" for k in range(CLIENTS)]
    with served(server_of(name, Limits(max_batch=CLIENTS), folder)) as address:
        told = json.dumps({"address": address, "models": names, "each": each, "new": new, "prompts": prompts})
        asked = [sys.executable, "-P", "-m", "benchmarks.serve_clients"]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(asked, input=told, capture_output=True, text=True, check=True, env=environment)
    answered = json.loads(done.stdout)
    seconds = answered["seconds"]
    together = len(seconds) * new / answered["clock"]
    model, some = model_of(name).eval(), prompts[: 2 * each]
    if folder:
        model = PeftModel.from_pretrained(model, folder / "a0").eval()
    began = time.perf_counter()
    with torch.inference_mode():
        for prompt in some:
            ids = torch.tensor([prompt])
            model.generate(
                input_ids=ids,
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
                pad_token_id=1,
                eos_token_id=None,
            )
    alone = len(some) * new / (time.perf_counter() - began)
    cuts = quantiles(seconds, n=100)
    return {
        "served": together,
        "generate one by one": alone,
        "ratio": together / alone,
        "p50": cuts[49],
        "p99": cuts[98],
        "requests": len(seconds),
    }


def memory(name: str, count: int, folder: Path) -> dict[str, Any]:
    """Peak memory while every one of many adapters on disk is asked once."""
    import httpx
    import torch

    from tunewright.serve.limits import Limits

    torch.set_num_threads(1)
    limit = 64 << 20
    limits = Limits(max_batch=16, adapter_bytes=limit, active_bytes=limit, prefix_bytes=32 << 20)
    server = server_of(name, limits, folder)
    one = server.library.find("a0").adapter.bytes
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with served(server) as address:

        def ask(number: int) -> None:
            body = {"model": f"a{number}", "prompt": [5, 6, 7, 8], "max_tokens": 2, "temperature": 0}
            assert httpx.post(address, json=body, timeout=600).status_code == 200

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            list(pool.map(ask, range(count)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"adapters": count, "bytes_each": one, "all_bytes": one * count, "limit_each": limit, "grown": peak - before}


PARTS = ("memory", "clients", "decode")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one round, 100 adapters on disk")
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    parser.add_argument("--model", default=MODEL, help="an installed model instead of the random one")
    asked = parser.parse_args()
    parts, count = PARTS if asked.only is None else (asked.only,), 100 if asked.quick else 1000
    found: dict[str, Any] = {"machine": machine.describe("float32", 1), "load": [machine.load()]}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if parts != ("decode",):
            write_adapters(asked.model, folder, count if "memory" in parts else CLIENTS, CLIENTS)
        if "memory" in parts:
            found["memory"] = memory(asked.model, count, folder)
        if "clients" in parts:
            each = 1 if asked.quick else 3
            kinds = {"the base": None, "an adapter each": folder}
            found["clients"] = {
                f"{kind}, {new} tokens": clients(asked.model, each, new, of)
                for new in ASKED
                for kind, of in kinds.items()
            }
        if "decode" in parts:
            found["decode"] = decode(asked.model, 1 if asked.quick else 3)
    found["load"].append(machine.load())
    print(json.dumps(found, indent=2) if asked.json else told(found))


def told(found: dict[str, Any]) -> str:
    """The figures in words."""
    lines = [f"load {found['load'][0]:.1f} to {found['load'][1]:.1f} on {os.cpu_count()} cores"]
    if "decode" in found:
        shares = {k: f"{median(v):.0%}" for k, v in found["decode"]["share_of_base"].items()}
        speeds = {k: f"{median(v):.0f}" for k, v in found["decode"]["tokens_per_second"].items()}
        lines.append(f"{ADAPTERS} adapters, share of the base's speed: {shares}; tokens a second: {speeds}")
    if "clients" in found:
        for what, c in found["clients"].items():
            alone = f"{c['ratio']:.1f} times generate ({c['generate one by one']:.0f})"
            lines.append(f"{CLIENTS} clients of {what}: {c['served']:.0f} tokens a second, {alone}")
            lines.append(f"a request: p50 {c['p50']:.2f} s, p99 {c['p99']:.2f} s")
    if "memory" in found:
        m = found["memory"]
        grown = f"{m['grown'] / 1e6:.0f} MB"
        lines.append(f"{m['adapters']} adapters ({m['all_bytes'] / 1e9:.1f} GB): memory grew by {grown}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
