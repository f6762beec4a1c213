"""A step of rows of unlike lengths, padded together or read by length: `python -m benchmarks.lengths [--data FOLDER]`.

Sentences of reviews (sentiment-domains: 19 tokens in the middle, of at most 512) on MiniLM, 32 rows a step, forward and
backward of all weights, one thread. In turn on the same rows: a plain loop that pads a step to its longest row, as
`transformers.Trainer` does, and the groups that `training.micro_batches.by_length` makes. Seconds are of CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from benchmarks.defaults_data import TABLE
from tunewright.contract.batch import Row
from tunewright.loading.locate import locate
from tunewright.training.micro_batches import PADDING, by_length

ROWS, LONGEST = 32, 512


def steps(source: Path, tokenizer: Any, count: int) -> list[list[tuple[Row, int]]]:
    """Steps of rows, drawn by a fixed seed."""
    data = next(d for d in TABLE if d.name == "sentiment-domains")
    texts = random.Random(0).sample(data.read(source), 2 * ROWS * count)
    ids = tokenizer([t["text"] for t in texts], verbose=False)["input_ids"]
    labelled = [(x, int(t["label"] == "good")) for x, t in zip(ids, texts, strict=True) if len(x) <= LONGEST]
    rows = [(Row(str(i), "new", x, [1.0], y), 0) for i, (x, y) in enumerate(labelled)]
    return [rows[i * ROWS : (i + 1) * ROWS] for i in range(count)]


def seconds(model: Any, groups: list[list[tuple[Row, int]]], pad: int) -> float:
    """Of CPU, for the gradients of a step's mean loss."""
    model.zero_grad()
    began, total = time.process_time(), sum(map(len, groups))
    for group in groups:
        longest = max(row.size for row, _ in group)
        ids = torch.tensor([[*row.input_ids, *[pad] * (longest - row.size)] for row, _ in group])
        there = torch.tensor([[1] * row.size + [0] * (longest - row.size) for row, _ in group])
        labels = torch.tensor([row.label for row, _ in group])
        (model(input_ids=ids, attention_mask=there, labels=labels).loss * len(group) / total).backward()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder of data sets (default: TUNEWRIGHT_DATA)")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = locate("minilm-l6").folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2).train()
    found = steps(options.data or Path(os.environ["TUNEWRIGHT_DATA"]), tokenizer, options.steps)
    ratios, whole, apart = [], [], []
    for rows in found:
        whole.append(seconds(model, [rows], tokenizer.pad_token_id))
        apart.append(seconds(model, by_length(rows, PADDING["cpu"]), tokenizer.pad_token_id))
        ratios.append(whole[-1] / apart[-1])
    low, middle, high = (float(torch.tensor(ratios).quantile(q)) for q in (0.05, 0.5, 0.95))
    print(
        json.dumps(
            {
                "steps": len(found),
                "padded_seconds": round(statistics.mean(whole), 3),
                "by_length_seconds": round(statistics.mean(apart), 3),
                "all_steps_ratio": round(sum(whole) / sum(apart), 2),
                "a_step_ratio": [round(low, 2), round(middle, 2), round(high, 2)],
                **machine.describe("float32", 1),
            }
        )
    )


if __name__ == "__main__":
    main()
