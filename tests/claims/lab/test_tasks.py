from __future__ import annotations

import json
import os

import pytest

from tunewright.claims.lab import rows, tasks
from tunewright.claims.lab.overlay import with_methods
from tunewright.errors import ClaimError, DataError
from tunewright.recipe import Recipe

HAVE = bool(os.environ.get("TUNEWRIGHT_DATA"))


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path_factory.getbasetemp() / "lab-cache"))
    first = (rows.arithmetic, rows.induction, rows.topics, rows.digits, rows.preferences, rows.domain, rows.selection)
    later = (rows.calibration, rows.domain_replay, rows.classes, rows.levels, rows.unequal, rows.translation)
    for made in (*first, *later):
        made.cache_clear()


def _read(sources):
    return [line for s in sources for line in open(s["path"], encoding="utf-8")]


@pytest.mark.parametrize("scale", ["nano", "real"])
@pytest.mark.parametrize("name", tasks.TASKS)
def test_every_recipe_is_valid_and_keeps_its_parts_apart(name, scale):
    task = tasks.task(name)
    if task.needs_data and not HAVE:
        pytest.skip("needs the data sets: set TUNEWRIGHT_DATA")
    recipe = Recipe(**with_methods(task.recipe(scale), ["full"]))
    assert (recipe.measurement.rows or 0) >= 200
    data = recipe.data
    assert data.eval and isinstance(data.validation, list)
    parts = [{s.path for s in part} for part in (data.train, data.validation, data.eval)]
    assert not parts[0] & parts[1] and not parts[1] & parts[2] and not parts[0] & parts[2]
    for path in set().union(*parts):
        assert path.startswith("quickstart:") or os.path.isfile(path)
    if all(p.endswith(".jsonl") for p in set().union(*parts)):
        train, validation, judged = (set(open(next(iter(p)), encoding="utf-8")) for p in parts)
        assert not train & judged and not validation & judged and not train & validation
        assert len(judged) >= 200


def test_a_recipe_is_a_copy():
    first = tasks.task("intents").recipe()
    first["train"]["learning_rate"] = 9
    assert tasks.task("intents").recipe()["train"] != first["train"]


def test_unknown_tasks_and_scales_name_what_there_is():
    with pytest.raises(ClaimError, match="intents"):
        tasks.task("intent")
    with pytest.raises(ClaimError, match="nano"):
        tasks.LabTask("one", "About.", {"nano": {}}).recipe("real")


def test_a_task_that_needs_data_says_so(monkeypatch):
    monkeypatch.delenv("TUNEWRIGHT_DATA", raising=False)
    for name, task in tasks.TASKS.items():
        if task.needs_data:
            with pytest.raises(DataError, match="TUNEWRIGHT_DATA"):
                tasks.task(name).recipe("nano")
        else:
            assert task.recipe("nano")


def test_rows_are_written_once_under_their_content(monkeypatch):
    first = rows.written("x", {"train": [{"text": "a"}]})
    again = rows.written("x", {"train": [{"text": "a"}]})
    other = rows.written("x", {"train": [{"text": "b"}]})
    assert first == again != other and json.loads(open(first["train"]).read()) == {"text": "a"}


def test_a_wrong_topic_is_rejected_and_never_the_right_one():
    for path in rows.preferences().values():
        for line in open(path, encoding="utf-8"):
            row = json.loads(line)
            assert row["chosen"] != row["rejected"]


@pytest.mark.skipif(not HAVE, reason="needs the data sets: set TUNEWRIGHT_DATA")
def test_one_text_in_eight_of_the_pool_is_of_the_target():
    train = [json.loads(line)["text"] for line in open(rows.selection()["train"], encoding="utf-8")]
    from tunewright.claims.lab import corpus

    bank = {r["text"].strip() for r in corpus.rows("banking77/train.jsonl.gz")}
    assert sum(t in bank for t in train) / len(train) == pytest.approx(1 / 8, abs=0.01)


def _column(path, column="text"):
    return [json.loads(line)[column] for line in open(path, encoding="utf-8")]


needs_data = pytest.mark.skipif(not HAVE, reason="needs the data sets: set TUNEWRIGHT_DATA")


@needs_data
def test_every_class_arrives_in_one_stage_and_the_stages_are_all_training_rows():
    found = rows.classes()
    each = [_column(found[f"train-{i}"], "label") for i in range(1, 6)]
    assert [sorted(set(labels)) for labels in each] == [list(rows.DOMAINS[i : i + 2]) for i in range(0, 10, 2)]
    assert sum(map(len, each)) == len(_column(found["train"])) == 2000
    recipe = tasks.task("classes").recipe("nano")
    assert [stage.get("carry") for stage in recipe["stages"]] == [None, "training", "training", "training", "training"]


@needs_data
def test_the_small_source_is_a_hundredth_and_both_are_judged_alike():
    found = rows.unequal()
    small, judged = _column(found["small"]), _column(found["eval"])
    assert len(_column(found["large"])) == 100 * len(small) == 3000
    assert not set(small) & {*judged, *_column(found["validation"])} and len(set(judged)) == 250
    finnish = {r["text"] for r in rows.corpus.rows("genesis-multilingual/test.jsonl.gz") if r["lang"].startswith("fi")}
    assert sum(t in finnish for t in judged) == 125
    assert [s["name"] for s in tasks.task("unequal").recipe("nano")["data"]["train"]] == ["large", "small"]


@needs_data
def test_translation_goes_both_ways_and_nothing_judged_is_learnt():
    found = rows.translation()
    prompts, answers = _column(found["eval"], "prompt"), _column(found["eval"], "completion")
    assert sum(p.startswith("Translate this from English to Japanese: ") for p in prompts) == 125
    learnt = {*_column(found["train"], "completion"), *_column(found["text"])} | {
        p.split(": ", 1)[1] for p in _column(found["train"], "prompt")
    }
    assert not learnt & {*answers, *(p.split(": ", 1)[1] for p in prompts)}
    assert not set(_column(found["text"])) & {*_column(found["train"], "completion")}


@needs_data
def test_text_to_look_at_or_replay_is_not_the_kept_text():
    kept = rows.corpus.ngrams(rows.corpus.QUICKSTART_KEEP.read_text(encoding="utf-8"))
    for text in (*_column(rows.calibration()["calibration"]), *_column(rows.domain_replay()["replay"])):
        assert 200 < len(text) <= 400 and not rows.corpus.ngrams(text) & kept


@needs_data
def test_variants_are_the_tasks_they_vary():
    plain, more = (tasks.task(name).recipe("nano") for name in ("intents", "intents-calibrated"))
    assert more["keep"][0] == plain["keep"][0] and {k: v for k, v in more.items() if k != "keep"} == {
        k: v for k, v in plain.items() if k != "keep"
    }
    (share,) = tasks.task("domain-replay").recipe("nano")["data"]["replay"].values()
    assert share == 0.25
    assert tasks.task("preferences-pairs").recipe("nano")["evaluation"]["metric"] == "pair_accuracy"
