"""Files of merges with mistakes in them: each ends as one message of ours, never in a traceback, and leaves nothing."""

from __future__ import annotations

import copy
import math
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import tiny
from tunewright.errors import TunewrightError
from tunewright.weights import several
from tunewright.weights.stream import merge

ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 10**30, 0.5, -0.5, 1e400, math.nan, "", "a", "base", "union", "auto", "nothing"),
    *(
        "a+b",
        "+",
        "a+",
        "+a",
        "a@main",
        "@",
        "../a",
        "/",
        ".",
        "~",
        "~nosuchuser/x",
        "x\0y",
        "\u00e9",
        "1e-3",
        "10%",
        "{{",
    ),
    *("a" * 5000, [], {}, [[]], [{}], {"": 1}, {"model": 3}, {"filter": 3, "value": 1}, [{"filter": "x"}], [1, "a"]),
    *(
        {"value": {"value": 1}},
        [0, 1],
        [{"value": []}],
        [None],
        {"kind": "zero"},
        {"path": "a"},
        {"a": {"source": "b"}},
    ),
]
SEEDS: list[dict[str, Any]] = [
    {
        "merge_method": "ties",
        "base_model": "base",
        "models": [
            {"model": "a", "parameters": {"weight": 0.5, "density": [0.1, 0.9]}},
            {"model": "b", "parameters": {"weight": [{"filter": "mlp", "value": 0.5}, {"value": 1.0}]}},
        ],
        "parameters": {"normalize": True, "int8_mask": True, "lambda": 0.5},
        "dtype": "float32",
        "seed": 1,
    },
    {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": "a", "layer_range": [0, 1], "parameters": {"scale": 0.5}}]},
            {
                "sources": [{"model": "b", "layer_range": [0, 2]}],
                "parameters": {"scale": [{"filter": "o", "value": 1}]},
            },
        ],
        "out_dtype": "bfloat16",
    },
    {
        "merge_method": "slerp",
        "base_model": "a",
        "slices": [{"sources": [{"model": "a", "layer_range": [0, 2]}, {"model": "b", "layer_range": [0, 2]}]}],
        "parameters": {"t": [{"filter": "self_attn", "value": [0, 1]}, {"value": 0.5}]},
    },
    {
        "merge_method": "linear",
        "modules": {"default": {"models": [{"model": "a"}, {"model": "b"}], "parameters": {"weight": 1}}},
        "tokenizer": {
            "source": "union",
            "pad_to_multiple_of": 8,
            "tokens": {
                "<x>": {"source": {"kind": "zero"}, "force": True},
                "<y>": {"source": {"kind": "model_token", "model": "a", "token_id": 3}},
                "<z>": {"source": "b"},
            },
        },
        "chat_template": "chatml",
    },
    {
        "merge_method": "task_arithmetic",
        "base_model": {"model": {"path": "base"}},
        "models": [{"model": "a"}],
        "tokenizer_source": "base",
        "after": [{"lines": {"alpha": 0.5, "beta": 0.5}}],
        "defaults": "papers",
    },
]
METHODS = (
    "linear slerp nuslerp multislerp karcher passthrough task_arithmetic ties dare_linear dare_ties della della_linear "
    "breadcrumbs breadcrumbs_ties model_stock arcee_fusion nearswap ram ramplus_tl sce regmean pleas lines lora"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fuzz")
    for i, name in enumerate(("base", "a", "b")):
        tiny.llama(seed=i, layers=2, hidden=16).save_pretrained(out / name)
        tiny.tokenizer().save_pretrained(out / name)
    return out


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    out = [path] if path else []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return out + [p for k, v in items for p in places(v, (*path, k))]


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def mutated(rng: random.Random) -> str:
    """One file: some values of a good one put out of order, then perhaps its text."""
    tree: Any = copy.deepcopy(rng.choice(SEEDS))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        path = rng.choice(places(tree))
        holder, key = at(tree, path[:-1]), path[-1]
        what = rng.randrange(6)
        if what == 0:
            del holder[key]
        elif what == 1 and isinstance(holder, dict):
            holder[rng.choice(["", "x", "model", "models", "slices", "weight", "t", 3, None])] = holder.pop(key)
        elif what == 2:
            holder[key] = copy.deepcopy(at(tree, rng.choice(places(tree))))
        elif what == 3:
            holder[key] = rng.choice([[holder[key]], {"value": holder[key]}, {"model": holder[key]}])
        elif what == 4:
            tree["merge_method"] = rng.choice(METHODS)
        else:
            holder[key] = copy.deepcopy(rng.choice(ODD))
        if not places(tree):
            break
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=False)
    if rng.random() < 0.2:
        i = rng.randrange(len(text) + 1)
        junk = [
            "\t",
            "---\n",
            "&a ",
            "*a",
            "!!python/name:os.system ",
            "<<: *b\n",
            "{",
            "]",
            ": ",
            "\0",
            "2024-13-45",
            "- ",
        ]
        text = text[:i] + rng.choice(junk) + text[i + rng.randrange(3) :]
    return text


def run(folder: Path, out: Path, seeds: range) -> None:
    file = folder / "merge.yml"
    for seed in seeds:
        text = mutated(random.Random(seed))
        file.write_text(text, encoding="utf-8")
        target = out / str(seed)
        try:
            several.merge_all(file, target, partial(merge, forward=False))
        except TunewrightError as e:
            assert e.where or e.remedy, f"seed {seed}: {e}\n{text}"
            assert not target.exists(), f"seed {seed} left a result\n{text}"
        except Exception as e:
            raise AssertionError(f"seed {seed} ends in {type(e).__name__}: {e}\n{text}") from e


@pytest.fixture(autouse=True)
def alone(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that are no folders are looked for nowhere else, and the working folder has none of them."""
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tunewright.loading.locate._reachable", lambda: False)
    monkeypatch.chdir(tmp_path)


def test_a_file_with_mistakes_ends_in_a_message(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out", range(80))


@pytest.mark.slow
def test_many_files_with_mistakes_end_in_messages(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out", range(1000, 11_000))
