"""Rows that are made in a run: when the stage begins, with what it starts from; kept, resumed, booked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field

from tests import classifying, small
from tunewright import catalogue
from tunewright.contract.made import Made
from tunewright.contract.method import Method
from tunewright.contract.records import Record
from tunewright.contract.writer import Continue, Journal, Writer
from tunewright.errors import CheckpointError, DataError, MethodError
from tunewright.files import checkpoint
from tunewright.models.agreement import differing
from tunewright.planning.check import check_recipe
from tunewright.planning.plan import plan
from tunewright.recipe import Recipe
from tunewright.runs.assemble import assemble
from tunewright.runs.run import resume, run
from tunewright.training.writing import LocalWriter

QUICK: dict[str, Any] = {"measurement__strengths": [1.0], "stages__0__budget": {"steps": 2}}


class Continues(Method):
    """Goes on with the prompt of each record; every second text is thrown away."""

    model: str = Field("start", description="what writes")
    count: int = Field(1, description="texts of each record")
    tokens: int = Field(3, description="longest text")

    def speakers(self) -> tuple[str, ...]:
        return (self.model,)

    def makes(self, count: int) -> int:
        return self.count * count

    def synthesize(self, records: Sequence[Record], writers: dict[str, Writer], round: int) -> list[Made]:
        asked = [Continue(r.get("prompt") or r["text"]) for r in records]
        answers = writers[self.model].generate(asked, count=self.count, max_new_tokens=self.tokens)
        flat = [(r, w) for r, some in zip(records, answers, strict=True) for w in some]
        return [
            Made({"text": f"round {round} {w.text}"}, r, w, thrown=w.nothing or ("every second" if i % 2 else ""))
            for i, (r, w) in enumerate(flat)
        ]


class Pairs(Method):
    """Pairs of the record's answer and what the model says."""

    def speakers(self) -> tuple[str, ...]:
        return ("start",)

    def stand_in(self, record: Record, labels: Sequence[str] | None) -> Record:
        told = {"prompt": record["prompt"], "chosen": record["completion"], "rejected": "no"}
        return Record(told, id=record.id, source=record.source, where=record.where)

    def synthesize(self, records: Sequence[Record], writers: dict[str, Writer]) -> list[Made]:
        answers = writers["start"].generate(list(records), max_new_tokens=3)
        return [
            Made({"prompt": r["prompt"], "chosen": r["completion"], "rejected": w.text or "no"}, r, w)
            for r, (w,) in zip(records, answers, strict=True)
        ]


class Nothing(Method):
    """Throws everything away."""

    def synthesize(self, records: Sequence[Record]) -> list[Made]:
        return [Made({}, r, thrown="as it should be") for r in records]


class Wrong(Method):
    """Gives what is no `Made`, or is none of these records, or no JSON."""

    how: str = Field("list", description="what is wrong")

    def synthesize(self, records: Sequence[Record]) -> list[Any]:
        stranger = Record({"text": "x"}, id="elsewhere")
        wrong: dict[str, list[Any]] = {
            "list": [{"text": "x"}],
            "stranger": [Made({"text": "x"}, stranger)],
            "json": [Made({"text": "x", "more": torch.zeros(1)}, records[0])],
            "empty": [Made({}, records[0])],
        }
        return wrong[self.how]


class BadRow(Method):
    """Makes a record that can be a row, and one that cannot."""

    def synthesize(self, records: Sequence[Record]) -> list[Made]:
        return [Made({"prompt": "a", "completion": ""}, records[0]), Made({"text": "card lost"}, records[1])]


FOUND = {"continues": Continues, "pairs": Pairs, "nothing": Nothing, "wrong": Wrong, "bad-row": BadRow}


@pytest.fixture(autouse=True)
def makers(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, entry = catalogue.load_method, catalogue.entries()["lora"]
    for module in (catalogue, catalogue.resolve):
        monkeypatch.setattr(module, "load_method", lambda name, where=None: FOUND.get(name) or kept(name, where))
    known = {**catalogue.entries(), **{n: catalogue.Entry(n, "data/synthesize", entry.module) for n in FOUND}}
    for module in (catalogue, catalogue.folders):
        monkeypatch.setattr(module, "entries", lambda: known)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("made")
    small.write_inputs(folder, train=40)
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
        yield folder
    torch.set_num_threads(threads)


def recipe(folder: Path, name: str = "r", **changes: Any) -> Path:
    return small.write_recipe(folder, name, **{**QUICK, **changes})


def told(run_folder: Path, stage: str = "main") -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """(head, lines, rows) of what was made."""
    head, *lines = map(json.loads, (run_folder / "made" / f"{stage}.jsonl").read_text().splitlines())
    rows = list(map(json.loads, (run_folder / "made" / f"{stage}.rows.jsonl").read_text().splitlines()))
    return head, lines, rows


def trained(folder: Path, stage: str = "main") -> Any:
    return checkpoint.read(folder / "stages" / stage).tensors["trained"]


def report(folder: Path) -> Any:
    return json.loads((folder / "report.json").read_text())


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


# -- stopped and gone on with ------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


SAVED: dict[str, Any] = {
    "train__save_steps": 1,
    "stages__0__budget": {"steps": 4},
    "data__synthesize": [{"continues": {"count": 2}}],
}


def dying(owner: Any, name: str, after: int, patch: pytest.MonkeyPatch) -> None:
    """Let the `after`-th call of a function be the last thing that the process does."""
    calls, kept = [0], getattr(owner, name)

    def function(*given: Any, **named: Any) -> Any:
        calls[0] += 1
        out = kept(*given, **named)
        if calls[0] >= after:
            raise Killed
        return out

    patch.setattr(owner, name, function)


@pytest.fixture
def whole(inputs: Path) -> Path:
    if not (inputs / "whole").exists():
        run(recipe(inputs, "whole", **SAVED), inputs / "whole", quiet=True)
    return inputs / "whole"


@pytest.mark.parametrize(("after", "left"), [(1, 2), (2, 1), (3, 0)])
def test_a_kill_inside_a_round_loses_no_text_and_the_resumed_run_is_equal(
    inputs: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, after: int, left: int
) -> None:
    folder = inputs / f"killed-{after}"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        dying(Journal, "add", after, patch)
        run(recipe(inputs, folder.name, **SAVED), folder, quiet=True)
    assert "made" not in json.loads((folder / "progress.json").read_text())
    with (folder / "made" / "main.replies.jsonl").open("a") as f:
        f.write('{"key": "half a li')  # what a kill within a write leaves
    batches: list[int] = []
    kept = LocalWriter._write
    monkeypatch.setattr(LocalWriter, "_write", lambda self, *given: batches.append(1) or kept(self, *given))  # type: ignore[func-returns-value]
    resume(folder, quiet=True)
    assert len(batches) == left, "what was written is written again, or what was not is missing"
    for name in ("main.jsonl", "main.rows.jsonl", "main.replies.jsonl"):
        assert (folder / "made" / name).read_bytes() == (whole / "made" / name).read_bytes()
    assert not differing(trained(whole), trained(folder))
    costs = [report(p)["cost"] for p in (whole, folder)]
    assert costs[0]["flops_by_phase"]["generation"] == costs[1]["flops_by_phase"]["generation"]
    resume(folder, verify=True, quiet=True)


def test_a_run_that_is_killed_afterwards_reads_what_it_made(
    inputs: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = inputs / "later"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        dying(checkpoint, "save", 2, patch)
        run(recipe(inputs, "later", **SAVED), folder, quiet=True)
    monkeypatch.setattr(Continues, "synthesize", lambda self, records, writers, round: pytest.fail("made again"))
    rows = folder / "made" / "main.rows.jsonl"
    text = rows.read_text()
    rows.write_text(text.replace("round 1", "round 9", 1))
    with pytest.raises(CheckpointError, match="was altered"):
        resume(folder, quiet=True)
    rows.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        resume(folder, quiet=True)
    rows.write_text(text)
    resume(folder, quiet=True)
    assert not differing(trained(whole), trained(folder))


def test_a_broken_journal_is_named(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = inputs / "broken"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        dying(Journal, "add", 2, patch)
        run(recipe(inputs, "broken", **SAVED), folder, quiet=True)
    file = folder / "made" / "main.replies.jsonl"
    file.write_text(file.read_text()[10:])
    with pytest.raises(CheckpointError, match=r"what was generated so far cannot be read"):
        resume(folder, quiet=True)
    file.unlink()
    assert resume(folder, quiet=True) is not None


# -- before a run, and what is refused ---------------------------------------------------------------------------------


def test_a_plan_says_what_will_be_made_and_makes_nothing(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalWriter, "_write", lambda *given: pytest.fail("a plan generates nothing"))
    changes: dict[str, Any] = {"data__synthesize": [{"continues": {"count": 3}}], "data__select": ["length"]}
    found = plan(recipe(inputs, **changes), quiet=True)
    (note,) = [n for n in found.notes if "will make" in n]
    assert any("length will choose among what was made when it begins; rows" in n for n in found.notes)
    assert "continues will make up to 120 records of 40 (thrown ones not counted) when it begins, asking the" in note


@pytest.mark.parametrize(
    ("synthesize", "says"),
    [
        (["exact-answer"], "judges what is made, and nothing makes any"),
        (["s3ft"], "asks a judge which answers are right"),
        (["continues", "exact-answer"], "asks no judge"),
        (["grpo"], "makes no records and judges none"),
        ([{"continues": {"model": "big"}}], "the recipe names none"),
        ([{"continues": {"model": "stages.none"}}], "is no earlier stage"),
        (["self-training"], "does not serve the task text-generation"),
    ],
)
def test_check_plan_and_run_refuse_the_same(inputs: Path, synthesize: list[Any], says: str) -> None:
    file = recipe(inputs, "bad", data__synthesize=synthesize)
    found = check_recipe(file)
    assert not found.ok and any(says in text for text in found.report.refusals)
    for step in (lambda: plan(file, quiet=True), lambda: run(file, inputs / "bad", quiet=True)):
        with pytest.raises(MethodError, match=says):
            step()
    assert not (inputs / "bad").exists()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("list", "gave dict"),
        ("stranger", "a record that is made of none"),
        ("json", "a record that is no JSON"),
        ("empty", "an empty record and kept it"),
    ],
)
def test_a_maker_that_gives_nonsense_is_named(inputs: Path, how: str, says: str) -> None:
    with pytest.raises(MethodError, match=says):
        run(recipe(inputs, f"wrong-{how}", data__synthesize=[{"wrong": {"how": how}}]), inputs / how, quiet=True)


def test_nothing_kept_is_an_error_that_names_the_reasons_and_the_file(inputs: Path) -> None:
    with pytest.raises(DataError, match="40: as it should be") as e:
        run(recipe(inputs, "none", data__synthesize=["nothing"]), inputs / "none", quiet=True)
    assert str(inputs / "none" / "made" / "main.jsonl") in str(e.value)
    assert len((inputs / "none" / "made" / "main.jsonl").read_text().splitlines()) == 41


def test_what_can_be_no_row_is_thrown_away_with_the_reason(inputs: Path) -> None:
    run(recipe(inputs, "badrow", data__synthesize=["bad-row"]), inputs / "badrow", quiet=True)
    head, lines, rows = told(inputs / "badrow")
    assert rows == [{"text": "card lost"}] and head["thrown"] == {"it can be no row": 1}
    assert "completion: the text is empty" in lines[0]["thrown"]


def test_labels_are_made_by_the_stage_before_and_a_new_head_makes_none(tmp_path: Path) -> None:
    classifying.write_inputs(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    (tmp_path / "pool.jsonl").write_text("\n".join(json.dumps({"text": r["text"]}) for r in rows))
    pool = {"train": "pool.jsonl", "synthesize": ["self-training"], "select": [{"threshold": {"least": 0.34}}]}
    stages: list[dict[str, Any]] = [
        {"name": "teacher", "methods": ["full"], "budget": {"steps": 8}},
        {"name": "pool", "start": "base", "data": pool, "methods": ["full"], "budget": {"steps": 2}},
        {"name": "task", "methods": ["full"], "budget": {"steps": 2}},
    ]
    file = small.write_recipe(tmp_path, "r", **classifying.recipe(stages=stages))
    found = check_recipe(file)
    assert found.ok, str(found)
    plan(file, quiet=True)
    run(file, tmp_path / "out", quiet=True)
    head, lines, made = told(tmp_path / "out", "pool")
    assert head["kept"] == 36 and all(r["label"] in classifying.LABELS and 0 < r["confidence"] <= 1 for r in made)
    assert head["flops"] > 0 and "writers" in head and not head["writers"]
    right = sum(m["label"] == r["label"] for m, r in zip(made, rows, strict=True))
    assert right > 24, f"a teacher that has learnt labels {right} of 36 rightly"
    stages[1]["data"]["synthesize"] = [{"self-training": {"model": "base"}}]
    file = small.write_recipe(tmp_path, "new", **classifying.recipe(stages=stages))
    for step in (lambda: plan(file, quiet=True), lambda: run(file, tmp_path / "new", quiet=True)):
        with pytest.raises(MethodError, match="head of the base is new"):
            step()


def test_a_stage_may_make_none_of_what_the_recipe_makes(inputs: Path) -> None:
    methods = [{"lora": {"rank": 4}}]
    stages: list[dict[str, Any]] = [
        {"name": n, "methods": methods, "budget": {"steps": 1}} for n in ("first", "second")
    ]
    stages[1]["data"] = {"synthesize": []}
    session = assemble(Recipe.load(recipe(inputs, data__synthesize=["continues"], stages=stages)))
    assert [part.making is not None for part in session.stages] == [True, False]
