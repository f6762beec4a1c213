"""The family's comparison: which methods it runs, and what its page says of cells."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import family
from benchmarks.family_page import compared, page
from tunewright import catalogue
from tunewright.compare.arms import ComparedArm
from tunewright.compare.compared import FILE, of_method, said
from tunewright.compare.result import Comparison
from tunewright.compare.suggested import Beside
from tunewright.errors import MethodError
from tunewright.recipe import Recipe
from tunewright.report.compare_schema import ArmFigures, RunFigures


def figures(*targets: float, **more: object) -> dict[str, object]:
    none = [None] * len(targets)
    plain = {"rate": 0.01, "rate_at_edge": False, "targets": list(targets), "lost": none, "drift": none}
    return plain | {"trained": 1234, "flops_per_token": 2e9} | more


def test_every_method_that_says_what_may_change_has_a_cell_on_every_task():
    rooms = {catalogue.entries()[n].room for n in family.methods()}
    assert rooms == set(family.ROOMS) and set(family.methods()[:2]) == {"lora", "full"}
    assert len(list(family.cells())) == len(family.TASKS) * (len(family.methods()) - 1)


def test_the_page_says_who_gained_and_by_how_much_beside_lora():
    lora = figures(0.5, 0.52, 0.51)
    cells = {
        "domains dora": {"figures": figures(0.6, 0.63, 0.6, drift=[0.1, 0.2, 0.3]), "beside": lora, "method": "dora"},
        "domains pissa": {"figures": figures(0.5, 0.53, 0.5, rate_at_edge=True), "beside": lora, "method": "pissa"},
        "domains hypter": {"refused": "it writes for tasks", "method": "hypter"},
    }
    text = page({k: {"task": "domains", "base": 0.1, "drift_measure": "1-cka", **c} for k, c in cells.items()})
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == ["dora", "lora", "pissa"]
    assert rows[0] == "| `dora` | 61.0% | +10.0 [+7.5, +12.5]* |  | 0.2 | 1,234 | 2e+09 | 0.01 |"
    assert "moved the model" not in text  # only one of them ended near
    assert "outermost tried" in rows[2] and "*" not in rows[2]
    assert "- `hypter`: it writes for tasks\n" in text and "Of 2 variants of LoRA that have run, 1 end" in text
    assert (
        "Serve other tasks: `bayesprompt`" in text
        and "Not run yet: `full`" in text
        and text.count("\nNot run yet.\n") == 2
    )


def test_the_page_says_whether_drift_tells_those_apart_that_end_alike():
    lora = figures(0.5, 0.52, 0.51, drift=[0.2, 0.2, 0.2])
    cells = {
        f"domains {name}": {"figures": figures(0.5, 0.53, 0.5, drift=[moved] * 3), "beside": lora, "method": name}
        for name, moved in (("dora", 0.1), ("pissa", 0.4), ("olora", 0.3))
    }
    text = page({k: {"task": "domains", "base": 0.1, "drift_measure": "kl", **c} for k, c in cells.items()})
    assert "These moved the model by 0.1 (`dora`) to 0.4 (`pissa`), `lora` by 0.2." in text


def test_differences_that_are_the_same_on_every_seed_are_told_without_a_star():
    lora = figures(0.5, 0.52, 0.51)
    cell = {"figures": figures(0.51, 0.53, 0.51 + 0.01), "beside": lora, "method": "dora", "task": "domains"}
    text = page({"domains dora": {**cell, "base": 0.1, "drift_measure": "1-cka"}})
    assert "| +1.0 (on each seed) |" in text


def test_the_package_keeps_what_the_page_says():
    cells = json.loads(family.RESULTS.read_text(encoding="utf-8"))
    kept = json.loads(FILE.read_text(encoding="utf-8"))
    assert kept == compared(cells) and len(kept) == sum("figures" in c for c in cells.values())
    assert family.PAGE.read_text(encoding="utf-8") == page(cells), "run: python -m benchmarks.family --page"


def test_what_was_compared_is_said_in_few_words():
    found = [Beside("domains", "b", "accuracy", 0.007, 0.007, 0.007), Beside("answers", "b", "f1", -0.1, -0.2, -0.01)]
    assert said(found) == "+0.7 domains, -10.0 answers*" and said([]) == ""
    assert {b.task for b in of_method("dora")} <= {t.name for t in family.TASKS} and of_method("dora")


def test_a_cell_is_a_tuned_comparison_with_lora_and_a_refusal_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = [{"text": f"card {i % 7} lost", "label": ["no", "yes"][i % 2]} for i in range(60)]
    data = SimpleNamespace(name="own", read=lambda source: list(rows))
    monkeypatch.setattr(family, "TABLE", [data])
    monkeypatch.setattr(family, "ROWS", 24)
    monkeypatch.setattr(family, "EVALUATED", 16)
    task = family.Task("domains", "own", "minilm-l6", 1, "accuracy", "text-classification")
    asked: list[tuple[list[str], int, bool]] = []

    def compared(recipe: Recipe, arms: list[ComparedArm], *, seeds: int, tune: bool, **how: object) -> Comparison:
        asked.append(([a.name for a in arms], seeds, tune))
        (source,) = recipe.data.train
        assert len((recipe.base / source.path).read_text().splitlines()) == 24 and recipe.data.validation is not None
        if arms[1].name == "prompt-tuning":
            raise MethodError("it serves text generation")
        runs = [RunFigures(seed=s, status="finished", target=t, key="k") for s, t in ((1, 0.7), (0, 0.6), (2, 0.8))]
        made = [ArmFigures(name=a.name, methods=[], runs=runs, rate=0.1, trainable_parameters=7) for a in arms]
        return Comparison(
            name="c", model="m", task="t", budget={}, budget_words="", seeds=[0, 1, 2], tuned=True, arms=made,
            base_target=0.5, finished=datetime.now(UTC),
        )  # fmt: skip

    monkeypatch.setattr("tunewright.compare.comparison.compare", compared)
    cell = family.run_cell(task, "bitfit", tmp_path, tmp_path / "work")
    assert cell["figures"]["targets"] == [0.6, 0.7, 0.8] and cell["figures"]["trained"] == 7 and cell["base"] == 0.5
    refused = family.run_cell(task, "prompt-tuning", tmp_path, tmp_path / "work")
    assert refused == {"task": "domains", "method": "prompt-tuning", "refused": "it serves text generation"}
    assert asked == [(["lora", m], family.SEEDS, True) for m in ("bitfit", "prompt-tuning")]
