"""The comparison of continual methods: its page from cells, and recipes that say what its arms say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import continual_peer
from benchmarks.continual import ARMS, JOINT, STREAMS, cells, recipe_of
from benchmarks.continual_data import Stream, write
from benchmarks.continual_page import page
from tunewright.catalogue import entries
from tunewright.recipe import Recipe


def cell(arm: str, order: int, accuracy: float, **more: float) -> dict[str, object]:
    own = {"direction": "higher", "base": 0.1, "held_bytes": 0.0, "train_seconds": 3.0, "forgetting": 0.5}
    return {"stream": "digits", "arm": arm, "order": order, "accuracy": accuracy, **own, **more}


def test_arms_stand_by_their_mean_and_are_paired_by_order() -> None:
    done = [cell("full", i, a) for i, a in enumerate((0.2, 0.3, 0.4))]
    done += [cell("er", i, a, held_bytes=2e6) for i, a in enumerate((0.52, 0.6, 0.71))]
    said = page({str(i): c for i, c in enumerate(done)})  # type: ignore[arg-type]
    lines = [line for line in said.splitlines() if line.startswith("| `")]
    assert lines[0].startswith("| `er` | 61.0 % [") and lines[1].startswith("| `full` | 30.0 % [")
    assert "+31.0 [" in lines[0] and lines[0].split("|")[3].strip().endswith("*") and "2.0 MB" in lines[0]
    assert "Not run yet: `lora`, `joint`" in said and said.count("Not run yet.") == len(STREAMS) - 1


def test_what_refuses_is_named_with_its_reason() -> None:
    refused = {"stream": "languages", "arm": "ranpac", "order": 0, "refused": "it is for classes"}
    lost = cell("full", 0, 3.0) | {"stream": "languages", "direction": "lower"}
    said = page({"a": refused, "b": lost})  # type: ignore[dict-item]
    assert "Refused here: `ranpac` (it is for classes)." in said and "| `full` | 3.000 |" in said


def test_every_arm_names_what_there_is() -> None:
    known = set(entries())
    named = {n for a in ARMS.values() for use in a["methods"] for n in ([use] if isinstance(use, str) else use)}
    assert named <= known, named - known
    assert [c[2] for c in cells(2)].index(1) == len(ARMS) * len(STREAMS), "one order of all before the next"


def test_a_recipe_of_an_arm_has_its_own_parts() -> None:
    stream = STREAMS[0]
    tree = recipe_of(stream, "full+wise-ft", 2, Path("a"), Path("b"))
    assert tree["after"] and tree["tasks"] == {**stream.tasks, "order_seed": 2, "carry": "fold"}
    assert recipe_of(stream, "mos", 0, Path("a"), Path("b"))["tasks"]["carry"] == "frozen" and JOINT in ARMS


@pytest.mark.parametrize("pictures", [False, True])
def test_rows_that_are_measured_on_are_never_trained_on(tmp_path: Path, pictures: bool) -> None:
    def read(folder: Path) -> list[dict[str, object]]:
        rows = [{"text": f"row {i}", "label": str(i % 3)} for i in range(30)]
        shown = [{"image": np.full((4, 4), i, dtype=np.uint8), "label": str(i % 3)} for i in range(30)]
        return shown if pictures else rows

    stream = Stream("s", "w", "m", "t", {"by": "label"}, read, "label", train=6, test=3, epochs=1)
    train, test = write(stream, tmp_path, tmp_path)
    if pictures:
        a, b = (np.load(f) for f in (train, test))
        assert not {int(x.max()) for x in a["x"]} & {int(x.max()) for x in b["x"]}
        assert np.bincount(a["y"]).tolist() == [6] * 3 and np.bincount(b["y"]).tolist() == [3] * 3
    else:
        lines = [set(f.read_text().splitlines()) for f in (train, test)]
        assert len(lines[0]) == 18 and len(lines[1]) == 9 and not lines[0] & lines[1]
    with pytest.raises(ValueError, match="too few rows"):
        write(Stream("s", "w", "m", "t", {}, read, "label", train=9, test=3, epochs=1), tmp_path, tmp_path)


def test_a_peers_figures_stand_beside_ours_paired_by_order() -> None:
    sides = {"ours": (0.5, 0.6), "avalanche": (0.4, 0.52)}
    beside = {
        f"{side} er {o}": {"accuracy": a, "forgetting": 1 - a} for side, of in sides.items() for o, a in enumerate(of)
    }
    beside["ours der 0"] = {"accuracy": 0.9, "forgetting": 0.1}  # the other side was not run
    said = page({}, beside)
    assert "## Beside Avalanche" in said and "| `der` |" not in said.split("## Beside")[1]
    row = next(line for line in said.splitlines() if line.startswith("| `er` |"))
    columns = [c.strip() for c in row.strip("|").split("|")]
    assert columns[1].startswith("55.0 %") and columns[2].startswith("46.0 %") and columns[3].startswith("+9.0 [")
    assert columns[4].startswith("+45.0") and columns[5].startswith("+54.0") and columns[6] == "2"
    assert "Beside Avalanche" not in page({})


def test_both_sides_of_a_cell_read_the_same_recipe(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "mnist"
    folder.mkdir()
    labels = np.repeat(np.arange(10), 150)
    np.savez(folder / "train.npz", x=rng.integers(0, 255, (1500, 28, 28)).astype(np.uint8), y=labels)
    for arm in continual_peer.ARMS:
        file, *_ = continual_peer.recipe_file(arm, 1, tmp_path, tmp_path / "work")
        recipe = Recipe.load(file)
        assert recipe.sequence is not None
        assert sorted(c for t in recipe.sequence.tasks for c in t.classes or ()) == list("0123456789")
        assert [use.name for use in recipe.stages[0].methods] == [arm.rstrip("+"), "full"]
        assert recipe.stages[4].budget.epochs == 1 and recipe.stages[1].carry == (
            "frozen" if arm == "icarl" else "fold"
        )


def test_no_share_is_above_the_whole():
    from benchmarks.continual_page import figure

    assert figure([0.95, 0.94], False) == "94.5 % [88.1, 100.0]"
    assert figure([0.99, 0.95], False, change=True).endswith(", +100.0] *")
    assert figure([1.5, 1.4], True).endswith(", 2.085]")
