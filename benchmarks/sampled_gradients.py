"""Gradients of few entries, computed alone or out of the whole: `python -m benchmarks.sampled_gradients [--rounds N]`.

Four blocks of SmolLM2-135M's shape (without its vocabulary), 512 tokens, one thread; a share of the entries of every
matrix trains, drawn at random. A step is forward and backward; in turn, round by round, with the whole of each matrix's
gradient gathered and with its entries alone. Seconds are of CPU, ratios with the least and the most of them; `bytes` is
the largest gradient that is made.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from contextlib import nullcontext
from typing import Any

import torch

from benchmarks import machine
from tunewright.contract.method import Choice
from tunewright.models.adapted import Adapted
from tunewright.models.sampled_gradients import MOST
from tunewright.training.trained import Trained

TOKENS, LAYERS = 512, 4
SHARES = (0.002, 0.01, MOST)


def model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes: Any = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, num_hidden_layers=LAYERS, **sizes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    net = model()
    ids = torch.randint(64, (1, TOKENS))
    matrices = {n: p for n, p in net.named_parameters() if "_proj" in n}
    told: dict[str, Any] = {"machine": machine.describe("float32", 1)}
    for share in SHARES:
        trained = Trained(Adapted(net, None), {})
        chosen = {n: torch.randperm(p.numel())[: int(share * p.numel())] for n, p in matrices.items()}
        trained.set(Choice(entries=chosen))

        def step(alone: bool, trained: Trained = trained) -> float:
            began = time.process_time()
            with trained.sampling() if alone else nullcontext():
                net(input_ids=ids, labels=ids).loss.backward()
            trained.zero_grad()
            return time.process_time() - began

        step(False), step(True)
        rounds = [(step(False), step(True)) for _ in range(options.rounds)]
        ratios = sorted(a / b for a, b in rounds)
        most = max(p.numel() for p in matrices.values())
        told[f"{share:.1%} of the entries"] = {
            "seconds": [round(statistics.median(r[i] for r in rounds), 4) for i in (0, 1)],
            "times as fast": [round(r, 3) for r in (ratios[0], statistics.median(ratios), ratios[-1])],
            "bytes": [4 * most, max(4 * len(c) for c in chosen.values())],
        }
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
