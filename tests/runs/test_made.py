"""Rows that are made in a run: when the stage begins, with what it starts from; kept and booked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.runs.making import inputs, makers, recipe, report, told, trained
from tunewright.models.agreement import differing
from tunewright.planning.check import check_recipe
from tunewright.recipe import Recipe
from tunewright.runs.run import run

__all__ = ["inputs", "makers"]


def test_what_was_made_kept_and_thrown_away_is_on_disk(inputs: Path) -> None:
    run(recipe(inputs, data__synthesize=["continues"]), inputs / "disk", quiet=True)
    head, lines, rows = told(inputs / "disk")
    kept = len(rows)
    assert (head["of"], head["made"], head["kept"], head["seed"]) == (40, [40], kept, 0)
    assert sum(head["thrown"].values()) == 40 - kept and len(lines) == 40 and head["thrown"]["every second"] > 15
    assert [line["values"] for line in lines if not line["thrown"]] == rows
    for line in lines:
        assert line["writer"] == "start" and line["of"].startswith("train.jsonl:")
        assert line["draw"].startswith("0/main/start/") and "continue" in line["prompt"]
    assert head["writers"]["start"]["weights"] and head["writers"]["start"]["replies"] == 40
    found = report(inputs / "disk")
    assert found["data"]["rows"] == kept
    (note,) = [n for n in found["notes"] if "continues" in n]
    thrown = head["thrown"]["every second"]
    assert f"made 40 records of 40, thrown ones counted, and kept {kept}; thrown away: {thrown}: every second" in note
    assert {"made/main.jsonl", "made/main.rows.jsonl", "made/main.replies.jsonl"} <= found["hashes"].keys()
    spent = found["cost"]
    assert spent["seconds"]["generation"] > 0 and spent["flops_by_phase"]["generation"] == head["flops"] > 0
    assert head["tokens"] == head["writers"]["start"]["read"] + head["writers"]["start"]["written"]


def test_the_rows_are_what_is_trained_on_and_writers_see_what_the_stage_starts_from(inputs: Path) -> None:
    methods = [{"lora": {"rank": 4}}]
    stages = [
        {"name": "first", "methods": methods, "budget": {"steps": 3}, "train": {"learning_rate": 0.1}},
        {"name": "second", "methods": methods, "budget": {"steps": 2}, "data": {"synthesize": ["continues"]}},
    ]
    run(recipe(inputs, stages=stages), inputs / "two", quiet=True)
    alone = [{**stages[1], "start": "base"}]
    run(recipe(inputs, stages=alone), inputs / "one", quiet=True)
    hashes = [told(inputs / n, "second")[0]["writers"]["start"]["weights"] for n in ("one", "two")]
    texts = [told(inputs / n, "second")[2] for n in ("one", "two")]
    assert hashes[0] != hashes[1] and texts[0] != texts[1]
    base = [{**stages[0]}, {**stages[1], "data": {"synthesize": [{"continues": {"model": "base"}}]}}]
    run(recipe(inputs, stages=base), inputs / "asks-base", quiet=True)
    head, _, _ = told(inputs / "asks-base", "second")
    assert head["writers"]["base"]["weights"] == hashes[0]
    assert not differing(trained(inputs / "asks-base", "first"), trained(inputs / "two", "first"))
    # after the base was asked, the model is the stage's start again: what it learnt in the first stage is there
    assert differing(trained(inputs / "asks-base", "second"), trained(inputs / "one", "second"))


def test_rounds_make_stages_that_begin_where_the_last_ended_and_draw_anew(inputs: Path) -> None:
    entry = {"name": "go", "rounds": 2, "methods": ["full"], "budget": {"steps": 2}, "start": "base"}
    entry |= {"data": {"synthesize": ["continues"]}, "train": {"learning_rate": 0.05}}
    run(recipe(inputs, stages=[entry]), inputs / "rounds", quiet=True)
    heads = [told(inputs / "rounds", f"go-{k}") for k in (1, 2)]
    assert [h["round"] for h, _, _ in heads] == [1, 2]
    assert heads[0][0]["writers"]["start"]["weights"] != heads[1][0]["writers"]["start"]["weights"]
    assert all(r["text"].startswith(f"round {k}") for k, (_, _, rows) in enumerate(heads, 1) for r in rows)
    assert not {line["draw"] for line in heads[0][1]} & {line["draw"] for line in heads[1][1]}
    again = [{**entry, "rounds": {"times": 2, "start": "base"}}]
    again[0]["data"] = {"synthesize": [{"continues": {"model": "previous"}}]}
    made = Recipe.load(recipe(inputs, "again", stages=again))
    assert [s.start for s in made.stages] == ["base", "base"]
    run(recipe(inputs, "again", stages=again), inputs / "again", quiet=True)
    first, second = (told(inputs / "again", f"go-{k}")[0]["writers"]["previous"]["weights"] for k in (1, 2))
    assert first == heads[0][0]["writers"]["start"]["weights"] and second != first


def test_selectors_filter_what_was_made(inputs: Path) -> None:
    select = [{"length": {"least": 4}}, {"perplexity": {"low": 0.0, "high": 0.5}}]
    changes: dict[str, Any] = {"data__synthesize": ["continues"], "data__select": select}
    run(recipe(inputs, **changes), inputs / "filtered", quiet=True)
    _, _, rows = told(inputs / "filtered")
    head, *lines = map(json.loads, (inputs / "filtered" / "selection" / "main.jsonl").read_text().splitlines())
    short = [i for i, r in enumerate(rows, 1) if len(r["text"].split()) < 4]
    assert [int(x["id"].split(":")[1]) for x in lines if x.get("by") == "length"] == short
    kept = [x for x in lines if x["rank"] is not None]
    assert 0 < len(kept) == head["kept"] == round(0.5 * (len(rows) - len(short)))
    assert all(x["source"] == "made/main" for x in lines)
    assert report(inputs / "filtered")["data"]["rows"] == len(kept)


def test_a_stage_that_replays_another_replays_what_was_made_there(inputs: Path) -> None:
    methods = [{"lora": {"rank": 4}}]
    stages = [
        {"name": "first", "methods": methods, "budget": {"steps": 2}, "data": {"synthesize": ["continues"]}},
        {"name": "second", "methods": methods, "budget": {"steps": 2}, "data": {"replay": {"stages.first": 0.5}}},
    ]
    seen: dict[str, Any] = {}
    from tunewright.runs import run as running

    kept = running.finish

    def watched(work: Any, cached: Any) -> Any:
        seen["replayed"] = {r.id for r in work.session.stages[1].replay["stages.first"][0].rows}
        return kept(work, cached)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "finish", watched)
        run(recipe(inputs, stages=stages), inputs / "replay", quiet=True)
    assert len(seen["replayed"]) == len(told(inputs / "replay", "first")[2]) and all(
        i.startswith("first.rows.jsonl:") for i in seen["replayed"]
    )


def test_pairs_are_made_for_a_method_that_compares(inputs: Path) -> None:
    changes: dict[str, Any] = {"data__synthesize": ["pairs"], "stages__0__methods": ["dpo", {"lora": {"rank": 4}}]}
    check = check_recipe(recipe(inputs, "pairs", **changes))
    assert check.ok, str(check)
    run(recipe(inputs, "pairs", **changes), inputs / "pairs", quiet=True)
    _, _, rows = told(inputs / "pairs")
    assert len(rows) == 40 and all({"prompt", "chosen", "rejected"} == set(r) for r in rows)


def test_makers_in_a_row_see_what_the_one_before_made(inputs: Path) -> None:
    run(recipe(inputs, data__synthesize=[{"continues": {"count": 2}}, "continues"]), inputs / "row", quiet=True)
    head, lines, rows = told(inputs / "row")
    kept = [line for line in lines[:80] if not line["thrown"]]
    assert head["made"] == [80, len(kept)] and 15 < head["kept"] == len(rows)
    assert lines[80]["of"] == "continues:1" and lines[80]["prompt"]["continue"] == lines[0]["values"]["text"]
