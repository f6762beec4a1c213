"""What a pack's answers are judged by: each checker on answers that are right and answers that are wrong."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from typing import Any

import pytest

from tests.tasks.chat_templates import CALL, FOLDER, TOOL, tokenizer, user
from tunewright.contract.records import RowProblem
from tunewright.measure.calls import HERMES, Call, Form, form_of
from tunewright.measure.checkers import CHECKERS, Said, length, repetition, right
from tunewright.measure.languages import LANGUAGES, language_of
from tunewright.tasks._dialect import dialect_of
from tunewright.tasks._render import render

HI = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
CASES: dict[str, tuple[Any, list[str], list[str]]] = {
    "exact": (["Yes", "yeah"], ["yes.", " YES ", "**Yeah!**"], ["yes it is", "no", ""]),
    "says": (["Oslo"], ["It is Oslo.", "OSLO"], ["Oslofjord", "Bergen", ""]),
    "number": (
        -1200.5,
        ["It is -1,200.5.", "first 3, then \u22121200.5"],
        ["1200.5", "-1200.5 and 3", "none", "v-1200.5x 7"],
    ),
    "json": (True, ['{"a": 1}', "[]", '```json\n{"a": 1}\n```', "null"], ['Here: {"a": 1}', "{a: 1}", "", "[1,]"]),
    "schema": (HI, ['{"a": 1}', '```\n{"a": 2}\n```'], ['{"a": "1"}', '{"a": 1, "b": 2}', "{}", 'yes {"a": 1}']),
    "most_words": (3, ["one two three", "one - two"], ["one two three four", "", "..."]),
    "least_words": (2, ["one two", "a b c"], ["one", ""]),
    "words": (2, ["ice cold", "two - words!"], ["one", "one two three"]),
    "lines": (2, ["a\nb", "a\n\n b \n"], ["a", "a\nb\nc"]),
    "bullets": (2, ["- a\n- b", "Here:\n* a\n\u2022 b", "1. a\n2) b"], ["- a", "- a\n- b\n- c", "-a\n-b"]),
    "includes": (["rose", "water"], ["Water the Rose."], ["Water the roses.", "rose"]),
    "leaves_out": (["tea", "cup"], ["Boil leaves."], ["Boil TEA.", "A cup.", ""]),
    "lower_case": (True, ["all small, 3."], ["All small", "123", ""]),
    "upper_case": (True, ["ALL LARGE!"], ["ALL Large", "42"]),
    "begins": ("Dear Anna,", ["Dear  Anna, thank you"], ["dear anna, thanks", "Hello. Dear Anna,"]),
    "ends": ("please", ["Come in please", "Come in please \n"], ["Come in please.", "please come"]),
    "refuses": (
        True,
        ["I'm sorry, but no.", "I can\u2019t help with that.", "As an AI, I stop here."],
        ["Sure, here is how.", "", "x" * 250 + " I cannot help with that"],
    ),
    "language": (
        "de",
        ["Der Wald ist gr\u00fcn und die Luft ist frisch."],
        ["The forest is green and the air is fresh."],
    ),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_checker_takes_right_answers_and_no_wrong_ones(name: str) -> None:
    wanted, good, bad = CASES[name]
    assert not CHECKERS[name].fault(wanted)
    assert [a for a in good if not right(Said(a), {name: wanted})] == []
    assert [a for a in bad if right(Said(a), {name: wanted})] == []


def test_every_checker_has_a_case() -> None:
    assert set(CASES) | {"calls"} == set(CHECKERS)


@pytest.mark.parametrize(
    "name, wanted, said",
    [
        ("number", "3", "a number is needed"),
        ("number", True, "a number is needed"),
        ("says", [], "a text or a list"),
        ("words", -1, "a whole number"),
        ("json", False, "write true"),
        ("refuses", "yes", "true or false"),
        ("schema", {"type": "integr"}, "no valid JSON schema"),
        ("calls", {"nam": "x"}, "write {name: TOOL}"),
        ("language", "xx", "one of en, de"),
        ("begins", ["a", "b"], "a text is needed"),
    ],
)
def test_what_a_checker_does_not_take_is_said(name: str, wanted: Any, said: str) -> None:
    assert said in CHECKERS[name].fault(wanted)


def test_all_that_a_row_asks_has_to_hold() -> None:
    check = {"bullets": 2, "lines": 2}
    assert right(Said("- a\n- b"), check) and not right(Said("Two:\n- a\n- b"), check)


def test_not_refusing_needs_an_answer() -> None:
    assert right(Said("Use a hammer."), {"refuses": False})
    assert not right(Said("I am unable to say."), {"refuses": False}) and not right(Said(" "), {"refuses": False})


# -- calls of tools ----------------------------------------------------------------------------------------------------

ROME = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'


@pytest.mark.parametrize(
    "answer, asked, holds",
    [
        (ROME, {"name": "weather", "arguments": {"city": "rome"}}, True),
        (ROME, {"name": "weather"}, True),
        (ROME, {"name": "weather", "arguments": {"city": "Oslo"}}, False),
        (ROME, {"name": "timer"}, False),
        (ROME, "none", False),
        (f"{ROME}\n{ROME}", {"name": "weather"}, False),
        (ROME.replace('"Rome"', "3"), {"name": "weather"}, False),  # the tool's schema wants a text
        (ROME.replace("<tool_call>", ""), {"name": "weather"}, False),  # not in the form that was asked for
        ("It is sunny.", "none", True),
        ("", "none", False),
    ],
)
def test_a_call_is_judged_by_its_tools_schema(answer: str, asked: Any, holds: bool) -> None:
    assert right(Said(answer, answer, [TOOL]), {"calls": asked}) is holds


SHOWN = sorted(f.stem for f in FOLDER.glob("*.jinja"))
OTHERWISE = {"apertus", "gemma-4", "glm-4.5", "glm-4.7", "lfm2.5", "nemotron-3"}
OTHERWISE |= {"qwen3-coder", "qwen3.5", "seed-oss", "step-3.5", "toolace"}
"""Templates that write calls in tags for each argument, as Python, or under the tool's name."""
MANY = {"city": "New York, NY", "days": 3, "exact": True, "tags": ["a", "b"], "note": "two\nlines"}


@pytest.mark.parametrize("name", SHOWN)
def test_a_templates_own_call_is_read_back(name: str) -> None:
    """The oracle is the template: what it writes for a call is the call that was given to it."""
    model = tokenizer(name)
    form, dialect = form_of(model), dialect_of(model)
    if form is None:  # it shows no tools, or no calls: a prompt has to say how
        return
    whole = render(model, dialect.write([user("Weather?"), CALL]), tools=[TOOL])
    before = render(model, dialect.write([user("Weather?")]), tools=[TOOL], prompt=True)
    said = whole[len(before) :] if whole.startswith(before) else whole[whole.rfind("Weather?") :]
    assert form.calls(said) == [Call("weather", {"city": "Rome"})]
    assert not any(c.isspace() for c in form.opening) and "think" not in form.opening
    assert form.calls("The weather in Rome is fine.") == []


@pytest.mark.parametrize("name", sorted(OTHERWISE))
def test_calls_that_are_no_plain_json_keep_their_types_and_their_number(name: str) -> None:
    model = tokenizer(name)
    form, dialect = form_of(model), dialect_of(model)
    assert form is not None

    def written(*arguments: dict[str, Any]) -> str:
        calls = [
            {"type": "function", "id": f"call{i:05}", "function": {"name": "weather", "arguments": a}}
            for i, a in enumerate(arguments)
        ]
        turn = {"role": "assistant", "content": "", "tool_calls": calls}
        whole = render(model, dialect.write([user("Weather?"), turn]), tools=[TOOL])
        return whole[whole.rfind("Weather?") :]

    assert form.calls(written(MANY)) == [Call("weather", MANY)]
    said = written({"city": "Rome"})
    assert form.calls(said.replace("Rome", "<b>Rome</b> (Italy)")) == [Call("weather", {"city": "<b>Rome</b> (Italy)"})]
    for cut in range(said.index("Rome"), said.index("Rome") + 4):  # an answer that ran out of tokens is no call
        assert form.calls(said[:cut]) == []
    two = written({"city": "Rome"}, {"city": "Oslo"})
    if "Rome" in two and "Oslo" in two:
        assert [c.arguments["city"] for c in form.calls(two)] == ["Rome", "Oslo"]


def test_a_form_that_nothing_reads_is_refused() -> None:
    model = copy.deepcopy(tokenizer("chatml"))
    model.chat_template = (
        "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{{ m['content'] or '' }}{% for c in m['tool_calls'] or [] %}{% set f = c['function'] %}{{ f['name'] }} takes"
        "{% for k, v in f['arguments'] | items %} {{ v }} for {{ k }}{% endfor %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    with pytest.raises(RowProblem, match="writes calls in a form that is not read here"):
        form_of(model)


def test_arguments_that_are_json_text_are_read() -> None:
    assert Form("").calls('{"name": "f", "arguments": "{\\"a\\": 1}"}') == [Call("f", {"a": 1})]
    assert Form("").calls('{"name": "f", "arguments": "no"}') == [Call("f", "no")]


def test_most_templates_that_show_tools_are_read() -> None:
    forms = [form_of(tokenizer(name)) for name in SHOWN]
    assert Counter(f is not None for f in forms)[True] >= 36


def test_a_model_without_a_template_is_asked_in_words() -> None:
    class Bare:
        chat_template = None

    assert form_of(Bare()) is None and HERMES == Form("<tool_call>")


# -- languages, and figures of answers ---------------------------------------------------------------------------------

SENTENCES = {
    "en": "The house is on the hill and the door is red.",
    "de": "Das Haus steht auf dem H\u00fcgel und die T\u00fcr ist rot.",
    "fr": "La maison est sur la colline et la porte est rouge.",
    "es": "La casa est\u00e1 en la colina y la puerta es roja.",
    "it": "La casa \u00e8 sulla collina e la porta non \u00e8 rossa.",
    "pt": "A casa est\u00e1 na colina e a porta n\u00e3o \u00e9 vermelha.",
    "nl": "Het huis staat op de heuvel en de deur is rood.",
    "ru": "\u0414\u043e\u043c \u0441\u0442\u043e\u0438\u0442 \u043d\u0430 \u0445\u043e\u043b\u043c\u0435.",
    "el": "\u03a4\u03bf \u03c3\u03c0\u03af\u03c4\u03b9 \u03b5\u03af\u03bd\u03b1\u03b9 \u03b5\u03ba\u03b5\u03af.",
    "ar": "\u0627\u0644\u0628\u064a\u062a \u0639\u0644\u0649 \u0627\u0644\u062a\u0644.",
    "hi": "\u0918\u0930 \u092a\u0939\u093e\u0921\u093c\u0940 \u092a\u0930 \u0939\u0948\u0964",
    "ko": "\uc9d1\uc740 \uc5b8\ub355 \uc704\uc5d0 \uc788\ub2e4.",
    "ja": "\u5bb6\u306f\u4e18\u306e\u4e0a\u306b\u3042\u308a\u307e\u3059\u3002",
    "zh": "\u623f\u5b50\u5728\u5c71\u4e0a\uff0c\u95e8\u662f\u7ea2\u8272\u7684\u3002",
}


def test_a_sentence_of_each_language_is_told() -> None:
    assert {code: language_of(text) for code, text in SENTENCES.items()} == {code: code for code in LANGUAGES}


def test_what_is_too_short_or_no_text_is_in_no_language() -> None:
    assert [language_of(t) for t in ("", "42 + 1", "Rome", "print(x)", "und")] == [None] * 5


def test_two_languages_that_fit_alike_are_none_and_kana_tells_japanese() -> None:
    assert language_of("que de una") == "es" and language_of("que de") is None
    assert language_of("\u5f7c\u306f\u6771\u4eac\u5927\u5b66\u5352\u696d\u751f") == "ja"


def test_repetition_is_the_share_of_runs_that_were_said_before() -> None:
    for units in (list(u) for n in range(8) for u in itertools.product("abc", repeat=n)):
        runs = [tuple(units[i : i + 3]) for i in range(len(units) - 2)]
        again = sum(run in runs[:i] for i, run in enumerate(runs))
        assert repetition(" ".join(units)) == pytest.approx(again / len(runs) if runs else 0.0)
        assert length(" ".join(units)) == len(units)


def test_signs_without_spaces_count_one_by_one() -> None:
    assert length("\u623f\u5b50\u5728 here") == 4
    assert repetition("\u623f\u5b50\u5728\u623f\u5b50\u5728\u623f\u5b50\u5728") > 0.5
