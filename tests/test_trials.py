from __future__ import annotations

import json

import pytest

from tests import small
from tunewright import catalogue
from tunewright.files import source
from tunewright.recipe import Recipe
from tunewright.runs.run import run
from tunewright.trials import trial_key
from tunewright.trials.trial import Reading, Store, TrialRecord, key_of, run_trial


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("trials")
    small.write_inputs(made)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(made / "cache"))
        yield made


def recipe(folder, **changes):
    return Recipe.load(small.write_recipe(folder, **changes))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_a_trial_has_the_figures_of_the_whole_run_and_leaves_its_record_alone(folder, store, tmp_path):
    record = run_trial(recipe(folder), store, arm="lora")
    report = run(recipe(folder), tmp_path / "whole", quiet=True).report
    assert record.finished and record.arm == "lora"
    assert record.base.target == report.target.before.value and record.tuned.target == report.target.after.value
    assert record.tuned.kept == {k.name: k.after.value for k in report.kept}
    assert record.tuned.drift == report.drift.value.value
    assert [r.strength for r in record.strengths] == [0.5, 1.0]
    assert record.strengths[0].drift == next(s for s in report.trade if s.strength == 0.5).drift.value
    assert record.serves == [] and record.trained["methods"][0]["name"] == "lora"
    assert record.cost["peak_memory_bytes"] > 10**8
    rows = [json.loads(line) for line in (tmp_path / "whole" / "rows.jsonl").read_text().splitlines()]
    assert record.rows.values.tolist() == [r["tuned_score"] for r in rows] and len(rows) == record.evaluated
    assert record.rows.gains.tolist() == [r["tuned_score"] - r["base_score"] for r in rows]
    left = [p for p in store.folder.rglob("*") if p.is_file()]
    assert [p.suffix for p in left] == [".json"]
    assert json.loads(left[0].read_text())["key"] == key_of(recipe(folder))


def test_an_equal_trial_is_not_run_again_and_artefacts_stay_when_asked(folder, store, monkeypatch):
    first = run_trial(recipe(folder), store)
    kept = run_trial(recipe(folder), store, keep_artefacts=True)
    assert first.folder is None and kept.folder is not None
    assert (store.folder / kept.key).is_dir() and json.loads(
        (__import__("pathlib").Path(kept.folder) / "report.json").read_text()
    )
    monkeypatch.setattr("tunewright.trials.trial._figures", None)  # cannot run
    assert run_trial(recipe(folder, name="x"), store).started == kept.started


@pytest.mark.slow
def test_the_base_is_measured_once_for_all_seeds_and_methods_see_equal_rows_in_equal_order(folder, store):
    found = {
        (m, s): run_trial(recipe(folder, train__seed=s, stages__0__methods=[m]), store)
        for m in ("lora", "full")
        for s in (3, 4)
    }
    assert sum("base measured" not in r.cost["cached"] for r in found.values()) <= 1
    assert found["lora", 3].order == found["full", 3].order != found["lora", 4].order
    assert found["lora", 3].base == found["full", 4].base


@pytest.mark.parametrize(
    "changes, kind, where",
    [
        ({"train__learning_rate": 1e9}, "NonFiniteError", "step"),
        ({"stages__0__methods": ["hft", "lift"]}, "MethodError", None),
        ({"data__train": "none.jsonl"}, "DataError", "none.jsonl"),
        ({"model": "./nothing"}, "ModelError", "nothing"),
    ],
)
def test_what_goes_wrong_is_a_record_with_what_and_where(folder, store, changes, kind, where):
    record = run_trial(recipe(folder, **changes), store)
    assert record.status == "failed" and record.error.type == kind and record.error.message
    assert where is None or where in record.error.where
    assert record.settled and store.get(record.key) == record
    assert not list((store.folder / ".work").iterdir())


@pytest.mark.parametrize("error, kind", [(MemoryError("no"), "MemoryError"), (KeyError("defect"), "KeyError")])
def test_what_may_be_gone_the_next_time_is_tried_again(folder, store, monkeypatch, error, kind):
    def broken(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("tunewright.trials.trial._figures", broken)
        record = run_trial(recipe(folder), store)
    assert record.error.type == kind and not record.settled
    again = run_trial(recipe(folder), store)
    assert again.finished and again.attempt == 2
    assert [r.status for r in store.attempts(again.key)] == ["failed", "finished"]
    assert store.get(again.key).finished


# -- keys --------------------------------------------------------------------------------------------------------------


def test_a_key_does_not_change_with_the_name_the_folder_or_what_a_run_writes_down(folder, tmp_path):
    one = recipe(folder)
    assert key_of(recipe(folder, name="other")) == key_of(one)
    one.made_with = {"versions": {"torch": "1"}}
    assert key_of(one) == key_of(recipe(folder))
    assert key_of(recipe(folder, gate={"drift": "<= 1"})) == key_of(one), "a gate judges what was measured"
    small.write_inputs(tmp_path)
    assert key_of(recipe(tmp_path)) == key_of(recipe(folder))
    path = tmp_path / "resolved.yaml"
    path.write_text(recipe(folder).dump(absolute=True))
    assert key_of(Recipe.load(path)) == key_of(recipe(folder))


CHANGES = {
    "train__learning_rate": 1e-3,
    "train__seed": 1,
    "train__optimizer": "sgd",
    "data__max_length": 64,
    "data__validation": 0.5,
    "measurement__strengths": [1.0],
    "measurement__split": "validation",
    "keep": [],
    "after": ["lines"],
    "probes": ["intruder-dimensions"],
    "stages__0__methods": [{"lora": {"rank": 3}}],
    "stages__0__budget": {"steps": 5},
    "new_tokens": ["<a>"],
}


@pytest.mark.parametrize("field", CHANGES)
def test_any_field_that_decides_numbers_changes_the_key(folder, field):
    assert key_of(recipe(folder, **{field: CHANGES[field]})) != key_of(recipe(folder))


@pytest.mark.parametrize(
    "file",
    ["train.jsonl", "test.jsonl", "keep.txt", "base/model.safetensors", "base/config.json", "base/tokenizer.json"],
)
def test_other_content_under_the_same_name_is_another_trial(tmp_path, file, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    small.write_inputs(tmp_path)
    before = key_of(recipe(tmp_path))
    path = tmp_path / file
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert key_of(recipe(tmp_path)) != before


def test_a_method_that_does_something_else_is_another_trial(tmp_path, monkeypatch, folder):
    before, hft = key_of(recipe(folder)), key_of(recipe(folder, stages__0__methods=["hft"]))
    entry = catalogue.lookup("lora")
    own = tmp_path / "moved.py"
    text = entry.file.read_text()
    changed = {**catalogue.entries(), "lora": type(entry)("lora", entry.room, entry.module, own)}
    for module in (catalogue, catalogue.folders):
        monkeypatch.setattr(module, "entries", lambda: changed)
    own.write_text(text + "\nELSE = 1\n")
    assert key_of(recipe(folder)) == before  # a process goes on with the code that it has loaded
    trial_key.method_source.cache_clear()
    assert key_of(recipe(folder)) != before
    assert key_of(recipe(folder, stages__0__methods=["hft"])) == hft
    own.write_text("# moved, and laid out anew\n" + text.replace("\n\n", "\n"))
    trial_key.method_source.cache_clear()
    assert key_of(recipe(folder)) == before
    trial_key.method_source.cache_clear()


def test_what_a_method_imports_counts_as_the_method_unless_every_run_uses_it():
    files = {f.name for f in trial_key.method_files("corda")}
    assert {"corda.py", "input_covariance.py"} <= files and not {"method.py", "low_rank.py"} & files
    assert trial_key.method_files("no-such") == () and trial_key.method_source("no-such") == "no-such"


# -- the store ---------------------------------------------------------------------------------------------------------


def made(key="k", status="finished", second=0, **more):
    started = f"2026-01-01T00:00:{second:02d}Z"
    return TrialRecord(
        key=key, status=status, started=started, strengths=[Reading(strength=1.0, target=float(second))], **more
    )


def test_the_last_settled_record_counts_and_every_attempt_stays(store):
    for record in (made(status="killed"), made(second=1), made(status="killed", second=2)):
        store.put(record)
    assert store.get("k").tuned.target == 1 and len(store.attempts("k")) == 3
    assert store.get("other") is None


def test_a_damaged_or_foreign_file_is_no_record(store):
    path = store.put(made())
    path.with_name("1.json").write_text('{"key": "k"')
    path.with_name("2.json").write_text('{"version": 9}')
    assert len(store.attempts("k")) == 1


def test_another_store_is_read_where_this_one_has_nothing_settled(tmp_path):
    other, own = Store(tmp_path / "a"), Store(tmp_path / "b", also=[tmp_path / "a"])
    other.put(made(second=5))
    assert own.get("k").tuned.target == 5
    own.put(made(status="killed", second=6))
    assert own.get("k").tuned.target == 5
    own.put(made(second=7))
    assert own.get("k").tuned.target == 7 and len(other.attempts("k")) == 1


def test_the_code_that_a_run_uses_changes_the_key(folder, tmp_path, monkeypatch):
    named = {str(f.relative_to(source.PACKAGE)) for f in trial_key.core_files()}
    assert {
        *("runs/run.py", "runs/meter.py", "runs/predicting.py", "training/train.py", "training/optim.py"),
        *("models/lowrank.py", "measure/target.py", "data/read.py", "tasks/base.py", "weights/learning.py"),
    } <= named
    assert not any(n.startswith(("report/", "commands/", "claims/", "methods/", "papers/")) for n in named)
    before = key_of(recipe(folder))
    changed = tmp_path / "train.py"
    monkeypatch.setattr(trial_key, "core_files", lambda: (changed,))
    keys = []
    for text in ("x = 1\n", "x = 1  # the same\n", "x = 2\n"):
        changed.write_text(text)
        trial_key._code.cache_clear()
        keys.append(key_of(recipe(folder)))
    trial_key._code.cache_clear()
    assert keys[0] == keys[1] and len({before, *keys}) == 3


def test_the_tasks_own_code_is_in_the_key(monkeypatch):
    seen = []
    monkeypatch.setattr(trial_key.source, "plain_of", lambda files: seen.append({f.name for f in files}) or "x")
    trial_key._code.cache_clear()
    trial_key._code("fill-mask")
    trial_key._code.cache_clear()
    assert "fill_mask.py" in seen[0]
