"""Recipes whose training rows are streamed: they learn what stored rows teach, resume to the bit, and refuse what needs
all rows.
"""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.resuming import LORA, PLAIN
from tests.small import write_inputs
from tunewright.errors import DataError, RecipeError, TunewrightError
from tunewright.planning.check import check_recipe
from tunewright.planning.plan import plan
from tunewright.recipe import Recipe
from tunewright.runs.run import resume, run
from tunewright.runs.streamed import check
from tunewright.training.train import Loop


@pytest.fixture
def folder(tmp_path):
    write_inputs(tmp_path)
    return tmp_path


def write(folder, name="recipe.yaml", *, data=None, steps=8, streaming=True, methods=(LORA,), **more):
    source = {"path": "train.jsonl", "streaming": True} if streaming else "train.jsonl"
    body = {
        **PLAIN,
        "data": {**PLAIN["data"], "train": source, **(data or {})},
        "methods": list(methods),
        "budget": {"steps": steps},
        **more,
    }
    (folder / name).write_text(yaml.safe_dump(body))
    return folder / name


def change(out):
    files = sorted(p for p in out.rglob("*.safetensors") if "checkpoint" not in p.parts[-2])
    assert files
    return {f"{p.parent.name}/{p.name}/{k}": v for p in files for k, v in load_file(p).items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_in_the_files_order_a_stream_teaches_what_stored_rows_teach(folder):
    kept = write(folder, "kept.yaml", streaming=False, data={"shuffle": False})
    streamed = write(folder, data={"shuffle": False, "shuffle_buffer": 3})
    run(kept, folder / "kept")
    run(streamed, folder / "streamed")
    assert same(change(folder / "kept"), change(folder / "streamed"))
    other = write(folder, "other.yaml", data={"shuffle_buffer": 3})
    run(other, folder / "other")
    assert not same(change(folder / "other"), change(folder / "streamed"))


def test_the_buffer_decides_the_order(folder):
    for size in (2, 50):
        run(write(folder, f"{size}.yaml", data={"shuffle_buffer": size}), folder / str(size))
    assert not same(change(folder / "2"), change(folder / "50"))


def test_a_streamed_run_goes_on_to_the_bit(folder):
    file = write(folder, data={"shuffle_buffer": 3}, train={**PLAIN["train"], "save_steps": 3})
    run(file, folder / "whole")

    step = Loop.one_step

    def stopping(self):
        if self.step_number == 5:
            raise DataError("stopped here")
        return step(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "one_step", stopping)
        with pytest.raises(TunewrightError, match="stopped here"):
            run(file, folder / "halves")
    resume(folder / "halves")
    assert same(change(folder / "whole"), change(folder / "halves"))
    report = json.loads((folder / "halves" / "report.json").read_text())
    whole = json.loads((folder / "whole" / "report.json").read_text())
    assert report["data"]["sources"] == whole["data"]["sources"]
    assert any("was streamed" in note for note in report["notes"])
    assert report["stages"][0]["epochs"] is None


def test_pairs_are_streamed_as_pairs(folder):
    rows = [{"prompt": f"{k} red", "chosen": "warm", "rejected": "cold"} for k in range(12)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    for streaming in (True, False):
        source = {"path": "pairs.jsonl", "streaming": streaming}
        file = write(folder, f"{streaming}.yaml", data={"train": source, "shuffle": False}, methods=[LORA, "dpo"])
        run(file, folder / str(streaming))
    assert same(change(folder / "True"), change(folder / "False"))


def test_a_plan_and_a_check_say_what_they_saw(folder, monkeypatch):
    monkeypatch.setattr("tunewright.data.dataset.HEAD", 4)
    monkeypatch.setattr("tunewright.runs.streamed.HEAD", 4)
    file = write(folder)
    checked = check_recipe(file)
    assert checked.ok and any("see its first 4 records" in c for c in checked.report.cautions)
    seen = plan(file, quiet=True)
    assert "streamed rows" in str(seen) and seen.stages[0].rows == 0


@pytest.mark.parametrize("streaming", [True, False])
def test_bad_rows_are_refused_or_left_out_and_told(folder, streaming):
    with (folder / "train.jsonl").open("a") as f:
        f.write('{"prompt": 5, "completion": "x"}\n')
    strict = write(folder, streaming=streaming, steps=200, train={**PLAIN["train"], "batch_tokens": 60})
    assert not check_recipe(strict).ok
    with pytest.raises(DataError, match="cannot be used"):
        run(strict, folder / "strict")
    lenient = write(folder, streaming=streaming, data={"bad_rows": "skip"}, steps=30)
    found = check_recipe(lenient)
    assert found.ok and len(found.report.skipped) == 1 and "left out" in str(found)
    run(lenient, folder / "lenient")
    notes = json.loads((folder / "lenient" / "report.json").read_text())["notes"]
    assert any("left out" in note for note in notes)


@pytest.mark.parametrize(
    "change, where, says",
    [
        ({"budget": {"epochs": 1}}, "budget", "epochs cannot be planned"),
        ({"budget": {}}, "budget", "no known end"),
        ({"data": {"validation": "10%"}}, "data.validation", "all rows first"),
        ({"data": {"select": ["dsir"]}}, "data.select", "all rows first"),
        ({"data": {"synthesize": ["entigraph"]}}, "data.synthesize", "all rows first"),
        ({"data": {"eval": {"path": "test.jsonl", "streaming": True}}}, "data.eval", "only rows to learn from"),
        (
            {"data": {"validation": [{"path": "test.jsonl", "streaming": True}]}},
            "data.validation",
            "only rows to learn from",
        ),
        (
            {"test_time": {"adapt": ["tent"], "data": [{"path": "test.jsonl", "streaming": True}]}},
            "test_time.data",
            "only rows to learn from",
        ),
    ],
)
def test_what_needs_all_rows_is_refused_where_it_stands(folder, change, where, says):
    data = {"train": {"path": "train.jsonl", "streaming": True}, **change.pop("data", {})}
    body = {**PLAIN, "data": {**PLAIN["data"], **data}, "methods": [LORA], "budget": {"steps": 4}, **change}
    if body["budget"] == {}:
        del body["budget"]
    recipe = Recipe.model_validate(body)
    recipe._base = folder
    with pytest.raises(RecipeError, match=says) as caught:
        check(recipe)
    assert caught.value.where == where


def test_classes_of_a_stream_are_to_be_named(folder):
    body = {
        **PLAIN,
        "task": "text-classification",
        "data": {"train": {"path": "train.jsonl", "streaming": True}},
        "methods": [LORA],
        "budget": {"steps": 4},
    }
    with pytest.raises(RecipeError, match="classes of a streamed source") as caught:
        check(Recipe.model_validate(body))
    assert caught.value.where == "data.labels"
    body["data"]["labels"] = ["a", "b"]
    check(Recipe.model_validate(body))


def test_streamed_rows_are_not_replayed(folder):
    body = {
        **PLAIN,
        "data": {"train": {"path": "train.jsonl", "streaming": True}},
        "stages": [
            {"name": "first", "methods": [LORA], "budget": {"steps": 2}},
            {
                "name": "second",
                "methods": [LORA],
                "budget": {"steps": 2},
                "data": {"train": "test.jsonl", "replay": {"stages.first": 0.1}},
            },
        ],
    }
    with pytest.raises(RecipeError, match="what is replayed is read again"):
        check(Recipe.model_validate(body))


def test_a_limit_of_a_stream_is_refused():
    with pytest.raises(RecipeError, match="whatever its limit"):
        Recipe.model_validate(
            {**PLAIN, "data": {"train": {"path": "x.jsonl", "streaming": True, "limit": 5}}, "methods": [LORA]}
        )


@pytest.mark.slow
def test_a_run_stopped_by_a_bad_row_goes_on_without_it(folder):
    rows = (folder / "train.jsonl").read_text().splitlines()
    (folder / "train.jsonl").write_text("\n".join([*rows[:-1], '{"prompt": 5, "completion": "x"}', rows[-1]]) + "\n")
    data = {"shuffle": False, "shuffle_buffer": 3}
    small = {**PLAIN["train"], "batch_tokens": 60, "micro_tokens": None, "save_steps": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tunewright.data.dataset.HEAD", 5)
        with pytest.raises(DataError, match="cannot be used") as caught:
            run(write(folder, data=data, train=small, steps=200), folder / "stopped")
        assert "bad_rows: skip" in caught.value.remedy
        recipe = yaml.safe_load((folder / "stopped" / "recipe.yaml").read_text())
        recipe["data"]["bad_rows"] = "skip"
        recipe["stages"][0]["budget"]["steps"] = 200
        (folder / "stopped" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        resume(folder / "stopped")
    notes = json.loads((folder / "stopped" / "report.json").read_text())["notes"]
    assert any("could not be used and were left out" in note for note in notes)


def test_a_run_reads_rows_at_an_address(folder):
    import functools
    import threading
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(SimpleHTTPRequestHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/train.jsonl"
        for streaming in (True, False):
            source = {"path": address, "name": "train.jsonl", "streaming": streaming}
            run(write(folder, f"{streaming}.yaml", data={"train": source, "shuffle": False}), folder / str(streaming))
        run(write(folder, "here.yaml", streaming=False, data={"shuffle": False}), folder / "here")
    finally:
        server.shutdown()
        server.server_close()
    assert same(change(folder / "True"), change(folder / "here")) and same(
        change(folder / "False"), change(folder / "here")
    )
