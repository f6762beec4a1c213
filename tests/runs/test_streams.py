"""`test_time:` in whole runs: what is reported, in which order, what the model is afterwards, what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import classifying, small
from tunewright.errors import MethodError, RecipeError, TunewrightError
from tunewright.finished import finished
from tunewright.finished.run import Run
from tunewright.measure.adapting import Guard
from tunewright.models.agreement import differing
from tunewright.planning.check import check_recipe
from tunewright.planning.plan import plan
from tunewright.recipe import Recipe, StreamSpec
from tunewright.report import page, streamed, terminal
from tunewright.report.adaptations import Restored
from tunewright.report.schema import Report
from tunewright.runs.meter import Meter
from tunewright.runs.run import run
from tunewright.trials.trial import Store, key_of, run_trial

TEXT, PICTURES = classifying.TEXT, classifying.PICTURES
SURE = {"tent": {"learning_rate": 0.05}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {task: tmp_path_factory.mktemp(task) for task in (TEXT, PICTURES)}
    for task, folder in made.items():
        classifying.write_inputs(folder, task, test=20)
        half = (folder / "test.jsonl").read_text().splitlines()
        (folder / "late.jsonl").write_text("\n".join(half[10:]))
        (folder / "early.jsonl").write_text("\n".join(half[:10]))
    return made


@pytest.fixture(autouse=True)
def cache(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(folders[TEXT] / "cache"))


def recipe(folder: Path, task: str, name: str, test_time: Any, **more: Any) -> Path:
    return small.write_recipe(folder, name, **classifying.recipe(task, test_time=test_time, **more))


def ran(folder: Path, task: str, name: str, test_time: Any, **more: Any) -> Report:
    return run(recipe(folder, task, name, test_time, **more), out=folder / name, quiet=True).report


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "stream.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def pictures(folders: dict[str, Path]) -> Path:
    folder = folders[PICTURES]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folders[TEXT] / "cache"))
        given = {"adapt": [SURE, {"tent": {"learning_rate": 1e-9}}], "batch_rows": 4}
        ran(folder, PICTURES, "both", {**given, "corruptions": ["gaussian_noise:5", "contrast:5"]})
    return folder / "both"


def test_each_row_is_reported_once_in_order_beside_no_adaptation(pictures: Path) -> None:
    report, rows = Report.load(pictures), lines(pictures)
    sure, still = report.test_time
    assert (sure.method, still.method) == ("tent", "tent-2")
    ids = [f"test.jsonl:{i}@{c}" for c in ("gaussian_noise 5", "contrast 5") for i in range(1, 21)]
    assert [r["id"] for r in rows] == ids
    assert sure.order == hashlib.sha256("\0".join(ids).encode()).hexdigest() == still.order
    for found in report.test_time:
        hits = [
            [r["without"] == r["reference"] for r in rows],
            [r["online"][found.method] == r["reference"] for r in rows],
        ]
        assert found.before.value == pytest.approx(sum(hits[0]) / 40)
        assert found.after.value == pytest.approx(sum(hits[1]) / 40)
        assert found.difference.value == pytest.approx(found.after.value - found.before.value)
        assert [m.name for m in found.sources] == ["gaussian_noise 5", "contrast 5"]
        assert [m.after.value for m in found.sources] == pytest.approx([sum(hits[1][:20]) / 20, sum(hits[1][20:]) / 20])
        assert [p.rows for p in found.curve] == list(range(2, 41, 2))
        assert [p.online for p in found.curve] == [sum(hits[1][i : i + 2]) / 2 for i in range(0, 40, 2)]
        assert (found.n, found.batches, found.forwards, found.backwards) == (40, 10, 10, 10)
        assert found.flops > 1.5 * found.flops_without > 0 and found.moved_parameters > 0
    assert [r["online"]["tent-2"] for r in rows] == [r["without"] for r in rows], "a step of 1e-9 changes no answer"
    assert "stream.jsonl" in report.files and "stream.jsonl" in report.hashes


def test_a_stream_that_does_not_adapt_is_the_target_again(folders: dict[str, Path]) -> None:
    folder = folders[TEXT]
    report = ran(folder, TEXT, "still", [{"tent": {"learning_rate": 1e-9}}])
    (found,) = report.test_time
    assert found.before == report.target.after and found.after == found.before and not found.sources
    kept = [json.loads(line)["tuned"] for line in (folder / "still" / "rows.jsonl").read_text().splitlines()]
    assert [r["without"] for r in lines(folder / "still")] == kept


def test_what_is_saved_is_the_model_without_adaptation(folders: dict[str, Path]) -> None:
    folder = folders[TEXT]
    plain = ran(folder, TEXT, "plain", None)
    moved = ran(folder, TEXT, "moved", [{"cotta": {"views": 2, "learning_rate": 0.1}}])
    assert moved.test_time[0].backwards and not plain.test_time and not (folder / "plain" / "stream.jsonl").exists()
    for name in ("target", "drift", "trade", "stages"):
        one, other = (json.loads(r.model_dump_json())[name] for r in (plain, moved))
        for part in (one, other):
            for stage in part if name == "stages" else ():
                stage.pop("seconds")
        assert one == other, name
    states = [finished.open_run(folder / n).adapted.model.state_dict() for n in ("plain", "moved")]
    assert not differing(*states)


@pytest.mark.parametrize("methods", [["qlora"], ["full"], ["lora", "mean-teacher"]])
def test_what_was_trained_by_other_methods_is_adapted_and_given_back(
    folders: dict[str, Path], methods: list[str]
) -> None:
    folder, name = folders[TEXT], f"beside-{methods[0]}"
    found = ran(folder, TEXT, name, ["tent"], stages__0__methods=methods).test_time[0]
    assert found.backwards == 1 and found.before == Report.load(folder / name).target.after
    alone = ran(folder, TEXT, f"{name}-alone", None, stages__0__methods=methods)
    assert alone.target.after == found.before
    states = [finished.open_run(folder / n).adapted.model.state_dict() for n in (name, f"{name}-alone")]
    assert not differing(*states)


def test_two_runs_give_the_same_stream_in_every_bit(folders: dict[str, Path]) -> None:
    folder, given = folders[TEXT], {"adapt": [{"cotta": {"views": 2}}, {"tpt": {"views": 4}}], "batch_rows": 5}
    for name in ("one", "two"):
        ran(folder, TEXT, name, given, train__save_steps=2)
    one, two = (Report.load(folder / n).test_time for n in ("one", "two"))
    seconds = {"seconds": 0, "seconds_without": 0}
    assert [a.model_copy(update=seconds) for a in one] == [a.model_copy(update=seconds) for a in two]
    assert (folder / "one" / "stream.jsonl").read_bytes() == (folder / "two" / "stream.jsonl").read_bytes()


def test_a_run_stopped_between_two_methods_asks_the_first_one_no_more(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunewright.runs import streams
    from tunewright.runs.run import resume

    folder, given = folders[TEXT], {"adapt": ["tent", {"cotta": {"views": 2}}], "batch_rows": 5}
    ran(folder, TEXT, "whole", given)
    asked: list[str] = []
    opened = streams.opened

    def stopped(use: Any, name: str, session: Any, rows: int = 0) -> Any:
        asked.append(name) if rows else None
        if asked.count("cotta") == 1:
            raise KeyboardInterrupt
        return opened(use, name, session, rows)

    monkeypatch.setattr(streams, "opened", stopped)
    with pytest.raises(TunewrightError, match="interrupted"):
        ran(folder, TEXT, "stopped", given)
    assert (folder / "stopped" / "stream.tent.json").exists()
    asked.append("cotta")
    resume(folder / "stopped", quiet=True)
    assert asked == ["tent", "cotta", "cotta", "cotta"], "noted twice by hand and by the resumed run, tent once"
    one, two = ((folder / n / "stream.jsonl").read_bytes() for n in ("whole", "stopped"))
    assert one == two and not list((folder / "stopped").glob("stream.*.json"))
    figures = [[(a.before, a.after, a.order) for a in Report.load(folder / n).test_time] for n in ("whole", "stopped")]
    assert figures[0] == figures[1]
    resume(folder / "stopped", verify=True, quiet=True)


FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "data": ({"data": ["late.jsonl", "early.jsonl"]}, "order"),
    "corruptions": ({"corruptions": ["contrast:1"]}, "order"),
    "rows": ({"rows": 9}, "n"),
    "order": ({"order": "shuffled"}, "order"),
    "batch_rows": ({"batch_rows": 7}, "batches"),
    "reset": ({"reset": "batch"}, "reset"),
    "adapt": ({"adapt": ["cotta"]}, "method"),
}


def test_every_field_of_a_stream_changes_it(folders: dict[str, Path]) -> None:
    from tunewright.runs import assemble, streams

    folder, seen = folders[PICTURES], {}
    for name, (changes, _) in {"plain": ({}, ""), **FIELDS}.items():
        given = {"adapt": [SURE], "batch_rows": 4, **changes}
        session = assemble.assemble(Recipe.load(recipe(folder, PICTURES, "field", given)))

        class Folder:
            def file(self, name: str) -> Path:
                return folder / name

        evaluated = list(session.eval.rows)
        seen[name] = streams.measure(session, evaluated, "accuracy", Folder())[0]  # type: ignore[arg-type]
    for name, (_, figure) in FIELDS.items():
        assert getattr(seen[name], figure) != getattr(seen["plain"], figure), name
    given = {"adapt": [SURE], "guard": 0.5, "guard_answers": 7}
    session = assemble.assemble(Recipe.load(recipe(folder, PICTURES, "field", given)))
    assert streams.opened(session.recipe.test_time.adapt[0], "tent", session).guard == Guard(
        0.5, 7
    )  # see test_adapting
    assert {*FIELDS, "guard", "guard_answers"} == StreamSpec.model_fields.keys()


def test_the_short_forms_mean_the_same_and_are_read_back(folders: dict[str, Path]) -> None:
    folder = folders[TEXT]
    forms: list[Any] = ["tent", ["tent"], {"tent": {}}, {"adapt": "tent"}, {"adapt": ["tent"]}]
    read = [Recipe.load(recipe(folder, TEXT, f"form{i}", form)) for i, form in enumerate(forms)]
    assert all(r.test_time == read[0].test_time for r in read)
    stream = Recipe.json_schema()["$defs"]["StreamSpec"]["anyOf"]
    assert [one.get("type") for one in stream] == ["array", None, "object"] and "guard" in stream[2]["properties"]
    open_guard = Recipe.load(recipe(folder, TEXT, "open", {"adapt": ["tent"], "guard": None}))
    assert Recipe.model_validate(yaml(open_guard.dump())).test_time.guard is None
    assert "test_time" not in Recipe.load(recipe(folder, TEXT, "none", None)).dump()


def yaml(text: str) -> Any:
    from tunewright.recipe import yaml_text

    return yaml_text.read(text, "dump").tree


REFUSED: dict[str, tuple[str, Any, dict[str, Any], str]] = {
    "a method that does not adapt": (TEXT, ["lora"], {}, "write methods: [lora]"),
    "no such corruption": (PICTURES, {"adapt": ["tent"], "corruptions": ["contrst"]}, {}, "did you mean 'contrast'"),
    "no such severity": (PICTURES, {"adapt": ["tent"], "corruptions": ["contrast:6"]}, {}, "severity from 1 to 5"),
    "corrupted texts": (TEXT, {"adapt": ["tent"], "corruptions": ["contrast"]}, {}, "corruptions are of pictures"),
    "no rows": (TEXT, ["tent"], {"data__eval": None}, "no rows for a stream"),
    "a base in 4 bits": (TEXT, ["cotta"], {"stages__0__methods": ["qlora"]}, "holds them in 4 bits"),
    "among the methods": (TEXT, None, {"stages__0__methods": ["tent"]}, "write test_time: [tent]"),
    "a prompt of pictures": (PICTURES, [{"tpt": {"tunes": "prompt"}}], {}, "reads no tokens"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_check_plan_and_run_refuse_the_same_in_the_same_words(
    case: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    task, test_time, more, says = REFUSED[case]
    monkeypatch.setattr(Meter, "prepare_base", lambda self: pytest.fail("the base was measured"))
    said = []
    for verb in (check, plan, lambda r: run(r, out=folders[task] / "refused", quiet=True)):
        with pytest.raises(TunewrightError) as error:
            file = recipe(folders[task], task, "refused", test_time, **more)
            verb(file)
        said.append((type(error.value), error.value.what, error.value.remedy))
    assert says in str(error.value) and len({str(s) for s in said}) == 1, said


def check(file: Path) -> None:
    errors = check_recipe(file).report.errors
    if errors:
        raise errors[0]


def test_text_generation_has_no_classes(tmp_path: Path) -> None:
    small.write_inputs(tmp_path)
    with pytest.raises(MethodError, match="text-generation rows have none"):
        run(small.write_recipe(tmp_path, test_time=["tent"]), out=tmp_path / "r", quiet=True)


def test_the_streams_own_files_are_among_the_sources(folders: dict[str, Path]) -> None:
    folder, given = folders[TEXT], {"adapt": ["tent"], "data": ["late.jsonl", "early.jsonl"]}
    report = ran(folder, TEXT, "sourced", given)
    named = [Path(s.path).name for s in report.data.sources if s.role == "test_time"]
    assert named == ["late.jsonl", "early.jsonl"] == [Path(m.name or "").name for m in report.test_time[0].sources]
    planned = plan(recipe(folder, TEXT, "sourced", given)).sources
    assert [s.rows for s in planned if s.role == "test_time"] == [10, 10]
    begun = json.loads((folder / "sourced" / "begun.json").read_text())["content"]
    assert "the test-time rows" in begun


def test_a_label_that_only_the_stream_has_is_told(folders: dict[str, Path]) -> None:
    place, own = folders[TEXT], {"adapt": ["tent"], "data": ["new.jsonl"]}
    rows = [json.loads(line) for line in (place / "late.jsonl").read_text().splitlines()]
    (place / "new.jsonl").write_text("\n".join(json.dumps({**r, "label": "other"}) for r in rows))
    said = "no training row has the label 'other', and rows of test_time have: a class of the head, not learnt"
    assert said in check_recipe(recipe(place, TEXT, "new", own)).report.cautions
    assert said in plan(recipe(place, TEXT, "new", own), quiet=True).notes
    known = check_recipe(recipe(place, TEXT, "new", {"adapt": ["tent"], "data": ["late.jsonl"]})).report.cautions
    assert not [c for c in known if "rows of test_time" in c]


@pytest.mark.parametrize("written", ["auto", "bfloat16"])
def test_a_stream_is_answered_in_full_precision_unless_another_is_written(
    folders: dict[str, Path], written: str
) -> None:
    precision, model = {"precision": written}, {"name": "./base", "dtype": written}
    chosen = Recipe.load(recipe(folders[TEXT], TEXT, "half", ["tent"], train=precision, model=model))
    meant = "float32" if written == "auto" else written
    assert (chosen.train.precision, chosen.model.dtype) == (meant, meant)
    plain = Recipe.load(recipe(folders[TEXT], TEXT, "half", None, train=precision, model=model))
    assert (plain.train.precision, plain.model.dtype) == (written, written)


def test_a_plan_says_what_will_be_read(folders: dict[str, Path]) -> None:
    given = {"adapt": ["tent", "cotta"], "corruptions": ["contrast", "brightness"], "rows": 15}
    notes = plan(recipe(folders[PICTURES], PICTURES, "planned", given)).notes
    assert any("a stream of 30 rows is answered without adaptation and by tent, cotta" in n for n in notes)


def test_terminal_and_page_show_the_stream(pictures: Path) -> None:
    report = Report.load(pictures)
    text, html = terminal.text(report), (pictures / "report.html").read_text()
    for said in ("at test time", "tent-2", "  contrast 5", "40 rows in 10 batches, 10 forward and 10 backward passes"):
        assert said in text, said
    assert '<section id="test-time">' in html and "contrast 5" in html and html.count("<title>tent") == 2
    assert 'id="test-time"' not in page.html(report.model_copy(update={"test_time": []}))
    changed = report.test_time[0].model_copy(update={"restored": [Restored(batch=3, why="class 1 took all")]})
    assert "restored the tuned weights once, first at batch 3: class 1 took all" in streamed.took(changed)


def test_a_trial_keeps_the_figures(folders: dict[str, Path], tmp_path: Path) -> None:
    record = run_trial(Recipe.load(recipe(folders[TEXT], TEXT, "trial", ["tent"])), Store(tmp_path))
    figures = record.test_time["tent"]
    assert figures["online"] == pytest.approx(figures["without"] + 0, abs=1) and figures["backwards"] == 1


def test_a_trial_is_another_one_where_its_stream_holds_other_rows(folders: dict[str, Path]) -> None:
    folder = folders[TEXT]
    copy = folder / "copy.jsonl"
    copy.write_bytes((folder / "late.jsonl").read_bytes())

    def key(test_time: Any) -> str:
        return key_of(Recipe.load(recipe(folder, TEXT, "keyed", test_time)))

    given = {"adapt": ["tent"], "data": [{"path": "copy.jsonl", "name": "stream"}]}
    first = key(given)
    assert first == key(given) and first not in (key(None), key({**given, "batch_rows": 3}))
    copy.write_bytes((folder / "early.jsonl").read_bytes())
    assert key(given) != first


def test_a_finished_run_adapts_while_it_answers(pictures: Path) -> None:
    done, folder = Run(pictures), pictures.parent
    paths = [str(folder / json.loads(line)["image"]) for line in (folder / "test.jsonl").read_text().splitlines()]
    before = {n: t.clone() for n, t in done.model().state_dict().items()}
    with done.adapting("tent", learning_rate=0.05) as stream:
        first = stream.answer(paths[:6])
        state = stream.state()
        second = stream.answer(paths[6:12])
        assert stream.answer([]) == [] and stream.restored == []
    with done.adapting("tent", learning_rate=0.05) as again:
        again.resume(*state)
        assert again.answer(paths[6:12]) == second
    with done.adapting("tent", learning_rate=0.05) as late:
        assert late.answer(paths[6:12]) != second, "what came before counts"
    assert {a.label for a in first} <= set(classifying.LABELS) and all(0 < a.confidence <= 1 for a in first)
    assert not differing(before, done.model().state_dict())
    assert all(torch.equal(before[n], t) for n, t in done.model().state_dict().items())
    with done.adapting("tpt", views=4, mirror=False) as alone, done.adapting("tpt", views=4, mirror=False) as other:
        together = alone.answer(paths[:3])
        other.answer(paths[:1])
        assert other.answer(paths[1:2]) == together[1:2], "each row begins anew, whatever it was given with"
    with pytest.raises(TunewrightError, match="input 0"), done.adapting("tent") as stream:
        stream.answer([str(folder / "nothing.png")])
    with pytest.raises(MethodError, match="does nothing at test time"):
        done.adapting("lora")


def test_a_misplaced_name_is_refused_with_its_place(folders: dict[str, Path]) -> None:
    file = folders[TEXT] / "misplaced.yaml"
    file.write_text(recipe(folders[TEXT], TEXT, "m", ["slerp"]).read_text())
    with pytest.raises(RecipeError, match=r"misplaced.yaml:\d+.*'slerp' does not go here"):
        Recipe.load(file)
