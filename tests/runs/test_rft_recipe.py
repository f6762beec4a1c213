"""The recipe of the comparison of supervision and reinforcement over seven tasks, on rows made here."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

from tunewright import catalogue
from tunewright.contract.combining import check_conflicts
from tunewright.recipe import Recipe
from tunewright.tasks import get_task

FILE = Path(__file__).parents[2] / "recipes" / "papers" / "rft-vs-sft-forgetting.yaml"
KINDS = (
    *("first_word_letter", "letters_list", "singular_to_plural", "sum", "num_to_verbal", "larger_animal"),
    *("second_word_letter", "sentiment"),
)


def test_seven_of_the_files_kinds_are_tasks_of_either_arm(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "instruction-induction"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        rows = [
            {"task": k, "instruction": "Do it:", "input": f"{k} {i}", "output": f"{split} {i}"}
            for i in range(3)
            for k in KINDS
        ]
        with gzip.open(folder / f"{split}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.write("".join(json.dumps(r) + "\n" for r in rows))
    shutil.copy(FILE, tmp_path)
    recipe = Recipe.load(tmp_path / FILE.name)
    assert [t.name for t in recipe.sequence.tasks] == list(KINDS[:7])
    named = [use.name for use in recipe.stages[0].methods]
    assert named == ["full", "grpo", "exact-answer"] and recipe.stages[3].methods == recipe.stages[0].methods
    methods = [(n, catalogue.load_method(n)()) for n in named]
    check_conflicts(methods, stage="main", task=get_task("text-generation"))
    supervised = Recipe.load(tmp_path / FILE.name, ["methods=[full]"])
    assert [use.name for use in supervised.stages[6].methods] == ["full"]
    assert [s.budget for s in supervised.stages] == [s.budget for s in recipe.stages], "the same rows for both"
