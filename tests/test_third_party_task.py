"""docs/write-a-task.md, executed: its files become a package, whose task is checked, planned, run and exported."""

from __future__ import annotations

import json
import math
import random
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.test_third_party import FILE, ROOT, RUN, do, install
from tunewright import tasks
from tunewright.catalogue import folders
from tunewright.contract import Metric, Row
from tunewright.data import shapes
from tunewright.data.truncate import trained_tokens
from tunewright.errors import DataError, MethodError, RecipeError
from tunewright.machine import installed
from tunewright.measure import cache, target
from tunewright.measure.rows import read_rows
from tunewright.planning.check import check_recipe
from tunewright.planning.init import starter
from tunewright.planning.plan import plan
from tunewright.recipe import Recipe
from tunewright.report import summary
from tunewright.report.schema import Report
from tunewright.runs.run import resume as run_again
from tunewright.runs.run import run
from tunewright.trials import trial_key

TEXT = (ROOT / "docs" / "write-a-task.md").read_text(encoding="utf-8")
COMMANDS = [line for block in RUN.findall(TEXT) for line in block.splitlines()]
SETS = [
    "budget.steps=8",
    "measurement.strengths=[1]",
    "train.batch_tokens=128",
    "train.precision=float32",
    "train.learning_rate=0.02",
    "train.threads=1",
]
PEOPLE, PLACES = ("Ada", "Alan", "Grace Hopper"), ("London", "New York", "Rome")


def files() -> dict[str, str]:
    return dict(FILE.findall(TEXT))


def sentence(rng: random.Random) -> dict[str, list[str]]:
    """Two names with words between them."""
    tokens, tags = list[str](), list[str]()
    for names, kind, said in ((PEOPLE, "PER", ("lives", "in")), (PLACES, "LOC", ("today",))):
        words = rng.choice(names).split()
        tokens += [*words, *said]
        tags += [f"{'I' if i else 'B'}-{kind}" for i in range(len(words))] + ["O"] * len(said)
    return {"words": tokens, "entities": tags}


def write_rows(folder: Path, train: int = 24, test: int = 10) -> None:
    rng = random.Random(0)
    for name, count in (("train", train), ("test", test)):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(sentence(rng)) for _ in range(count)))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    tiny.bert().save_pretrained(folder / "base")
    tiny.tokenizer(encoder=True, chat=False).save_pretrained(folder / "base")
    for name, content in files().items():
        (folder / name).write_text(content.replace('"steps": 100', '"steps": 2'))
    install(folder)
    write_rows(folder)
    return folder


def test_the_page_has_what_is_tested_here() -> None:
    tests = {"test_tagging.py", "test_conformance.py"}
    assert set(files()) == {"pyproject.toml", "tagging.py", "recipe.yaml", "tagging_claim.py", "one_output.py"} | tests
    verbs = ["methods", "methods", "-q", "check", "plan", "run", "export", "papers"]
    assert [shlex.split(c)[1] for c in COMMANDS] == verbs
    (shown,) = re.findall(r"<!-- rows -->\n```json\n(.*?)\n```", TEXT, re.DOTALL)
    assert json.loads(shown).keys() == sentence(random.Random(0)).keys()


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_pages_commands(package: Path, command: str) -> None:
    words = shlex.split(command)
    if words[1] in ("check", "plan", "run"):
        words += [w for s in SETS for w in ("--set", s)]
    done = do(package, *words)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    said = done.stdout + done.stderr
    if words[1] == "methods":
        assert "tagging 0.1" in said and "Entity tagging: one class a word" in said
        assert len(words) > 2 or all(n in said for n in ("entity_f1", "annotated", "tagging-lora"))
        assert len(words) > 2 or all(n in said for n in ("Words and as many tags.", "F1 of whole spans over all rows"))


@pytest.fixture
def beside(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package in this process, and its model and rows in a folder of the test's own."""
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "base").symlink_to(package / "base")
    write_rows(tmp_path)
    shown = (package / "recipe.yaml").read_text()
    (tmp_path / "recipe.yaml").write_text(re.sub("model: nano-encoder.*", "model: ./base", shown))
    forget()
    yield tmp_path
    monkeypatch.undo()
    forget()


def forget() -> None:
    """Let entry points be read again."""
    for module in ("tagging", "tagging_claim", "one_output"):
        sys.modules.pop(module, None)
    for cached in (
        *(installed.points, tasks._added, target._added, shapes.added, cache.code_hash),
        *(folders.tasks, folders.metrics, trial_key._code, trial_key.core_files),
    ):
        cached.cache_clear()


def recipe(folder: Path, **changes: Any) -> Recipe:
    sets = [*SETS, *(f"{name.replace('__', '.')}={json.dumps(value)}" for name, value in changes.items())]
    return Recipe.load(folder / "recipe.yaml", sets)


def report_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "report.json").read_text()))


def test_a_run_says_what_came_from_where_and_its_steps_come_out_again(beside: Path) -> None:
    run(recipe(beside, train__save_steps=3), out=beside / "out")
    report = report_of(beside / "out")
    parts = {"task entity-tagging", "shape annotated", "metric entity_f1"}
    assert report["run"]["parts"] == dict.fromkeys(parts, "tagging 0.1")
    page = (beside / "out" / "report.html").read_text()
    assert "tagging 0.1" in page and "the task entity-tagging from tagging 0.1" in page
    target = report["target"]
    assert (target["metric"], target["unit"], target["fresh_head"]) == ("entity_f1", "fraction", True)
    assert target["after"]["value"] > target["before"]["value"] + 0.2
    rows = read_rows(beside / "out" / "rows.jsonl")
    wanted = [json.loads(line) for line in (beside / "test.jsonl").read_text().splitlines()]
    assert [(r.prompt, r.reference) for r in rows] == [(" ".join(w["words"]), " ".join(w["entities"])) for w in wanted]
    assert report["drift"]["measure"] == "1-cka"  # of a head that was drawn, its own predictions say nothing
    began = json.loads((beside / "out" / "begun.json").read_text())["surroundings"]
    assert parts <= began.keys()
    run_again(beside / "out", verify=True)


def test_a_head_of_its_own_is_kept_and_drifts_by_its_predictions(beside: Path) -> None:
    from tunewright.finished.export import export

    run(recipe(beside), out=beside / "out")
    export(beside / "out", beside / "tuned")
    run(recipe(beside, model=str(beside / "tuned"), methods=["full"]), out=beside / "again")
    first, second = report_of(beside / "out"), report_of(beside / "again")
    assert (
        second["target"]["before"]["value"] == first["target"]["after"]["value"] and not second["target"]["fresh_head"]
    )
    assert second["drift"]["measure"] == "kl" and second["drift"]["value"]["value"] > 0


def test_figures_while_training_are_the_metrics_own(beside: Path) -> None:
    asked = {"budget__steps": 1, "train__eval_steps": 1, "data__validation": "test.jsonl"}
    run(recipe(beside, **asked), out=beside / "out")
    logged = [json.loads(line) for line in (beside / "out" / "metrics.jsonl").read_text().splitlines()]
    (evaluated,) = [r for r in logged if "eval_target" in r]
    after = report_of(beside / "out")["target"]["after"]["value"]
    scores = [r.tuned_score for r in read_rows(beside / "out" / "rows.jsonl")]
    assert evaluated["eval_target"] == pytest.approx(after) and sum(scores) / len(scores) != pytest.approx(after)


BAD = {
    "fewer tags": ({"words": ["a", "b"], "entities": ["O"]}, "entities", "2 words need as many tags"),
    "no words": ({"words": "a b", "entities": ["O", "O"]}, "words", "no list of words"),
    "a tag that is no label": ({"words": ["a"], "entities": [[1]]}, "entities", "a label is a name or an id"),
    "other columns": ({"phrases": ["a"]}, "row", "no known shape"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named_by_file_and_line_in_check_and_run(beside: Path, case: str) -> None:
    row, field, reason = BAD[case]
    lines = (beside / "train.jsonl").read_text().splitlines()
    (beside / "train.jsonl").write_text("\n".join([*lines[:2], json.dumps(row), *lines[2:]]))
    labels = sorted({t for line in lines for t in json.loads(line)["entities"]})
    checked = check_recipe(recipe(beside, data__labels=labels))
    (problem,) = checked.report.problems
    assert (problem.where, problem.field) == ("train.jsonl:3", field) and reason in problem.reason
    with pytest.raises(DataError, match="train.jsonl:3") as caught:
        run(recipe(beside, data__labels=labels), out=beside / "out")
    assert reason in str(caught.value)


def test_a_plan_asks_for_no_trained_end_where_none_is_written(beside: Path) -> None:
    made = plan(recipe(beside), quiet=True)
    assert made.ends is None and "end token" not in str(made)


def test_long_rows_are_left_out_and_counted(beside: Path) -> None:
    report = check_recipe(recipe(beside, data__max_length=16, data__truncation="split")).report
    (train,) = [s for s in report.sources if s.role.startswith("train")]
    counts = train.counts
    assert counts["left_out"] == counts["too_long"] > 0 and counts["pieces"] == 0
    assert counts["rows"] == counts["read"] - counts["left_out"]


def test_a_word_without_a_special_token_before_it_counts() -> None:
    row = Row("r", "r", [5], [1.0], fields={"targets": [2]})
    assert trained_tokens(row) == 1 and trained_tokens(row.replace(fields={})) == 0


def test_metrics_that_the_rows_have_nothing_for_are_refused(beside: Path) -> None:
    for named, what in (("accuracy", "needs a class a row"), ("exact_match", "generates none")):
        with pytest.raises(RecipeError, match=what):
            run(recipe(beside, measurement__metric=named), out=beside / "out")
    with pytest.raises(RecipeError, match="reads rows of token-classification, not of text-classification"):
        target.check_metric("entity_f1", tasks.get_task("text-classification"))
    assert target.check_metric("entity_f1", tasks.get_task("entity-tagging")).figure is not None
    for named in ("loss", "mean_token_accuracy"):
        run(recipe(beside, measurement__metric=named), out=beside / named)
        assert report_of(beside / named)["target"]["metric"] == named


TOPICS = ("billing", "cards", "travel")
SAID = dict(zip(TOPICS, ("fee charge", "card pin", "abroad rate"), strict=True))


def one_output_rows(folder: Path) -> None:
    rng = random.Random(0)
    for name, count in (("train", 24), ("test", 10)):
        rows = []
        for i in range(count):
            topics = rng.sample(TOPICS, rng.randint(0, 3))
            text = f"{i} " + " ".join(SAID[t] for t in topics)
            rows.append({"text": text, "topics": topics, "grade": len(topics) / 2})
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))


ONE_OUTPUT = {"topics": ("topics", "topics"), "grading": ("grade", "grade")}


@pytest.mark.parametrize("task", ONE_OUTPUT)
def test_rows_of_one_output_need_no_label(beside: Path, task: str) -> None:
    one_output_rows(beside)
    asked = {"task": task, "methods": ["full"], "budget__steps": 30, "train__learning_rate": 0.003}
    assert check_recipe(recipe(beside, **asked)).report.ok
    done = run(recipe(beside, **asked), out=beside / "out")
    report = report_of(beside / "out")
    assert report["data"]["rows"] == report["data"]["trained_tokens"] == 24
    target = report["target"]
    assert target["metric"] == "loss" and target["after"]["value"] < target["before"]["value"] - 0.1
    # the loss is the task's own: unsure of three topics it is 3 log 2; cross-entropy of one number would be 0
    known = 3 * math.log(2) if task == "topics" else 1.0
    assert target["before"]["value"] == pytest.approx(known, abs=0.5)
    assert target.get("linear_probe") is None and target.get("commonest") is None
    assert "commonest class" not in str(done)
    field, word = ONE_OUTPUT[task]
    (beside / "train.jsonl").write_text(json.dumps({"text": "a", field: "b"}))
    given = {"data__labels": list(TOPICS)} if task == "topics" else {}
    (problem,) = check_recipe(recipe(beside, **asked, **given)).report.problems
    assert problem.field == word


def test_a_task_of_classes_whose_rows_have_none_is_told_what_to_write(
    beside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_output_rows(beside)
    monkeypatch.setattr(type(tasks.get_task("topics")), "multi_label", False)
    with pytest.raises(MethodError, match="its rows have no label") as caught:
        run(recipe(beside, task="topics", methods=["full"]), out=beside / "out")
    assert "multi_label" in str(caught.value.remedy)


@pytest.mark.parametrize("metric", ["loss", "said"])
def test_what_stands_beside_another_metric_is_named_or_left_out(
    beside: Path, monkeypatch: pytest.MonkeyPatch, metric: str
) -> None:
    rows = [{"text": f"{i} {word}", "label": word} for i in range(8) for word in ("card", "fee")]
    for name in ("train", "test"):
        (beside / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    kind = type(tasks.get_task("text-classification"))
    monkeypatch.setattr(kind, "predict", lambda *given: [("a", "a") for _ in given[-1]])
    monkeypatch.setitem(target.METRICS, "said", Metric("predicted"))
    asked = recipe(beside, task="text-classification", methods=["full"], budget__steps=1)
    asked.measurement.metric = metric
    run(asked, out=beside / "out")
    names = [line.name for line in summary.lines(Report.load(beside / "out"))]
    if metric == "loss":
        assert {"linear probe of the base, accuracy", "always the commonest class, accuracy"} <= set(names)
    else:
        assert not any("probe" in n or "commonest" in n for n in names)


def test_methods_of_classes_are_refused_and_others_serve(beside: Path) -> None:
    with pytest.raises(MethodError, match="core-tuning"):
        run(recipe(beside, methods=["core-tuning", "full"]), out=beside / "out")
    run(recipe(beside, methods=["lora", "asft"]), out=beside / "two")
    assert report_of(beside / "two")["run"]["status"] == "finished"


def test_names_are_known_wherever_names_are(beside: Path) -> None:
    assert "entity-tagging" in folders.tasks() and "entity_f1" in folders.metrics()
    schema = Recipe.json_schema()
    assert "entity-tagging" in schema["properties"]["task"]["enum"]
    assert "entity_f1" in schema["$defs"]["MeasureSpec"]["properties"]["metric"]["enum"]
    with pytest.raises(RecipeError, match="did you mean 'entity-tagging'"):
        recipe(beside, task="entity-taging")
    assert shapes.canonical({"words": ["a"], "entities": ["O"]}, {}, "annotated")[1] == "annotated"
    assert shapes.canonical({"text": "t", "words": ["a"], "entities": ["O"]}, {})[1] == "text"  # ours are first


def test_a_first_recipe_names_the_task_of_the_shape(beside: Path) -> None:
    text = starter("./base", beside / "train.jsonl")
    assert "task: entity-tagging" in text and "rows of shape annotated: words, entities" in text
    assert "max_length" in text and "Measured: 24 rows" in text


def test_stored_runs_and_rows_see_the_packages_code(beside: Path, package: Path) -> None:
    asked, before = recipe(beside), (trial_key.key_of(recipe(beside)), installed.code_hash(), cache.code_hash())
    code = (package / "tagging.py").read_text()
    (package / "tagging.py").write_text(code.replace('return "entity_f1"', 'return "loss"'))
    try:
        forget()
        assert (trial_key.key_of(asked), installed.code_hash(), cache.code_hash()) != before
        assert all(a != b for a, b in zip((trial_key.key_of(asked), installed.code_hash()), before, strict=False))
    finally:
        (package / "tagging.py").write_text(code)
        forget()
    assert (trial_key.key_of(asked), installed.code_hash(), cache.code_hash()) == before


def test_a_claim_of_a_package_is_found_and_hashed(beside: Path) -> None:
    from tunewright.claims import asked, claim, code_hash, listing, results_io, runner

    loaded = claim.load("tagging-lora")
    assert loaded.comes_from == "tagging 0.1" and "tagging-lora" not in claim.names()
    assert asked.claims_of(["tagging-lora"]) == (["tagging-lora"], None)
    assert "tagging-lora" in listing.chosen([], every=True)
    assert runner.lab_recipe(loaded, "nano")["task"] == "entity-tagging"
    assert results_io.folder(None, "tagging-lora") == beside / "cache" / "claims" / "results"
    other = loaded.model_copy(update={"recipe": None})
    assert code_hash.of_claim(loaded) != code_hash.of_claim(other)
