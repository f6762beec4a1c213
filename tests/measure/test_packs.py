"""Packs: those that ship, those of a user, what is refused, and what a run, a gate and a comparison make of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import small, tiny
from tunewright.commands.packs_page import packs_page, readme
from tunewright.compare.figures import run_figures
from tunewright.contract.task import EncodeOptions
from tunewright.errors import DataError, MissingExtraError, RecipeError
from tunewright.measure import pack as packing
from tunewright.measure.asking import ask, questions
from tunewright.measure.checkers import Said, right
from tunewright.measure.generate import greedy
from tunewright.measure.pack import FILE, SHIPPED, PackRow, load_pack, shipped
from tunewright.measure.rows import RowResult, read_rows
from tunewright.measure.text import prompt_text
from tunewright.paired.measuring import measure
from tunewright.paired.request import Request, conditions
from tunewright.planning.check import check_recipe
from tunewright.recipe import Recipe
from tunewright.report import pack_words, terminal, words
from tunewright.report.gated import judge
from tunewright.report.schema import Report
from tunewright.runs import packs
from tunewright.runs.run import run
from tunewright.tasks import get_task
from tunewright.trials.trial import TrialRecord, figures_of
from tunewright.trials.trial_key import key_of

TEXT = get_task("text-generation")


def write_pack(folder: Path, lines: list[Any], **info: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    said = {"measures": "m", "licence": "CC0", "credit": "us", "floor": 0.3, "floor_from": "a guess", **info}
    (folder / FILE).write_text(yaml.safe_dump(said))
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    return folder


ANY = {"prompt": "card", "check": {"leaves_out": "nobody says this"}}
NONE = {"prompt": "fee", "check": {"says": "nobody says this"}, "group": "never"}

# -- those that ship ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped())
def test_a_pack_that_ships_says_what_it_owes(name: str) -> None:
    pack = load_pack(f"pack:{name}")
    assert 40 <= len(pack.rows) <= 100 and pack.info.limits and 0 < pack.info.floor < 0.2
    assert "differ between float32 and bfloat16" in pack.info.floor_from
    assert len({r.prompt + str(r.tools) for r in pack.rows.values()}) == len(pack.rows)
    groups = [r.group for r in pack.rows.values()]
    assert len(set(groups)) > 1 and set(groups[: len(set(groups))]) == set(groups)  # the first rows are of all groups
    assert (SHIPPED / name / "README.md").read_text(encoding="utf-8") == readme(name), "run `make docs`"


@pytest.mark.parametrize("name", shipped())
def test_every_question_can_be_answered(name: str) -> None:
    """A right answer is made from what each row asks; "no" alone is right in no pack's question but a few."""
    rows = load_pack(f"pack:{name}").rows
    assert [where for where, row in rows.items() if not right(_said(row, _made(row)), row.check)] == []
    assert [where for where, row in rows.items() if right(_said(row, ""), row.check)] == []


def _said(row: PackRow, text: str) -> Said:
    return Said(text, text, row.tools)


SAYS = {
    "de": "Der Wald und das Meer",
    "fr": "La mer et les arbres",
    "es": "El mar y los bosques",
    "it": "Il mare e gli alberi",
}
SAYS |= {
    "pt": "O mar e as \u00e1rvores n\u00e3o",
    "en": "The sea and the trees",
    "zh": "\u68ee\u6797",
    "ru": "\u041b\u0435\u0441",
}


def _made(row: PackRow) -> str:
    check = dict(row.check)
    if "number" in check:
        return f"It is {check['number']}."
    if "schema" in check:
        return json.dumps(_fitting(check["schema"]))
    if "calls" in check:
        return _called(row)
    if "refuses" in check:
        return "I'm sorry, no." if check["refuses"] else "Of course: like this."
    if "language" in check:
        return SAYS[check["language"]]
    if "says" in check:
        return check["says"][0]
    return _as_told(check)


def _as_told(check: dict[str, Any]) -> str:
    given = check.get("includes", [])
    if "bullets" in check:
        return "\n".join(["- some"] * check["bullets"])
    if "lines" in check:
        return "\n".join(["a line"] * check["lines"])
    count = check.get("words") or check.get("least_words") or 1
    text = " ".join([check.get("begins", ""), *given, *["thing"] * max(count - len(given), 0), check.get("ends", "")])
    return text.strip().upper() if "upper_case" in check else text.strip()


def _called(row: PackRow) -> str:
    wanted = row.check["calls"]
    if wanted == "none":
        return "Hello!"
    tool = next(t["function"] for t in row.tools if t["function"]["name"] == wanted["name"])
    made = wanted.get("arguments", _fitting(tool["parameters"]))
    return f"<tool_call>{json.dumps({'name': wanted['name'], 'arguments': made})}</tool_call>"


def _fitting(schema: dict[str, Any]) -> Any:
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    kind = schema["type"]
    if kind == "object":
        return {k: _fitting(v) for k, v in schema["properties"].items()}
    if kind == "array":
        items = [_fitting(schema["items"]) for _ in range(schema.get("minItems", 1))]
        return [item + i for i, item in enumerate(items)] if schema.get("uniqueItems") else items
    number = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
    return {"string": "x", "integer": number, "number": 1.5, "boolean": True}[kind]


def test_the_page_names_every_pack() -> None:
    assert all(f"`pack:{name}`" in packs_page() for name in shipped())


# -- those of a user ---------------------------------------------------------------------------------------------------


def test_a_copy_is_a_pack_by_its_path(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED / "facts", tmp_path / "mine")
    ours, theirs = load_pack("pack:facts"), load_pack("pack:./mine", tmp_path)
    assert theirs.hash == ours.hash and theirs.name == "mine"
    assert len(load_pack("pack:./mine", tmp_path, limit=3).rows) == 3
    assert load_pack("pack:./mine", tmp_path, limit=3).hash != ours.hash


@pytest.mark.parametrize(
    "rows, info, said",
    [
        ([{"prompt": "a", "check": {"nubmer": 3}}], {}, "rows.jsonl:1: check: no checker is called 'nubmer'"),
        (
            [ANY, {"prompt": "a", "check": {"number": "x"}}],
            {},
            'rows.jsonl:2: check.number: a number is needed, not "x"',
        ),
        ([{"prompt": "a"}], {}, "rows.jsonl:1: check:"),
        ([{"promt": "a", "check": {}}], {}, "rows.jsonl:1: there is no 'promt' here"),
        ([{"prompt": "a", "check": {"calls": {"name": "go"}}}], {}, "the row has no tool 'go'"),
        ([{"prompt": "a", "tools": [{"function": {}}], "check": {"calls": "none"}}], {}, "a tool without a name"),
        ([3], {}, "rows.jsonl:1: a mapping is needed"),
        ([], {}, "rows.jsonl: it has no rows"),
        ([ANY], {"floor": 3}, "pack.yaml: floor:"),
        ([ANY], {"lisense": "x"}, "pack.yaml: there is no 'lisense' here"),
        ([ANY], {"rows": "other.jsonl"}, "other.jsonl: cannot be read"),
    ],
)
def test_what_is_wrong_with_a_pack_is_said_with_its_place(
    rows: list[Any], info: dict[str, Any], said: str, tmp_path: Path
) -> None:
    write_pack(tmp_path / "mine", rows, **info)
    with pytest.raises(DataError) as error:
        load_pack("pack:./mine", tmp_path)
    assert said in str(error.value) and error.value.remedy


def test_all_bad_rows_of_a_pack_are_named_at_once(tmp_path: Path) -> None:
    folder = write_pack(tmp_path / "mine", [ANY, {"prompt": "a"}, NONE, *[{"prompt": "b", "check": {"sys": "x"}}] * 25])
    with (folder / "rows.jsonl").open("a") as file:
        file.write("{\n")
    with pytest.raises(DataError) as error:
        load_pack("pack:./mine", tmp_path)
    said = str(error.value)
    assert "27 of 29 rows cannot be used" in said and "rows.jsonl:2: check: field required" in said
    assert "rows.jsonl:4: check: no checker is called 'sys' (did you mean 'says'?)" in said and "and 7 more" in said
    assert list(load_pack("pack:./mine", tmp_path, limit=1).rows) == ["rows.jsonl:1"]


@pytest.mark.parametrize(
    "data, said",
    [
        ("pack:tool-call", "did you mean 'tool-calls'?"),
        ("pack:mine", "write pack:./mine for the folder"),
        ("pack:./nowhere", "there is no such folder"),
        ("pack:./base", "there is no pack.yaml in it"),
    ],
)
def test_a_pack_that_is_not_there(data: str, said: str, tmp_path: Path) -> None:
    write_pack(tmp_path / "mine", [ANY])
    (tmp_path / "base").mkdir()
    with pytest.raises(DataError) as error:
        load_pack(data, tmp_path)
    assert said in str(error.value)


def test_a_missing_library_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="jsonschema, which is not installed"):
        load_pack("pack:json")
    assert load_pack("pack:facts").rows


# -- how they are asked ------------------------------------------------------------------------------------------------


def test_answers_are_what_the_model_writes_behind_its_chat_template(tmp_path: Path) -> None:
    model, tokenizer = tiny.llama().eval(), tiny.tokenizer()
    pack = load_pack("pack:./mine", tmp_path) if write_pack(tmp_path / "mine", [ANY, NONE], max_new_tokens=5) else None
    assert pack is not None
    asked = questions(pack, TEXT, tokenizer, EncodeOptions())
    for row, prompt in zip(asked.rows, ("card", "fee"), strict=True):
        turns = [{"role": "user", "content": prompt}]
        whole = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert prompt_text(tokenizer, row) == whole
    found = ask(model, tokenizer, TEXT, asked)
    alone = [greedy(model, tokenizer, [row.fields["prompt_ids"]], 5)[0] for row in asked.rows]
    assert [r.answer for r in found] == [tokenizer.decode(a, skip_special_tokens=True).strip() for a in alone]
    assert [(r.id, r.source) for r in found] == [("mine/rows.jsonl:1", "mine"), ("mine/rows.jsonl:2", "mine/never")]
    assert [r.reference for r in found] == ["leaves_out: nobody says this", "says: nobody says this"]


def test_tools_stand_before_the_question_where_the_template_shows_none() -> None:
    pack = load_pack("pack:tool-calls", limit=1)
    for tokenizer in (tiny.tokenizer(), tiny.tokenizer(chat=False)):
        (row,) = questions(pack, TEXT, tokenizer, EncodeOptions()).rows
        seen = prompt_text(tokenizer, row)
        (question,) = pack.rows.values()
        assert "<tool_call>" in seen and question.tools[0]["function"]["name"] in seen and question.prompt in seen


def test_a_model_without_a_template_gets_the_system_turn_and_the_question(tmp_path: Path) -> None:
    write_pack(tmp_path / "mine", [{**ANY, "system": "Be brief."}])
    bare = tiny.tokenizer(chat=False)
    (row,) = questions(load_pack("pack:./mine", tmp_path), TEXT, bare, EncodeOptions()).rows
    assert prompt_text(bare, row).removeprefix("<|bos|>") == "Be brief.\n\ncard"


# -- figures -----------------------------------------------------------------------------------------------------------


def results(scores: list[int], answers: list[str] | None = None) -> list[RowResult]:
    said = answers or ["one two three"] * len(scores)
    groups = ["p/a" if i % 2 else "p/b" for i in range(len(scores))]
    return [
        RowResult(id=f"p/{i}", source=g, score=s, answer=a)
        for i, (s, g, a) in enumerate(zip(scores, groups, said, strict=True))
    ]


def test_figures_are_shares_paired_by_question(tmp_path: Path) -> None:
    write_pack(tmp_path / "p", [ANY], floor=0.2)
    before, after = [1] * 12 + [0] * 8, [0] * 3 + [1] * 11 + [0] * 6
    figure = packs.figure(load_pack("pack:./p", tmp_path), results(before), results(after, ["a b c a b c"] * 20))
    assert figure.before and figure.after and figure.difference and figure.n == 20
    assert (figure.before.value, figure.after.value) == (0.6, 0.55)
    assert figure.difference.value == pytest.approx(-0.05) and figure.difference.method == "Newcombe's score, paired"
    assert figure.right == (3, 2) and figure.mcnemar == pytest.approx(1.0)
    assert figure.beneath and "below the pack's noise floor of 20.0 points" in words.beneath(figure)
    assert [p.name for p in figure.parts] == ["b", "a"] and sum(p.n or 0 for p in figure.parts) == 20
    long, again = figure.answers
    assert long.difference and again.difference and (long.difference.value, again.difference.value) == (3.0, 0.25)
    assert [a.base_score for a in figure.shown[:3]] == [1, 1, 1]  # broken ones come first
    assert pack_words.fate(figure) == "unclear" and pack_words.fate(long) == "moved"
    assert not packs.figure(load_pack("pack:./p", tmp_path), results(before), results(before)).beneath


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two packs and a text."""
    folder = tmp_path_factory.mktemp("packs")
    small.write_inputs(folder)
    write_pack(folder / "mine", [ANY, NONE] * 10, max_new_tokens=6)
    keep = ["keep.txt", {"data": "pack:./mine", "name": "style"}, {"data": "pack:facts", "limit": 4}]
    gate = {"kept.style": "no worse by 0.9", "kept.facts": ">= 0.9"}
    run(small.write_recipe(folder, keep=keep, gate=gate), out=folder / "run", quiet=True)
    return folder


def test_a_run_reports_packs_beside_texts(ran: Path) -> None:
    report = Report.load(ran / "run")
    assert [p.name for p in report.packs] == ["style", "facts"] and [k.name for k in report.kept] == ["keep"]
    style, facts = report.packs
    assert style.n == 20 and facts.n == 4 and style.before and style.before.value == 0.5 and style.floor == 0.3
    assert report.gate is not None and {c.figure: c.verdict for c in report.gate.conditions} == {
        "kept.style": "pass",
        "kept.facts": "fails",
    }
    rows = [r.id for r in read_rows(ran / "run" / "rows.jsonl")]
    assert len(rows) == 8 + 20 + 4 and rows[8] == "style/rows.jsonl:1" and rows[-1] == "facts/rows.jsonl:4"
    assert report.cost.seconds["packs answered"] > 0
    assert [(s.path, s.role, s.licence) for s in report.data.sources][-2:] == [
        ("style", "keep", "CC0"),
        ("facts", "keep", "Apache-2.0"),
    ]
    said = terminal.text(report)
    assert "accuracy on style" in said and "length of an answer" in said
    page = (ran / "run" / "report.html").read_text()
    assert "facts: 4 of 4 questions" in page and "nobody says this" in page and "names no data under" not in page


def test_the_runs_own_recipe_names_the_folder_from_the_root(ran: Path) -> None:
    kept = Recipe.load(ran / "run" / "recipe.yaml").keep
    assert [k.data for k in kept[1:]] == [f"pack:{ran / 'mine'}", "pack:facts"]


def test_a_change_of_the_pack_is_another_trial(ran: Path, tmp_path: Path) -> None:
    recipe = Recipe.load(ran / "r.yaml")
    first = key_of(recipe)
    rows = ran / "mine" / "rows.jsonl"
    kept = rows.read_text()
    rows.write_text(kept.replace("card", "cash"))
    changed = key_of(recipe)
    rows.write_text(kept)
    assert changed != first == key_of(recipe)


def test_a_record_and_a_comparison_have_them(ran: Path) -> None:
    report = Report.load(ran / "run")
    figures = figures_of(report)
    assert figures["base"].packs == {"style": 0.5, "facts": 0.0} and set(figures["strengths"][-1].packs) == {
        "style",
        "facts",
    }
    changed = dict(figures["strengths"][-1].packs, style=0.25)
    figures["strengths"][-1].packs = changed
    record = TrialRecord(key="k", seed=0, status="finished", recipe={}, started="2026-01-01T00:00:00Z", **figures)
    assert run_figures(record).packs["style"] == -0.25


def test_any_two_models_are_asked(ran: Path) -> None:
    pair = measure(
        Request([str(ran / "base")], [str(ran / "run")], bounds=conditions(["kept.facts no worse by 0.95"])),
        ran / "out",
    )
    report = Report.load(ran / "run")
    assert [(p.name, p.before, p.after, p.difference) for p in pair.packs] == [
        (p.name, p.before, p.after, p.difference) for p in report.packs
    ]
    assert pair.gate is not None and pair.gate.verdict == "pass"
    assert [r.id for r in read_rows(ran / "out" / "rows.jsonl")] == [
        r.id for r in read_rows(ran / "run" / "rows.jsonl")
    ]
    own = Request([str(ran / "base")], [str(ran / "base")], keep=[f"other=pack:{ran / 'mine'}", str(ran / "keep.txt")])
    assert [p.name for p in measure(own).packs] == ["other"]
    with pytest.raises(DataError, match="no pack is called 'fact'"):
        measure(Request([str(ran / "base")], [str(ran / "run")], keep=["pack:fact"]))


def test_of_several_seeds_the_interval_is_over_runs(ran: Path) -> None:
    both = [str(ran / "run"), str(ran / "base")]
    pair = measure(Request([str(ran / "base")], both, keep=[f"style=pack:{ran / 'mine'}"]))
    (style,) = pair.packs
    assert style.difference is not None and style.difference.unit == "seed" and style.right is None


def test_higher_is_better_in_a_gate(tmp_path: Path) -> None:
    write_pack(tmp_path / "p", [ANY])
    pack = load_pack("pack:./p", tmp_path)
    worse = packs.figure(pack, results([1] * 40), results([0] * 40))

    class Figures:
        target, kept, drift = None, (), None

        def __init__(self, figure: Any):
            self.packs = [figure]

    bounds = conditions(["kept.p no worse by 0.02"])
    assert judge(bounds, Figures(worse)).verdict == "fails"
    better = packs.figure(pack, results([0] * 40), results([1] * 40))
    assert judge(bounds, Figures(better)).verdict == "pass"


def test_a_check_counts_the_questions_and_trains_on_none(ran: Path) -> None:
    report = check_recipe(ran / "r.yaml").report
    (style,) = [s for s in report.sources if s.name == "style"]
    assert report.ok and style.shapes == {"questions": 20} and style.counts["trained_tokens"] == 0


def test_a_pack_is_no_rows_to_replay(tmp_path: Path) -> None:
    small.write_inputs(tmp_path)
    file = small.write_recipe(tmp_path, keep=["pack:facts"], data__replay={"facts": 0.1})
    with pytest.raises(DataError, match="replay names 'facts'") as error:
        run(file, out=tmp_path / "run", quiet=True)
    assert "questions have no answers to learn from" in str(error.value)


def test_a_task_that_writes_nothing_refuses_packs() -> None:
    with pytest.raises(RecipeError, match="models of fill-mask do not write answers"):
        questions(load_pack("pack:facts"), get_task("fill-mask"), tiny.tokenizer(), EncodeOptions())
