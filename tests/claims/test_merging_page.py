from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tunewright.claims import merging_page as page
from tunewright.claims import merging_table as table

ROOT = Path(__file__).parent.parent.parent


def made(shift: float = 0.1) -> dict:
    """Two seeds, eight tasks; ties is above task-arithmetic by `shift` in both, linear by 0.1 and -0.1."""
    gains = {
        "task-arithmetic": (0.4, 0.4),
        "ties": (0.4 + shift, 0.4 + shift),
        "linear": (0.5, 0.3),
        "atlas": (0.72, 0.72),
        "slerp": (0.4, 0.4),
    }
    cells = {
        f"{seed}/{n}/{name}": {
            "scores": [by[seed]] * (n - 1) + [by[seed] / 2],
            "drift": 0.5,
            "kept": 0.9,
            "seconds": 0.1,
            "chosen": {"lambda": 0.3},
            "at_edge": False,
        }
        for name, by in gains.items()
        for seed in (0, 1)
        for n in ((2,) if name == "slerp" else page.COUNTS)
    }
    ends = {"base": {"scores": [0.2] * 8, "drift": 0.0, "kept": 0.99}, "alone": [0.8] * 8}
    return {"tasks": list(map(str, range(8))), "seeds": {"0": ends, "1": ends}, "cells": cells}


def test_shares_are_of_each_fine_tuning_and_differences_are_paired():
    found = made()
    cells = page.cells_of(found, "ties", 3)
    assert page.shares(found, cells)[0] == pytest.approx([0.625, 0.625, 0.3125])
    assert page.average(found, cells)[1] == pytest.approx(0.625 * 2.5 / 3)
    assert page.base_share(found, 5) == pytest.approx(0.25)
    gap = page.against(found, "ties", "task-arithmetic", 3)
    assert gap.value == pytest.approx(0.125 * 2.5 / 3) and gap.low == pytest.approx(gap.value) and gap.excludes(0)
    assert not page.against(found, "linear", "task-arithmetic", 3).excludes(0)


def test_what_is_said_follows_the_figures():
    said = page.finding(made(), 3)
    assert (
        "`atlas` is first with 75.0 %" in said
        and "Without learning, `ties` is first with 52.1 %, a paired difference of +22.9" in said
    )
    assert "Not to be told from `ties`: `linear`." in said and "more than noise: `task-arithmetic`." in said
    lower = page.finding(made(-0.2), 3)
    assert "Without learning, `task-arithmetic`" in lower and "more than noise: `ties`." in lower
    assert "(2 seeds)" in said
    one = made()
    one["cells"] = {k: c for k, c in one["cells"].items() if k.startswith("0/")}
    assert "One seed" in page.finding(one, 3)


def test_tables_list_what_merges_so_many_and_what_it_lies_between():
    two, eight = (page.table(made(), n) for n in (2, 8))
    assert "`slerp`" in two and "`slerp`" not in eight
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in eight.splitlines()]
    few = made()
    few["cells"] = {k: c for k, c in few["cells"].items() if "/8/" not in k}
    assert page.table(few, 8) == "Not run yet." and "8 fine-tunings" not in page.drawn(few) + page.findings(few)
    assert len({len(r) for r in rows}) == 1 and [r[0] for r in rows[2:4]] == ["`atlas`", "`ties`"]
    assert rows[-2][0].startswith("each alone") and rows[-2][4] == "0.800" and rows[-1][1] == "25.0"


def test_the_picture_is_sound_and_holds_every_method_and_interval():
    tree = ElementTree.fromstring(page.drawn(made()))
    text = [t.text for t in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert {"atlas", "ties", "linear", "task-arithmetic", "3 fine-tunings", "8 fine-tunings"} <= set(
        text
    ) and "slerp" not in text
    whiskers = [e for e in tree.iter("{http://www.w3.org/2000/svg}line") if e.get("class") == "whisker"]
    assert len(whiskers) == 4 * 3 * 2
    assert all(0 <= float(e.get("x1")) <= float(tree.get("width")) for e in whiskers)


def test_the_committed_page_and_picture_say_what_the_figures_say():
    found = table.read(ROOT / page.DATA)
    text = (ROOT / page.PAGE).read_text(encoding="utf-8")
    again = "run `python -m tunewright.claims.merging_page --draw`"
    assert page.filled(text, found) == text, again
    assert page.drawn(found) == (ROOT / page.PICTURE).read_text(encoding="utf-8"), again
    assert set(page.LEARN) == {n for n, w in table.WAYS.items() if w.learns}
    named = {key.split("/", 2)[2] for key in found["cells"]} - {table.JOINT}
    assert named <= set(table.WAYS)
