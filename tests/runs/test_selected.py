"""Selection with a model in a run: made when the stage begins, with what it starts from; kept, resumed, booked."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests import small, tiny
from tunewright.contract.reader import Reader
from tunewright.contract.records import Record
from tunewright.errors import CheckpointError, DataError, MethodError, RecipeError
from tunewright.files import checkpoint
from tunewright.models.agreement import differing
from tunewright.planning.plan import plan
from tunewright.planning.selecting import select_of_recipe
from tunewright.recipe import Recipe
from tunewright.runs import run as running
from tunewright.runs.aiming import halves
from tunewright.runs.assemble import assemble
from tunewright.runs.run import resume, run
from tunewright.runs.selecting import record_key

BAND = {"perplexity": {"low": 0.25, "high": 0.75}}
QUICK: dict[str, Any] = {"measurement__strengths": [1.0], "stages__0__budget": {"steps": 2}}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("selected")
    small.write_inputs(folder, train=24)
    lines = (folder / "test.jsonl").read_text()
    (folder / "apart.jsonl").write_text(lines.replace('"prompt": "', '"prompt": "pin '))
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
        yield folder
    torch.set_num_threads(threads)


def recipe(folder: Path, name: str = "r", **changes: Any) -> Path:
    return small.write_recipe(folder, name, **{**QUICK, **changes})


def two_stages(*selected: Any, **second: Any) -> list[dict[str, Any]]:
    methods = [{"lora": {"rank": 4}}]
    return [
        {"name": "first", "methods": methods, "budget": {"steps": 3}, "train": {"learning_rate": 0.1}},
        {"name": "second", "methods": methods, "budget": {"steps": 2}, "start": "stages.first", "carry": "fold"}
        | {"data": {"select": list(selected), **second}},
    ]


def told(run_folder: Path, stage: str = "main") -> tuple[dict[str, Any], list[dict[str, Any]]]:
    head, *lines = map(json.loads, (run_folder / "selection" / f"{stage}.jsonl").read_text().splitlines())
    return head, lines


@pytest.fixture(scope="module")
def finished(inputs: Path) -> Path:
    run(recipe(inputs, data__select=[BAND]), inputs / "out", quiet=True)
    return inputs / "out"


def test_a_run_keeps_the_band_and_says_what_became_of_every_record(inputs: Path, finished: Path) -> None:
    head, lines = told(finished)
    assert len(lines) == 24 and head["kept"] == 12 and head["selectors"][0]["name"] == "perplexity"
    model = AutoModelForCausalLM.from_pretrained(inputs / "base").eval()
    rows = {r.id: r for r in assemble(Recipe.load(recipe(inputs, "plain"))).stages[0].rows.rows}
    losses = []
    for line in lines:
        row = rows[line["id"]]
        labels = [i if w > 0 else -100 for i, w in zip(row.input_ids, row.weights, strict=True)]
        with torch.no_grad():
            loss = float(model(input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([labels])).loss)
        assert line["scores"]["perplexity.loss"] == pytest.approx(loss, rel=1e-4)
        losses.append(loss)
    ranks = {i: rank for rank, i in enumerate(sorted(range(24), key=losses.__getitem__))}
    for i, line in enumerate(lines):
        assert (line["rank"] is not None) == (6 <= ranks[i] < 18)
        assert (line.get("by") == "perplexity" and "perplexity" in line["reason"]) == (line["rank"] is None)
    report = json.loads((finished / "report.json").read_text())
    assert report["data"]["rows"] == 12 and any("kept 12 of 24 records" in n for n in report["notes"])
    assert "selection/main.jsonl" in report["hashes"]


def test_select_writes_what_the_run_keeps(inputs: Path, finished: Path) -> None:
    head, ran = told(finished)
    found = select_of_recipe(recipe(inputs, data__select=[BAND]), inputs / "chosen")
    lines = [json.loads(x) for x in (inputs / "chosen" / "scores.jsonl").read_text().splitlines()]
    assert [(x["id"], x.get("rank"), x["scores"]) for x in lines] == [(x["id"], x["rank"], x["scores"]) for x in ran]
    assert [x.get("reason") for x in lines] == [x.get("reason") for x in ran] and found.kept == 12
    rows = (inputs / "train.jsonl").read_text().splitlines()
    kept = [json.loads(row) for row, x in zip(rows, ran, strict=True) if x["rank"] is not None]
    assert [json.loads(x) for x in (inputs / "chosen" / "kept.jsonl").read_text().splitlines()] == kept
    assert found.selectors[0].tokens == found.tokens == head["tokens"] and found.flops == head["flops"] > 0
    with pytest.raises(RecipeError, match="the rows of the stage 'second' are chosen when it begins"):
        select_of_recipe(recipe(inputs, stages=two_stages(BAND)), inputs / "later")


@pytest.mark.parametrize("more", [0, 1])
def test_a_row_that_no_selector_is_offered_is_named_and_so_is_a_number_above_the_rows(inputs: Path, more: int) -> None:
    few = (inputs / "train.jsonl").read_text().splitlines()[:9]
    few[4:4] = [json.dumps({"prompt": "pin " * 200, "completion": "card"})] * (1 + more)
    (inputs / "few.jsonl").write_text("\n".join(few))
    data = {"data__train": ["few.jsonl"], "data__truncation": "drop", "data__max_length": 64}
    use = {"random": {"keep": 9 + more}}
    found = select_of_recipe(recipe(inputs, data__select=[use], **data), inputs / f"few-{more}")
    assert (found.left_out, found.kept) == (1 + more, 9)
    said = ["random was to keep 10 rows, and was offered 9"] if more else []
    assert found.notes[-1 - more :] == [*said, "offered to no selector, the first of them: few.jsonl:5"]
    assert ("2 rows were offered to no selector" if more else "1 row was offered to no selector") in str(found)


def test_a_record_that_a_selector_changed_is_encoded_anew(inputs: Path) -> None:
    found = select_of_recipe(recipe(inputs, data__select=[{"ifd": {"keep": 4, "most": 9}}]), inputs / "hard")
    lines = [json.loads(x) for x in (inputs / "hard" / "scores.jsonl").read_text().splitlines()]
    session = assemble(Recipe.load(recipe(inputs, "plain")))
    first = json.loads((inputs / "train.jsonl").read_text().splitlines()[0])
    record = Record({"prompt": "### Response:", "completion": first["completion"]}, id="x")
    row = session.task.encode(record, session.tokenizer, session.options)
    labels = [i if w > 0 else -100 for i, w in zip(row.input_ids, row.weights, strict=True)]
    with torch.no_grad():
        loss = float(session.adapted.model(input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([labels])).loss)
    scores = lines[0]["scores"]
    assert scores["ifd.loss_alone"] == pytest.approx(loss, rel=1e-4) and scores["ifd.loss"] != scores["ifd.loss_alone"]
    assert scores["ifd.difficulty"] == pytest.approx(scores["ifd.loss"] / scores["ifd.loss_alone"], rel=1e-5)
    assert found.kept == 4 and found.tokens > sum(len(r.input_ids) for r in session.stages[0].rows.rows)


def test_its_cost_is_booked(inputs: Path, finished: Path) -> None:
    cost = json.loads((finished / "report.json").read_text())["cost"]
    rows = assemble(Recipe.load(recipe(inputs, "plain"))).stages[0].rows
    head, _ = told(finished)
    assert cost["seconds"]["selection"] > 0 and head["tokens"] == rows.counts["tokens"]
    assert cost["flops_by_phase"]["selection"] == head["flops"] > 0
    run(recipe(inputs, data__select=[BAND]), inputs / "again", quiet=True)  # its scores come from the cache
    again = json.loads((inputs / "again" / "report.json").read_text())["cost"]
    assert again["flops_by_phase"]["selection"] == head["flops"]
    assert again["flops"] == pytest.approx(cost["flops"])


def test_what_a_selector_s_own_model_cost_is_booked_from_the_cache_too(inputs: Path) -> None:
    tiny.bert_classifier(labels=2).save_pretrained(inputs / "judge")
    tiny.tokenizer(encoder=True, chat=False).save_pretrained(inputs / "judge")
    judge = {"toxicity": {"model": str(inputs / "judge"), "label": "LABEL_1", "most": 1.0}}
    recipes = recipe(inputs, "judged", data__select=[judge])
    first, again = (assemble(Recipe.load(recipes)).stages[0].selection for _ in range(2))
    assert first is not None and again is not None and first.flops == again.flops > 0
    run(recipes, inputs / "judged", quiet=True)
    cost = json.loads((inputs / "judged" / "report.json").read_text())["cost"]
    head, lines = told(inputs / "judged")
    assert cost["flops_by_phase"]["selection"] == head["flops"] == first.flops and len(lines) == 24


def test_a_cached_selection_leaves_the_same_file_and_weights(inputs: Path, finished: Path) -> None:
    run(recipe(inputs, data__select=[BAND]), inputs / "cached", quiet=True)
    files = [(p / "selection" / "main.jsonl").read_bytes() for p in (finished, inputs / "cached")]
    assert files[0] == files[1]
    stages = [checkpoint.read(p / "stages" / "main").tensors["trained"] for p in (finished, inputs / "cached")]
    assert not differing(*stages)


def test_a_later_stage_is_read_with_what_it_starts_from(inputs: Path) -> None:
    run(recipe(inputs, stages=two_stages(BAND)), inputs / "two", quiet=True)
    run(recipe(inputs, stages=[two_stages(BAND)[1] | {"start": "base"}]), inputs / "one", quiet=True)
    first, second = (told(inputs / name, "second")[1] for name in ("one", "two"))
    scores = [[line["scores"]["perplexity.loss"] for line in lines] for lines in (first, second)]
    assert all(abs(a - b) > 1e-4 for a, b in zip(*scores, strict=True))  # trained at a large rate in between
    assert sum(scores[1]) < sum(scores[0])


def test_a_stage_that_replays_another_replays_what_was_selected_there(inputs: Path) -> None:
    stages = two_stages(replay={"stages.first": 0.5})
    stages[0]["data"] = {"select": [BAND]}
    del stages[1]["data"]["select"]
    seen: list[set[str]] = []
    kept = running.finish

    def watched(work: Any, cached: Any) -> Any:
        second = work.session.stages[1]
        seen.extend([{r.id for r in second.replay["stages.first"][0].rows}, {r.id for r in second.rows.rows}])
        return kept(work, cached)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "finish", watched)
        run(recipe(inputs, stages=stages), inputs / "replayed", quiet=True)
    chosen = {x["id"] for x in told(inputs / "replayed", "first")[1] if x["rank"] is not None}
    assert seen[0] == chosen and len(chosen) == 12 and len(seen[1]) == 24


def test_two_selectors_in_order_and_one_that_reads_no_model(inputs: Path) -> None:
    select = [{"dsir": {"keep": 12, "noise": False}}, {"instructmining": {"keep": "50%", "coefficients": {"loss": 1}}}]
    select.append({"perplexity": {"high": 0.5}})
    changes = {"data__select": select, "data__validation": "apart.jsonl"}
    run(recipe(inputs, **changes), inputs / "chain", quiet=True)
    head, lines = told(inputs / "chain")
    by = [line.get("by") for line in lines]
    assert [by.count(n) for n in ("dsir", "instructmining", "perplexity", None)] == [12, 6, 3, 3]
    left = {x["id"]: x["scores"] for x in lines if x.get("by") != "dsir"}
    assert all("instructmining.loss" in s for s in left.values())
    last = [s for s in left.values() if "perplexity.loss" in s]
    assert len(last) == 6 and all(s["perplexity.loss"] == s["instructmining.loss"] for s in last)
    ranked = sorted((x for x in lines if x["rank"] is not None), key=lambda x: x["rank"])
    # instructmining gives the lowest first; what comes after keeps that order
    assert [x["scores"]["instructmining.rule"] for x in ranked] == sorted(
        x["scores"]["instructmining.rule"] for x in ranked
    )
    rows = assemble(Recipe.load(recipe(inputs, "plain", **changes))).stages[0].rows
    assert len(rows.rows) == 12 and head["tokens"] == rows.counts["tokens"]  # read once for both


def test_got_d_aims_at_validation_rows(inputs: Path) -> None:
    changes = {"data__select": [{"got-d": {"keep": 5}}], "data__validation": "apart.jsonl"}
    run(recipe(inputs, **changes), inputs / "ot", quiet=True)
    _, lines = told(inputs / "ot")
    ranked = sorted((x for x in lines if x["rank"] is not None), key=lambda x: x["rank"])
    assert len(ranked) == 5
    values = sorted(x["scores"]["got-d.gradient"] for x in lines)
    assert [x["scores"]["got-d.gradient"] for x in ranked] == values[:5]
    with pytest.raises(DataError, match="measured on"):
        assemble(Recipe.load(recipe(inputs, **{**changes, "data__validation": "test.jsonl"})))


# -- stopped and gone on with ------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


SAVED: dict[str, Any] = {"train__save_steps": 1, "data__select": [BAND], "stages__0__budget": {"steps": 4}}


def stopped(
    inputs: Path, name: str, patch: pytest.MonkeyPatch, where: str, after: int, changes: dict[str, Any] = SAVED
) -> Path:
    """A run that ends after the `after`-th call of a function, as if it were killed there."""
    calls = [0]
    module, _, function = where.rpartition(".")
    owner: Any = __import__(module, fromlist=["x"])
    kept = getattr(owner, function)

    def dying(*given: Any, **named: Any) -> Any:
        calls[0] += 1
        out = kept(*given, **named)
        if calls[0] >= after:
            raise Killed
        return out

    with patch.context() as p:
        p.setattr(owner, function, dying)
        with pytest.raises(Killed):
            run(recipe(inputs, name, **changes), inputs / name, quiet=True)
    return inputs / name


@pytest.mark.parametrize(
    ("where", "selected"),
    [
        ("tunewright.runs.selected._made", False),
        ("tunewright.runs.selected._write", False),
        ("tunewright.files.checkpoint.save", True),
    ],
)
def test_a_stopped_run_comes_to_the_same_bits_and_selects_once(
    inputs: Path, monkeypatch: pytest.MonkeyPatch, where: str, selected: bool
) -> None:
    whole = inputs / "whole"
    if not whole.exists():
        run(recipe(inputs, "whole", **SAVED), whole, quiet=True)
    folder = stopped(inputs, where.rpartition(".")[2].strip("_"), monkeypatch, where, 1)
    assert ("selected" in json.loads((folder / "progress.json").read_text())) == selected
    reads = []
    kept = Reader._kept
    monkeypatch.setattr(Reader, "_kept", lambda self, *given: reads.append(1) or kept(self, *given))  # type: ignore[func-returns-value]
    resume(folder, quiet=True)
    assert bool(reads) != selected, "a selection that was made is made again" if selected else "nothing was selected"
    assert not differing(*(checkpoint.read(p / "stages" / "main").tensors["trained"] for p in (whole, folder)))
    assert (whole / "selection" / "main.jsonl").read_bytes() == (folder / "selection" / "main.jsonl").read_bytes()
    hashes = [json.loads((p / "report.json").read_text())["data"]["hash"] for p in (whole, folder)]
    assert hashes[0] == hashes[1]
    resume(folder, verify=True, quiet=True)


def test_what_a_finished_stage_selected_is_replayed_after_a_stop(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = two_stages(replay={"stages.first": 0.5})
    stages[0]["data"] = {"select": [BAND]}
    del stages[1]["data"]["select"]
    changes = {"stages": stages, "train__save_steps": 1}
    run(recipe(inputs, "unbroken", **changes), inputs / "unbroken", quiet=True)
    folder = stopped(inputs, "broken", monkeypatch, "tunewright.files.checkpoint.save", 3, changes)
    assert (folder / "stages" / "first").is_dir() and not (folder / "stages" / "second").is_dir()
    resume(folder, quiet=True)
    both = (inputs / "unbroken", folder)
    assert not differing(*(checkpoint.read(p / "stages" / "second").tensors["trained"] for p in both))
    assert [json.loads((p / "report.json").read_text())["data"]["rows"] for p in both] == [12, 12]


def test_an_altered_or_missing_selection_is_refused(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stopped(inputs, "altered", monkeypatch, "tunewright.files.checkpoint.save", 1)
    file = folder / "selection" / "main.jsonl"
    text = file.read_text()
    file.write_text(text.replace('"rank": null', '"rank": 99', 1))
    with pytest.raises(CheckpointError, match="was altered"):
        resume(folder, quiet=True)
    file.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        resume(folder, quiet=True)
    file.write_text(text)
    assert resume(folder, quiet=True) is not None


# -- before a run ------------------------------------------------------------------------------------------------------


def test_a_plan_tells_what_will_be_selected_and_reads_nothing(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reader, "_kept", lambda *given: pytest.fail("a plan selects"))
    notes = plan(recipe(inputs, data__select=[BAND]), quiet=True).notes
    assert any("perplexity will choose among 24 rows when it begins" in n for n in notes)


def test_what_cannot_be_selected_is_refused_before_anything_is_loaded(inputs: Path) -> None:
    for select, says in (
        ({"perplexity": {"model": "teacher"}}, "reads with the model 'teacher', and the recipe names none"),
        ({"got-d": {}}, "selects by a target"),
    ):
        with pytest.raises(MethodError, match=says):
            assemble(Recipe.load(recipe(inputs, data__select=[select])))
    labelled = {"task": "text-classification", "data__select": [{"perplexity": {}}], "keep": []}
    with pytest.raises(MethodError, match="'perplexity' does not serve the task text-classification"):
        assemble(Recipe.load(recipe(inputs, **labelled)))


def test_a_named_model_selects(inputs: Path) -> None:
    from tests import tiny

    tiny.llama(seed=5).save_pretrained(inputs / "other")
    tiny.tokenizer().save_pretrained(inputs / "other")
    named = {"perplexity": {"model": "small", "high": 0.5}}
    run(recipe(inputs, data__select=[named], models={"small": "./other"}), inputs / "named", quiet=True)
    model = AutoModelForCausalLM.from_pretrained(inputs / "other").eval()
    row = assemble(Recipe.load(recipe(inputs, "plain"))).stages[0].rows.rows[0]
    labels = [i if w > 0 else -100 for i, w in zip(row.input_ids, row.weights, strict=True)]
    with torch.no_grad():
        loss = float(model(input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([labels])).loss)
    line = next(x for x in told(inputs / "named")[1] if x["id"] == row.id)
    assert line["scores"]["perplexity.loss"] == pytest.approx(loss, rel=1e-4) and math.isfinite(loss)


# -- tuning ------------------------------------------------------------------------------------------------------------


def test_trials_aim_at_other_validation_rows_than_they_are_measured_on(inputs: Path) -> None:
    changes = {"data__select": [{"got-d": {"keep": 5}}], "data__validation": "apart.jsonl"}
    session = assemble(Recipe.load(recipe(inputs, **changes, measurement__split="validation")))
    session.judge_on_validation()
    selection = session.stages[0].selection
    assert session.eval is not None and selection is not None and selection.target_rows is not None
    judged, aimed = ({record_key(r) for r in d.rows} for d in (session.eval, selection.target_rows))
    assert judged and aimed and not judged & aimed and len(judged | aimed) == 8
    assert {(r.source, r.id) for r in selection.target()} == aimed
    whole = assemble(Recipe.load(recipe(inputs, **changes))).stages[0].selection
    assert whole is not None and whole.target_rows is not None and len(whole.target_rows.rows) == 8


def test_halves_keep_the_pieces_of_a_record_together(inputs: Path) -> None:
    cut = {"keep": [], "data__max_length": 8, "data__truncation": "split"}
    (inputs / "long.jsonl").write_text(
        "\n".join(json.dumps({"text": "card lost fee top up cash abroad pin rate " * k}) for k in (3, 4, 2, 1))
    )
    rows = assemble(Recipe.load(recipe(inputs, data__train="long.jsonl", **cut))).stages[0].rows
    assert len(rows.rows) > 4
    first, second = halves(rows)
    keys = [{record_key(r) for r in d.rows} for d in (first, second)]
    assert not keys[0] & keys[1] and len(first.rows) + len(second.rows) == len(rows.rows) and len(keys[0]) == 2
