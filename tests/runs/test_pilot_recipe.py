"""PILOT's comparison as a recipe, pilot.yaml: what it makes of a folder of pictures, and the methods that it names."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tunewright import catalogue
from tunewright.contract.combining import check_conflicts
from tunewright.recipe import Recipe
from tunewright.tasks import get_task

FILE = Path(__file__).parents[2] / "recipes" / "papers" / "pilot.yaml"


def named() -> list[str]:
    """The arms that the head of the recipe compares."""
    text = " ".join(line.lstrip("# ") for line in FILE.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    found = re.search(r"--methods ((?:[a-z0-9+-]+,\s*)+[a-z0-9+-]+)", text)
    assert found is not None
    return re.split(r",\s*", found[1])


def test_the_classes_of_a_folder_are_five_tasks(tmp_path):
    for split in ("train", "test"):
        for c in range(10):
            (tmp_path / "data" / "pictures" / split / f"class{c}").mkdir(parents=True)
            for k in range(2):
                pixels = np.full((8, 8, 3), 20 * c + k, np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / "pictures" / split / f"class{c}" / f"{k}.png")
    shutil.copy(FILE, tmp_path)
    sequence = Recipe.load(tmp_path / FILE.name).sequence
    assert [t.classes for t in sequence.tasks] == [[f"class{i}", f"class{i + 1}"] for i in range(0, 10, 2)]
    assert sequence.scenario == "class-incremental"
    larger = Recipe.load(tmp_path / FILE.name, ["tasks.first=6"]).sequence
    assert [len(t.classes) for t in larger.tasks] == [6, 1, 1, 1, 1]


@pytest.mark.parametrize("arm", [n for n in named() if not n.startswith("joint")])
def test_each_method_that_it_names_serves_pictures(arm):
    methods = [(n, catalogue.load_method(n)()) for n in arm.split("+")]
    check_conflicts(methods, stage="main", task=get_task("image-classification"))


def test_the_methods_of_pilot_that_are_here_are_named():
    theirs = "simplecil-adam ranpac l2p dualprompt coda-prompt ease mos lae icarl der-expandable memo foster full"
    assert set(theirs.split()) == {n for arm in named() for n in arm.split("+")} - {"joint"}
