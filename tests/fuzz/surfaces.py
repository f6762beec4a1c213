"""What a user hands to Tunewright, each kind with a good example, its damage, and the command that reads it.

To extend: write a function (folder, rng) -> arguments, and add it to SURFACES.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from tests import small, tiny
from tests.fuzz import mutate
from tests.fuzz.tables import folders, tables

Surface = Callable[[Path, random.Random], list[str]]
"""Damages something in `folder`, a copy of what `prepare` made, and returns the command line that meets it."""

RICH: dict[str, Any] = {
    **small.RECIPE,
    "name": "fuzzed",
    "data": {
        **small.RECIPE["data"],
        "replay": {"keep": 0.1},
        "train": [{"path": "train.jsonl", "weight": 1.0, "limit": 20}],
        "shuffle": True,
    },
    "keep": [{"data": "keep.txt", "name": "keep", "metric": "loss", "limit": 3}],
    "after": [{"lines": {"alpha": 0.2}}],
    "probes": ["intruder-dimensions"],
    "stages": [
        {"name": "one", "methods": [{"lora": {"rank": 2, "target_modules": ["q_proj"]}}], "budget": {"steps": 1}},
        {"name": "two", "start": "stages.one", "carry": "fold", "methods": ["hft"], "budget": {"tokens": "1k"}},
    ],
}

MERGE: dict[str, Any] = {
    "merge_method": "ties",
    "base_model": "./base",
    "models": [
        {"model": "./base", "parameters": {"weight": 0.5, "density": 0.5}},
        {"model": "./other", "parameters": {"weight": [0.1, 0.9], "density": [{"filter": "mlp", "value": 0.3}, 0.5]}},
    ],
    "parameters": {"normalize": True, "lambda": 1.0},
    "dtype": "float32",
    "tokenizer_source": "base",
}

SLICES: dict[str, Any] = {
    "merge_method": "passthrough",
    "slices": [
        {"sources": [{"model": "./base", "layer_range": [0, 1]}]},
        {"sources": [{"model": "./other", "layer_range": [1, 2], "parameters": {"scale": 1.0}}]},
    ],
    "dtype": "float32",
}

ROWS: tuple[dict[str, Any], ...] = (
    {"prompt": "card lost fee", "completion": "lost card"},
    {"messages": [{"role": "user", "content": "card lost"}, {"role": "assistant", "content": "lost card"}]},
    {"text": "card lost fee cash rate abroad"},
    {"instruction": "name it", "input": "card", "output": "lost card"},
    {"conversations": [{"from": "human", "value": "card"}, {"from": "gpt", "value": "lost card"}]},
    {"prompt": "card", "chosen": "lost card", "rejected": "cash fee"},
)


def prepare(folder: Path) -> None:
    """A model, another of its shape, rows, a recipe, an adapter and a finished run."""
    small.write_inputs(folder, train=12, test=4)
    torch.manual_seed(1)
    tiny.llama(seed=1).save_pretrained(folder / "other")
    tiny.tokenizer().save_pretrained(folder / "other")
    small.write_recipe(folder)
    import tunewright

    tunewright.run(small.write_recipe(folder, "done", stages__0__budget={"steps": 1}), out=folder / "run", quiet=True)


def _recipe(folder: Path, tree: Any, rng: random.Random) -> Path:
    file = folder / "fuzzed.yaml"
    body = yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")
    file.write_bytes(mutate.raw(body, rng) if rng.random() < 0.3 else body)
    return file


def recipe(folder: Path, rng: random.Random) -> list[str]:
    file = _recipe(folder, mutate.tree(rng.choice((RICH, small.RECIPE)), rng, rng.choice((1, 1, 2, 4))), rng)
    return ["check", str(file)]


def planned(folder: Path, rng: random.Random) -> list[str]:
    return ["plan", str(_recipe(folder, mutate.tree(small.RECIPE, rng, rng.choice((1, 2))), rng))]


def rows(folder: Path, rng: random.Random) -> list[str]:
    """A file of rows: JSON lines, one JSON value, CSV or plain text."""
    few = [mutate.tree(rng.choice(ROWS), rng, rng.choice((0, 1, 2))) for _ in range(rng.choice((1, 4)))]
    body = b"\n".join(map(mutate.json_bytes, few))
    kind = rng.choice(("jsonl", "jsonl", "json", "csv", "txt", "parquet"))
    if kind == "json":
        body = mutate.json_bytes(few)
    elif kind == "csv":
        body = b"prompt,completion\n" + b"\n".join(b'"card, lost",%d' % i for i in range(3))
    (folder / f"fuzzed.{kind}").write_bytes(mutate.raw(body, rng) if rng.random() < 0.5 else body)
    file = small.write_recipe(folder, "fuzzed", data={"train": f"fuzzed.{kind}", "max_length": 64}, keep=[])
    return ["check", str(file)]


_MODEL_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
)


def model(folder: Path, rng: random.Random) -> list[str]:
    """A model's folder: one of its files damaged, gone, or something else in its place."""
    names = [n for n in (*_MODEL_FILES, "model.safetensors") if (folder / "base" / n).exists()]
    _spoil(folder / "base" / rng.choice(names), rng)
    return ["plan" if rng.random() < 0.3 else "check", str(folder / "r.yaml")]


def merged(folder: Path, rng: random.Random) -> list[str]:
    file = _recipe(folder, mutate.tree(rng.choice((MERGE, SLICES)), rng, rng.choice((1, 1, 2, 3))), rng)
    return ["merge", str(file), "--out", str(folder / "merged")]


def weights(folder: Path, rng: random.Random) -> list[str]:
    """A merge of a model one of whose files is damaged."""
    _spoil(folder / "other" / rng.choice(("model.safetensors", "config.json", "tokenizer.json")), rng)
    return ["merge", str(folder / "base"), str(folder / "other"), "--out", str(folder / "merged")]


def run_folder(folder: Path, rng: random.Random) -> list[str]:
    """A finished run's folder, one file of it damaged, then read again."""
    files = sorted(
        p for p in (folder / "run").rglob("*") if p.is_file() and p.suffix in (".json", ".yaml", ".safetensors")
    )
    _spoil(rng.choice(files), rng)
    verb = rng.choice(("export", "resume", "verify", "start", "merge"))
    if verb == "start":
        file = small.write_recipe(folder, "fuzzed", stages__0__start="./run", stages__0__budget={"steps": 1})
        return ["check", str(file)]
    if verb == "merge":
        return ["merge", str(folder / "run"), str(folder / "other"), "--out", str(folder / "merged")]
    if verb == "verify":
        return ["resume", str(folder / "run"), "--verify", "-q"]
    return [verb, str(folder / "run"), *(["-q"] if verb == "resume" else ["--out", str(folder / "exported")])]


def adapter(folder: Path, rng: random.Random) -> list[str]:
    """A PEFT adapter's folder, damaged, as the start of a run or as an input of a merge."""
    found = next((folder / "run").rglob("adapter_config.json"), None)
    if found is None:
        shutil.copytree(folder / "other", folder / "adapter")
    else:
        shutil.copytree(found.parent, folder / "adapter")
    _spoil(rng.choice(sorted(p for p in (folder / "adapter").iterdir() if p.is_file())), rng)
    if rng.random() < 0.5:
        return ["merge", str(folder / "adapter"), str(folder / "base"), "--out", str(folder / "merged")]
    return ["check", str(small.write_recipe(folder, "fuzzed", stages__0__start="./adapter"))]


def flags(folder: Path, rng: random.Random) -> list[str]:
    """A command line with words taken out, doubled or written wrongly."""
    lines = (
        ["check", str(folder / "r.yaml"), "--set", "train.seed=1"],
        ["plan", str(folder / "r.yaml"), "--set", "stages.0.budget.steps=1", "--json"],
        ["methods", "lora", "--json"],
        [
            "merge",
            str(folder / "base"),
            str(folder / "other"),
            "--method",
            "slerp",
            "--t",
            "0.5",
            "--out",
            str(folder / "m"),
        ],
        ["init", str(folder / "base"), str(folder / "train.jsonl"), "--out", str(folder / "new.yaml")],
        ["export", str(folder / "run"), "--out", str(folder / "exported")],
        ["papers", "list"],
        ["schema"],
    )
    line = list(rng.choice(lines))
    for _ in range(rng.choice((1, 1, 2))):
        i = rng.randrange(len(line))
        change = rng.choice(("slip", "drop", "twice", "value", "more"))
        if change == "slip":
            line[i] = mutate.text(line[i], rng)
        elif change == "drop" and len(line) > 1:
            del line[i]
        elif change == "twice":
            line.insert(i, line[i])
        elif change == "value":
            line[i] = str(mutate.atom(rng))
        else:
            line += [
                "--set",
                f"{rng.choice(('train.seed', 'stages.0', 'x', 'data.train', 'measure'))}={mutate.atom(rng)}",
            ]
    return [word.encode("utf-8", "replace").decode().replace("\0", "") for word in line]


def _spoil(file: Path, rng: random.Random) -> None:
    """Damage one file as its kind allows."""
    data = file.read_bytes()
    if file.suffix == ".json" and rng.random() < 0.7:
        try:
            value = json.loads(data)
        except ValueError:
            value = {}
        file.write_bytes(mutate.json_bytes(mutate.tree(value, rng, rng.choice((1, 1, 3)))))
    elif file.suffix == ".safetensors" and rng.random() < 0.6:
        _header(file, data, rng)
    elif rng.random() < 0.1:
        file.unlink()
        if rng.random() < 0.5:
            file.mkdir()
    else:
        file.write_bytes(mutate.raw(data, rng))


def _header(file: Path, data: bytes, rng: random.Random) -> None:
    length = int.from_bytes(data[:8], "little")
    header = mutate.tree(json.loads(data[8 : 8 + length]), rng, rng.choice((1, 2)))
    body = mutate.json_bytes(header)
    said = len(body) if rng.random() < 0.8 else rng.choice((0, len(body) // 2, 2**40, 2**63))
    file.write_bytes(said.to_bytes(8, "little") + body + data[8 + length :])


SURFACES: dict[str, tuple[Surface, float]] = {
    "recipe": (recipe, 0.3),
    "rows": (rows, 0.1),
    "tables": (tables, 0.1),
    "folders": (folders, 0.04),
    "merged": (merged, 0.16),
    "flags": (flags, 0.1),
    "model": (model, 0.06),
    "weights": (weights, 0.04),
    "run_folder": (run_folder, 0.05),
    "adapter": (adapter, 0.03),
    "planned": (planned, 0.02),
}
"""Surface -> (its damage, its share of the inputs), which is small where a model is loaded or trained: that is slow."""
