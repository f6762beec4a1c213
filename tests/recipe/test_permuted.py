"""Tasks that are the same pictures with their pixels in another order: permuted MNIST as a stream."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tunewright.contract.records import RowProblem
from tunewright.data.permuted import reordered
from tunewright.data.read import read_all
from tunewright.errors import TunewrightError
from tunewright.recipe import Recipe


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, n in (("train", 6), ("test", 3)):
        np.savez(tmp_path / f"{name}.npz", x=rng.integers(0, 256, (n, 5, 4), dtype=np.uint8), y=np.arange(n) % 3)
    return tmp_path


def load(folder: Path, tasks: str, data: str = "{train: train.npz, eval: test.npz}") -> Recipe:
    lines = ["model: nano-vit", "task: image-classification", f"data: {data}", f"tasks: {tasks}"]
    (folder / "r.yaml").write_text("\n".join([*lines, "methods: [full]", "budget: {steps: 1}"]))
    return Recipe.load(folder / "r.yaml")


def seen(recipe: Recipe, sources) -> np.ndarray:
    return np.stack([np.asarray(r["image"]) for s in sources for r in read_all(s, recipe.base).records])


def test_each_task_has_all_rows_in_an_order_of_pixels_of_its_own(digits):
    recipe = load(digits, "{permuted: 3}")
    plain = np.load(digits / "train.npz")["x"]
    each = [seen(recipe, recipe.data_for(s).train) for s in recipe.stages]
    assert np.array_equal(each[0], plain) and [s.name for s in recipe.stages] == ["order-1", "order-2", "order-3"]
    orders = []
    for made in each[1:]:
        flat, given = plain.reshape(6, -1), made.reshape(6, -1)
        order = [int(np.flatnonzero((flat == given[:, [j]]).all(0))[0]) for j in range(20)]
        assert sorted(order) == list(range(20)) and order != list(range(20))  # one order for all its pictures
        assert np.array_equal(flat[:, order], given)
        orders.append(order)
    assert orders[0] != orders[1] and recipe.sequence.scenario == "domain-incremental"
    judged = [s for s in recipe.data.eval if s.name in recipe.sequence.tasks[2].eval]
    test = np.load(digits / "test.npz")["x"].reshape(3, -1)
    assert np.array_equal(seen(recipe, judged).reshape(3, -1), test[:, orders[1]])  # measured in the same order


def test_the_orders_are_equal_for_equal_seeds_and_read_back(digits):
    first, other = load(digits, "{permuted: 2}"), load(digits, "{permuted: 2, order_seed: 1}")
    (digits / "again.yaml").write_text(first.dump(absolute=True))
    again = Recipe.load(digits / "again.yaml")
    told = [s.permute for r in (first, again, other) for s in r.data_for(r.stages[1]).train]
    assert told[0] == told[1] != told[2] and again.sequence == first.sequence


def test_colours_stay_together_and_what_has_no_pixels_is_refused():
    colour = np.arange(2 * 3 * 3).reshape(2, 3, 3)
    moved = reordered(colour.tolist(), 7)
    assert sorted(map(tuple, moved.reshape(6, 3).tolist())) == sorted(map(tuple, colour.reshape(6, 3).tolist()))
    for image, says in (("a.png", "picture in a file"), (None, "no picture"), ([1, 2], "no picture")):
        with pytest.raises(RowProblem, match=says):
            reordered(image, 1)


@pytest.mark.parametrize(
    ("tasks", "says"),
    [
        ("{permuted: 1}", "permuted"),
        ("{permuted: 3, by: label}", "both `by` and `permuted` say"),
        ("{permuted: 3, count: 2}", "'count' is of values of a column"),
    ],
)
def test_what_is_wrong_is_said_in_one_message(digits, tasks, says):
    with pytest.raises(TunewrightError) as caught:
        load(digits, tasks)
    assert says in str(caught.value) and str(caught.value).count("\n") == 1


def test_rows_whose_pictures_are_files_are_told(digits):
    rows = [{"image": f"{i}.png", "label": str(i % 2)} for i in range(4)]
    (digits / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = load(digits, "{permuted: 2}", "{train: rows.jsonl, eval: rows.jsonl}")
    (source,) = recipe.data_for(recipe.stages[1]).train
    problems = read_all(source, recipe.base).problems
    assert [p.where for p in problems] == [f"order-2:{i}" for i in range(1, 5)]
    assert all("picture in a file" in p.reason for p in problems)
