"""`tunewright mcp` through the SDK's own client: an agent plans, runs under a budget, compares and reads figures."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml

from tests import small
from tunewright.agents.desk import Desk, Limits
from tunewright.agents.server import server
from tunewright.errors import RecipeError
from tunewright.report.schema import Report

mcp = pytest.importorskip("mcp", reason="the extra `mcp` is not installed")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("agents")
    (folder / "data").mkdir()
    small.write_inputs(folder / "data")
    (folder / "locked").mkdir()
    rows = [json.loads(line) for line in (folder / "data" / "test.jsonl").read_text().splitlines()]
    (folder / "data" / "test.jsonl").unlink()
    for i, row in enumerate(rows):
        row["prompt"] += f" as customer number {i} wrote on Tuesday"
    (folder / "locked" / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield folder


def desk(place: Path, name: str, **limits: Any) -> Desk:
    return Desk(
        place / name, [place / "data"], [place / "locked" / "test.jsonl"], Limits(**{"seconds": 600.0} | limits)
    )


def recipe(**changes: Any) -> str:
    tree = {k: v for k, v in small.RECIPE.items() if k != "model"} | {"model": "base"}
    tree["data"] = {"train": "train.jsonl", "max_length": 128}
    tree["measurement"] = {**small.RECIPE["measurement"], "rows": 4, "few_shot": 0}
    return yaml.safe_dump(tree | changes)


def ask(of: Any, *calls: tuple[str, dict[str, Any]]) -> list[Any]:
    """Results of tools, asked one after the other by the SDK's client: (is an error, text or value)."""

    async def talk() -> list[Any]:
        out = []
        async with mcp.Client(of) as client:
            for name, arguments in calls:
                said = await client.call_tool(name, arguments)
                text = "".join(part.text for part in said.content if hasattr(part, "text"))
                out.append((bool(said.is_error), text if said.is_error else json.loads(text)["result"]))
        return out

    return anyio.run(talk)


def secrets(place: Path) -> list[str]:
    return [json.loads(line)["prompt"] for line in (place / "locked" / "test.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_an_agent_runs_compares_and_reads_figures_and_sees_no_row(place: Path) -> None:
    work = desk(place, "one")
    asked = ask(
        server(work),
        ("budget", {}),
        ("check", {"recipe": recipe()}),
        ("plan", {"recipe": recipe()}),
        ("run", {"recipe": recipe(), "name": "first"}),
        ("run", {"recipe": recipe(train={**small.RECIPE["train"], "seed": 2})}),
        ("compare", {"first": "first", "second": "run-2"}),
        ("report", {"name": "run-2"}),
        ("runs", {}),
        ("budget", {}),
        ("methods", {"name": "lora"}),
    )
    assert not any(failed for failed, _ in asked), [v for failed, v in asked if failed]
    before, checked, planned, first, second, compared, report, runs, after, lora = (v for _, v in asked)
    assert checked["ok"] and checked["training_rows_in_evaluation"] == 0 and planned
    assert "view" not in planned and planned["estimate"]["total"] > 0
    assert first["state"] == second["state"] == "finished"
    assert (first["attempt"], second["attempt"]) == (1, 2) == (first["report"]["run"]["attempt"], after["attempts"])
    assert report["target"]["after"]["value"] == second["report"]["target"]["after"]["value"]
    assert compared["target"]["difference"]["value"] is not None
    assert {r["folder"] for r in runs} == {"first", "run-2"} and lora["name"] == "lora"
    assert before["data"] == after["data"] and before["data"], before
    assert all(yaml.safe_load(recipe())["data"]["train"] in names["data"] for names in (before, after))
    assert before["spent"] == 0 < after["spent"] and after["left"] == pytest.approx(600 - after["spent"], abs=0.2)
    everything = json.dumps([v for _, v in asked])
    assert not [s for s in secrets(place) if s in everything] and "Tuesday" not in everything
    # the owner's own report has both: the answers, and what attempt it was
    owners = Report.load(work.runs / "run-2")
    assert owners.answers and owners.run.attempt == 2
    page = (work.runs / "run-2" / "report.html").read_text()
    assert "attempt 2 on this evaluation set" in page
    assert "attempt" not in (work.runs / "first" / "report.html").read_text().split("<body", 1)[-1].lower()[:20000]
    assert yaml.safe_load((work.recipes / "first.yaml").read_text())["data"]["eval"]


@pytest.mark.slow
def test_what_may_not_be_is_a_message_and_no_run(place: Path) -> None:
    work = desk(place, "two", steps=10)
    rows = (place / "locked" / "test.jsonl").read_text()
    shuffled = [json.loads(line) for line in rows.splitlines()]
    (place / "data" / "leak.jsonl").write_text("\n".join(json.dumps({**r, "note": 1}) for r in shuffled))
    asked = ask(
        server(work),
        ("run", {"recipe": recipe(data={"train": "../locked/test.jsonl"})}),
        ("run", {"recipe": recipe(data={"train": "leak.jsonl"})}),
        ("run", {"recipe": recipe(stages=[{"methods": ["lora"], "budget": {"steps": 11}}])}),
        ("run", {"recipe": recipe(), "name": "../out"}),
        ("run", {"recipe": recipe(task="no-such-task")}),
        ("report", {"name": "none"}),
        ("compare", {"first": "a", "second": "b"}),
        ("resume", {"name": "none"}),
        ("plan", {"recipe": recipe(data={"train": "nothing.jsonl"})}),
    )
    says = ("leads out", "training rows are evaluation rows", "11 steps", "no name", "", "no such run", "no such run",
            "no such run", "nothing.jsonl")  # fmt: skip
    for (failed, text), said in zip(asked, says, strict=True):
        assert failed and said in text and "Traceback" not in text, text
        assert not [s for s in secrets(place) if s in text]
    assert not list(work.runs.glob("*/recipe.yaml")) and work.budget()["attempts"] == 0


class Enough(Exception):
    """Raised where a command would be begun."""


def steps_in(words: list[str]) -> int:
    return int(yaml.safe_load(Path(words[1]).read_text())["budget"]["steps"])


def test_a_recipe_that_is_looked_at_is_that_of_no_other_order(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, read = desk(place, "looking"), list[int]()

    def asked(words: list[str], **_: Any) -> Any:
        if words[0] == "check":
            with suppress(Enough):  # an agent asks for both at once
                work.plan(recipe(budget={"steps": 7}))
            read.append(steps_in(words))
        raise Enough

    monkeypatch.setattr(work, "_asked", asked)
    with pytest.raises(Enough):
        work.check(recipe(budget={"steps": 3}))
    assert read == [3] and not list(work.recipes.iterdir())


def test_the_recipe_that_is_run_is_the_one_that_was_checked(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another order of the name could bring evaluation rows in between."""
    work, read = desk(place, "twice"), list[int]()

    def asked(words: list[str], **_: Any) -> Any:
        with pytest.raises(RecipeError, match="being begun"):
            work.run(recipe(budget={"steps": 7}), "same", None)
        read.append(steps_in(words))
        raise Enough

    monkeypatch.setattr(work, "_asked", asked)
    for _ in range(2):  # a name is free again once its order is over
        with pytest.raises(Enough):
            work.run(recipe(budget={"steps": 3}), "same", None)
    assert read == [3, 3]


@pytest.mark.slow
def test_time_that_is_over_stops_a_run_which_can_be_resumed_until_the_budget_is_spent(place: Path) -> None:
    work = desk(place, "three")
    long = recipe(stages=[{"name": "main", "methods": [{"lora": {"rank": 4}}], "budget": {"steps": 4000}}])
    stopped = ask(server(work), ("run", {"recipe": long, "name": "long", "seconds": 25}))[0][1]
    assert "stopped" in stopped["state"] and stopped["attempt"] == 1 and 20 < stopped["budget"]["spent"] < 120
    again = desk(place, "three", seconds=1.0)  # a restart gives no second back
    failed, text = ask(server(again), ("resume", {"name": "long"}))[0]
    assert failed and "budget is spent" in text
    failed, text = ask(server(again), ("run", {"recipe": recipe()}))[0]
    assert failed and "budget is spent" in text


def test_the_verb_speaks_the_protocol_over_its_pipes(place: Path) -> None:
    words = ["-m", "tunewright", "mcp", "--data", str(place / "data"), "--eval", str(place / "locked" / "test.jsonl")]
    words += ["--work", str(place / "four"), "--seconds", "60", "--steps", "5"]
    started = mcp.StdioServerParameters(command=sys.executable, args=words, env={"PYTHONPATH": ":".join(sys.path)})

    async def talk() -> tuple[Any, Any]:
        async with mcp.Client(started) as client:
            return await client.list_tools(), await client.call_tool("budget", {})

    tools, budget = anyio.run(talk)
    assert {t.name for t in tools.tools} == {
        "budget", "methods", "check", "plan", "run", "resume", "compare", "report", "runs"
    }  # fmt: skip
    assert all(t.description for t in tools.tools)
    assert json.loads(budget.content[0].text)["result"]["steps_of_a_run"] == 5
