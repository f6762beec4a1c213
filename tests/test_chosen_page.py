"""The comparison of selectors: what its cells are, and what its page says of them."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks import chosen
from benchmarks.chosen_page import page
from benchmarks.defaults_data import Rows
from tunewright.compare.arms import ComparedArm
from tunewright.compare.result import Comparison
from tunewright.errors import MethodError
from tunewright.recipe import Recipe
from tunewright.report.compare_schema import ArmFigures, RunFigures

SELECTOR = chosen.SELECTORS[0]


def figures(*targets: float, flops: float | None = 2e9, edge: bool = False) -> dict[str, object]:
    return {"rate": 0.01, "rate_at_edge": edge, "targets": list(targets), "flops_per_token": flops}


def cell(corpus: str, own: dict[str, object]) -> dict[str, object]:
    return {"corpus": corpus, "selector": SELECTOR, "base": 0.5, "figures": own} | {
        "random": figures(0.5, 0.52, 0.51, 0.5, 0.52),
        "all": figures(0.6, 0.61, 0.6, 0.6, 0.61),
    }


def test_the_page_says_what_helped_beside_both_baselines_better_upwards():
    better = cell("reviews", figures(0.6, 0.62, 0.61, 0.6, 0.62, flops=3e9))
    lower = cell("laws", figures(0.4, 0.42, 0.41, 0.4, 0.42, edge=True))
    refused = {"corpus": "laws", "selector": "less:keep=10%", "refused": "no gradients here"}
    text = page({"a": better, "b": lower, "c": refused})
    reviews, laws = text.split("## Reviews")[1].split("## Laws")
    rows = [line for line in reviews.splitlines() if line.startswith("| ") and "%" in line]
    assert rows[0] == f"| `{SELECTOR}` | 61.0% | +10.0 [+10.0, +10.0]* | +0.6 [-0.1, +1.3] | 1.50 | 0.01 |"
    assert rows[1].startswith("| all rows | 60.4% |") and rows[1].split("|")[4].strip() == ""
    assert rows[2].startswith("| `random:keep=10%` | 51.0% |") and rows[2].split("|")[3].strip() == ""
    first = next(line for line in laws.splitlines() if line.startswith("| `"))
    assert first.startswith(f"| `{SELECTOR}` | 0.410 | +0.100 [+0.100, +0.100]* |") and "outermost tried" in first
    assert "`less:keep=10%` (no gradients here)" in laws and "Not run yet: `quality-classifier" in laws
    assert text.count("\nNot run yet.\n") == 1


def test_a_cell_for_every_selector_on_every_corpus():
    keys = [f"{corpus.name} {selector}" for corpus, selector in chosen.cells()]
    assert len(set(keys)) == len(keys) == len(chosen.CORPORA) * len(chosen.SELECTORS)


def write(file: Path, rows: Rows) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(file, "wt", encoding="utf-8") as text:
        text.writelines(json.dumps(row) + "\n" for row in rows)


def test_rows_to_aim_at_and_to_measure_on_are_of_the_task_and_of_other_parts(tmp_path: Path):
    for part in ("train", "valid", "test"):
        told = " ".join(f"{part}{i}" for i in range(130))
        docs = [{"genre": g, "text": f"{g} {told}"} for g in ("fiction", "email")]
        write(tmp_path / "masc-genres" / f"{part}.jsonl.gz", docs)
        reviews = [
            {"domain": d, "text": f"{d} {part} {i}", "label": i % 2} for i in range(9) for d in ("film", "product:x")
        ]
        write(tmp_path / "sentiment-domains" / f"{part}.jsonl.gz", reviews)
    genres = chosen.CORPORA[0].read(tmp_path)
    assert [len(r["text"].split()) for r in (*genres.pool, *genres.aim, *genres.evaluated)] == [60] * 8
    assert len(genres.pool) == 4 and all("valid" in r["text"] for r in genres.aim)
    assert all("test" in r["text"] and "email" not in r["text"] for r in genres.evaluated)
    reviews = chosen.CORPORA[1].read(tmp_path)
    assert len(reviews.pool) == 18 and {r["label"] for r in reviews.pool} == {"bad", "good"}
    assert all(r["text"].startswith("product:x") for r in (*reviews.aim, *reviews.evaluated))
    assert not {r["text"] for r in reviews.aim} & {r["text"] for r in (*reviews.evaluated, *reviews.pool)}


def test_a_cell_is_a_tuned_comparison_beside_random_and_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = [{"text": f"card {i} lost in a shop", "label": ["no", "yes"][i % 2]} for i in range(60)]
    split = chosen.Split(rows[:40], rows[40:50], rows[50:])
    corpus = chosen.Corpus("own", "cards", "minilm-l6", "text-classification", "accuracy", 500, lambda source: split)
    asked: list[tuple[list[str], int, bool]] = []

    def compared(recipe: Recipe, arms: list[ComparedArm], *, seeds: int, tune: bool, **how: object) -> Comparison:
        asked.append(([a.name for a in arms], seeds, tune))
        assert recipe.data.validation is not None and recipe.stages[0].budget.tokens == 500
        if "less" in arms[-1].name:
            raise MethodError("no gradients here")
        runs = [RunFigures(seed=s, status="finished", target=t, key="k") for s, t in ((1, 0.7), (0, 0.6))]
        made = [ArmFigures(name=a.name, methods=[], runs=runs, rate=0.1) for a in arms]
        return Comparison(
            name="c", model="m", task="t", budget={}, budget_words="", seeds=[0, 1], tuned=True, arms=made,
            base_target=0.5, finished=datetime.now(UTC),
        )  # fmt: skip

    monkeypatch.setattr("tunewright.compare.comparison.compare", compared)
    found = chosen.run_cell(corpus, "dsir:keep=10%", tmp_path, tmp_path / "work")
    assert found["figures"]["targets"] == found["all"]["targets"] == [0.6, 0.7] and found["base"] == 0.5
    for name, why in (("less", "no gradients here"), ("ifd", "'ifd' does not serve the task text-classification")):
        refused = chosen.run_cell(corpus, f"{name}:keep=10%", tmp_path, tmp_path / "work")
        assert refused == {"corpus": "own", "selector": f"{name}:keep=10%", "refused": why}
    assert [a[0][:2] for a in asked] == [["random:keep=10%", "none"]] * 2
    assert {a[1:] for a in asked} == {(chosen.SEEDS, True)}
