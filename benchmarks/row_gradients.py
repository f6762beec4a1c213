"""Gradients of single records by an adapter, one at a time or many at once: `python -m benchmarks.row_gradients
[--rounds N]`.

What `less` reads: the gradient of each record's loss by an adapter of rank 8 on every linear layer, one thread. The
models are a small one (four blocks of width 256) and four blocks of SmolLM2-135M's shape without its vocabulary, in
float32 and bfloat16; records of 20, 80 and 320 tokens, in turn, round by round. Seconds are of CPU; ratios with the
least and the most of them. The record that is read alone to check the batch is taken off, and rows of any length go
together here.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from itertools import product
from typing import Any

import torch

from benchmarks import machine
from tunewright.contract.batch import Row
from tunewright.contract.reader import Reader
from tunewright.contract.records import Record
from tunewright.data.select import _by_row
from tunewright.data.select._by_row import gradients
from tunewright.data.select._gradients import adapter, gradient
from tunewright.models.adapted import Adapted
from tunewright.tasks import get_task

NAME, RANK, VOCABULARY = "less", 8, 512
WIDTHS = {"width 256": (256, 768, 4, 4), "width 576": (576, 1536, 9, 3)}
LENGTHS = {20: 48, 80: 24, 320: 6}
"""Tokens of a record, and how many there are."""


def model(hidden: int, inner: int, heads: int, shared: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes: Any = {"hidden_size": hidden, "intermediate_size": inner, "num_attention_heads": heads}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCABULARY, num_hidden_layers=4, num_key_value_heads=shared, **sizes)
    )


def rows(tokens: int, count: int) -> dict[str, Row]:
    rng = random.Random(tokens)
    some = {
        f"r{i}": [rng.randrange(3, VOCABULARY) for _ in range(tokens - rng.randrange(tokens // 4))]
        for i in range(count)
    }
    return {
        name: Row(input_ids=ids, weights=[1.0] * len(ids), id=name, source="made", fields={})
        for name, ids in some.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    _by_row.SHORT = max(LENGTHS)
    told: dict[str, Any] = {"machine": machine.describe("float32 and bfloat16", 1)}
    for called, dtype in product(WIDTHS, (torch.float32, torch.bfloat16)):
        adapted = Adapted(model(*WIDTHS[called]).to(dtype).requires_grad_(False), None)
        sites = [s for s in adapted.structure.sites if s.block is not None and s.kind == "linear"]
        for tokens, count in LENGTHS.items():
            of = rows(tokens, count)
            records = [Record({"text": name}, id=name, where=name) for name in of]
            reader = Reader(NAME, adapted, get_task("text-generation"), lambda r, of=of: [of[r.id]], packed=True)  # type: ignore[misc]
            with adapter(reader, NAME, sites, RANK, 1.0, random.Random(0)) as parameters:

                def alone(reader: Any = reader, records: Any = records, parameters: Any = parameters) -> float:
                    began = time.process_time()
                    for r in records:
                        gradient(reader.loss(r), parameters, r.where)
                    return time.process_time() - began

                def together(reader: Any = reader, records: Any = records, sites: Any = sites) -> float:
                    began = time.process_time()
                    assert len(list(gradients(reader, NAME, sites, records))) == len(records)
                    return time.process_time() - began

                alone(), together()
                rounds = [(a, b - a / count) for a, b in ((alone(), together()) for _ in range(options.rounds))]
            ratios = sorted(a / b for a, b in rounds)
            told[f"{called}, {str(dtype).removeprefix('torch.')}, {tokens} tokens"] = {
                "records a second": [round(count / statistics.median(r[i] for r in rounds), 1) for i in (0, 1)],
                "times as fast": [round(r, 2) for r in (ratios[0], statistics.median(ratios), ratios[-1])],
            }
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
