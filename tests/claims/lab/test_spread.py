"""A base's card gets the figures of its lab tasks, end to end on a tiny base."""

from __future__ import annotations

import copy
import json

import pytest

from tests import small
from tunewright.claims.lab import make, ship, spread
from tunewright.claims.lab.tasks import LabTask
from tunewright.errors import ClaimError


def test_the_card_says_what_each_task_gave(tmp_path, monkeypatch, capsys):
    small.write_inputs(tmp_path)
    recipe = copy.deepcopy({k: v for k, v in small.RECIPE.items() if k != "stages"})
    recipe |= {"model": str(tmp_path / "base"), "keep": [str(tmp_path / "keep.txt")], "budget": {"steps": 2}}
    recipe["data"] |= {part: str(tmp_path / recipe["data"][part]) for part in ("train", "eval")}
    named = {**recipe, "model": "nano", "data": {**recipe["data"]}}
    tasks = {name: LabTask(name, "", {"nano": named}) for name in ("one", "two")}
    monkeypatch.setattr(spread, "TASKS", tasks)
    monkeypatch.setattr(LabTask, "recipe", lambda self, scale: copy.deepcopy(recipe))
    monkeypatch.setattr(ship, "BASES", tmp_path / "bases")
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    measured = {
        "name": "nano",
        "task": "t",
        "about": "A.",
        "licence": "mit",
        "parameters": 1,
        "sha256": "0",
        "figures": [],
        "limits": [],
        "data_note": "N",
        "sources": [],
        "curve": [[1, 2.0]],
        "seconds": 1.0,
        "seen": 1,
        "threads": 1,
        "unit": "tokens",
        "machine": "m",
        "tasks": [
            {
                "task": "two",
                "metric": "m",
                "base": "0",
                "tuned": "1",
                "sd": "0.1",
                "seeds": 4,
                "arm": "full",
                "seconds": "5",
            }
        ],
    }
    (tmp_path / "bases" / "nano").mkdir(parents=True)
    ship.write(tmp_path / "bases" / "nano", measured)
    make.main(["card", "nano", "--seeds", "2", "--tasks", "one"])
    one, two = ship.read(tmp_path / "bases" / "nano")["tasks"]
    assert (one["task"], one["metric"], one["seeds"]) == ("one", "exact_match", 2) and two == measured["tasks"][0]
    assert 0 <= float(one["base"]) <= 1 and 0 <= float(one["tuned"]) <= 1 and float(one["sd"]) >= 0
    text = (tmp_path / "bases" / "nano" / "README.md").read_text(encoding="utf-8")
    assert "| one | exact_match |" in text and "| two | m | 0 | 1 |" in text and text in capsys.readouterr().out
    assert len(list((tmp_path / "cache" / "trials").rglob("*.json"))) >= 2 and json.loads(
        (tmp_path / "bases" / "nano" / "card.json").read_text()
    )
    with pytest.raises(ClaimError, match="two seeds"):
        spread.spread("one", 1)
