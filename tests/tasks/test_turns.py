"""One conversation written in many ways is one conversation; what is none is a bad row that names the field."""

from __future__ import annotations

import json

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tasks import chat_templates as stock
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.data.read import read_all
from tunewright.recipe import Source
from tunewright.tasks import get_task
from tunewright.tasks._turns import checked, parsed_tools

TASK = get_task("text-generation")
ARGUMENTS = {"city": "Rome", "days": 2, "sure": True, "near": ["Ostia"], "by": {"hour": 6}}
PLAIN = {"type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}


def turns(answer: dict, **asked) -> list[dict]:
    return [{"role": "user", "content": "Who?", **asked}, {"role": "assistant", **answer}]


WAYS = {
    "text": turns({"content": "Ann."}),
    "a part": turns({"content": [{"type": "text", "text": "Ann."}]}),
    "parts": turns({"content": [{"type": "text", "text": "An"}, {"type": "output_text", "text": "n."}]}),
    "parts without types, and texts": turns({"content": [{"text": "A"}, "nn."]}),
    "Arrow's nulls": turns(
        {"content": [{"type": "text", "text": "Ann.", "image_url": None}], "tool_calls": None, "name": None},
        tool_call_id=None,
    ),
    "no calls": turns({"content": "Ann.", "tool_calls": []}),
    "no calls as text": turns({"content": "Ann.", "tool_calls": ""}),
}

CALLS = {
    "OpenAI's": [PLAIN],
    "JSON text": [{"type": "function", "function": {"name": "weather", "arguments": json.dumps(ARGUMENTS)}}],
    "flat": [{"name": "weather", "arguments": ARGUMENTS}],
    "one": PLAIN,
    "all as JSON text": json.dumps([PLAIN]),
    "each as JSON text": [json.dumps(PLAIN)],
    "Arrow's nulls": [
        {
            "id": None,
            "type": "function",
            "function": {"name": "weather", "arguments": {**ARGUMENTS, "street": None, "by": {"hour": 6, "day": None}}},
        }
    ],
    "an Arrow map": [{"function": {"name": "weather", "arguments": list(ARGUMENTS.items())}}],
}


@pytest.mark.parametrize("way", WAYS)
def test_content_in_every_form_is_one_text(way):
    assert checked(WAYS[way])[0] == turns({"content": "Ann."})


@pytest.mark.parametrize("way", CALLS)
def test_calls_in_every_form_are_one_call(way):
    assert checked(turns({"content": None, "tool_calls": CALLS[way]}))[0] == turns(
        {"content": "", "tool_calls": [PLAIN]}
    )


def test_the_older_names_of_a_call_and_its_result_are_read():
    old = [*turns({"content": None, "function_call": {"name": "weather", "arguments": "{}"}})]
    old.append({"role": "function", "name": "weather", "content": "sunny"})
    got = checked(old)[0]
    assert got[1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": {}}
    assert "function_call" not in got[1] and got[2]["role"] == "tool"


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_has_three_names_and_may_be_a_part(name):
    thought = turns({"content": "Ann.", "reasoning_content": "Look."})
    assert checked(turns({"content": "Ann.", name: "Look."}))[0] == thought
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "Look."}]}, {"type": "text", "text": "Ann."}]
    assert checked(turns({"content": parts}))[0] == thought


def test_a_null_that_is_meant_stays_in_json_text():
    meant = [{"function": {"name": "weather", "arguments": '{"city": null}'}}]
    assert checked(turns({"tool_calls": meant}))[0][1]["tool_calls"][0]["function"]["arguments"] == {"city": None}
    assert parsed_tools('[{"name": "w", "parameters": {"default": null}}]') == [
        {"type": "function", "function": {"name": "w", "parameters": {"default": None}}}
    ]


@pytest.mark.parametrize(
    "tools", [[stock.TOOL], [stock.TOOL["function"]], json.dumps([stock.TOOL]), [json.dumps(stock.TOOL)]]
)
def test_tools_in_every_form_are_one_list(tools):
    assert parsed_tools(tools) == [stock.TOOL]
    text = {**stock.TOOL["function"], "parameters": json.dumps(stock.TOOL["function"]["parameters"])}
    assert parsed_tools([{"type": "function", "function": {**text, "strict": None}}]) == [stock.TOOL]
    assert parsed_tools(None) is parsed_tools("") is parsed_tools([]) is parsed_tools("[]") is None


@pytest.mark.parametrize(
    "answer, field",
    [
        ({"content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "messages[1].content[0]"),
        ({"content": [3]}, "messages[1].content[0]"),
        ({"content": {"text": "a"}}, "messages[1].content"),
        ({"content": "a", "reasoning": 3}, "messages[1].reasoning"),
        ({"tool_calls": "[{"}, "messages[1].tool_calls"),
        ({"tool_calls": 3}, "messages[1].tool_calls"),
        ({"tool_calls": [3]}, "messages[1].tool_calls[0]"),
        ({"tool_calls": [{"function": {"arguments": {}}}]}, "messages[1].tool_calls[0]"),
        ({"tool_calls": [{"function": {"name": "w", "arguments": "{"}}]}, "messages[1].tool_calls[0].arguments"),
        ({"tool_calls": [{"function": {"name": "w", "arguments": [1]}}]}, "messages[1].tool_calls[0].arguments"),
        (
            {"tool_calls": [{"function": {"name": "w", "arguments": "[" * 99999}}]},
            "messages[1].tool_calls[0].arguments",
        ),
    ],
)
def test_what_is_no_turn_names_its_field(answer, field):
    with pytest.raises(RowProblem) as caught:
        checked(turns(answer))
    assert caught.value.field == field and caught.value.remedy


@pytest.mark.parametrize("tools", [{"name": "w"}, [3], [{}], ["{"], [{"name": "w", "parameters": "{"}]])
def test_what_is_no_tool_names_its_field(tools):
    with pytest.raises(RowProblem) as caught:
        parsed_tools(tools)
    assert caught.value.field.startswith("tools") and caught.value.remedy


def test_parquet_which_fills_in_nulls_trains_what_json_lines_train(tmp_path):
    """Rows whose calls have different arguments: every key of any row stands in all rows once Arrow wrote them."""
    weather = {"function": {"name": "weather", "arguments": {"city": "Rome"}}, "type": "function"}
    trains = {"function": {"name": "trains", "arguments": {"from": "Bonn", "to": "Ulm"}}, "type": "function"}
    tools = [{"type": "function", "function": {"name": n, "description": n}} for n in ("weather", "trains")]
    rows = [{"tools": tools, "messages": turns({"content": "", "tool_calls": [c]})} for c in (weather, trains)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    ids = []
    for name in ("rows.jsonl", "rows.parquet"):
        records = read_all(Source(path=name), tmp_path).records
        ids.append([list(TASK.encode(r, stock.tokenizer("qwen2.5"), EncodeOptions()).input_ids) for r in records])
    assert ids[0] == ids[1] and "null" not in stock.tokenizer("qwen2.5").decode(ids[1][1])


words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=12).filter(
    str.strip
)
values = st.recursive(
    words | st.integers(-9, 9) | st.booleans() | st.floats(-9, 9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(["chatml", "qwen2.5", "qwen3", "llama-3.1", "glm-4.5", "deepseek-r1", "lfm2.5", "gemma-4"]),
    said=words,
    thought=st.none() | words,
    calls=st.lists(
        st.tuples(st.from_regex(r"[a-z]{3,8}", fullmatch=True), st.dictionaries(words, values, max_size=2)), max_size=2
    ),
)
def test_whatever_a_row_says_is_in_its_trained_text_or_the_row_is_bad(name, said, thought, calls):
    """The oracle: each text as it stands or as JSON escapes it, somewhere in what is trained."""
    turn = {"role": "assistant", "content": said}
    if thought:
        turn["reasoning_content"] = thought
    if calls:
        turn["tool_calls"] = [{"type": "function", "function": {"name": n, "arguments": a}} for n, a in calls]
    record = Record({"messages": [{"role": "user", "content": "Who?"}, turn]}, id="r")
    try:
        row = TASK.encode(record, stock.tokenizer(name), EncodeOptions())
    except RowProblem:
        return
    text = stock.trained(name, row)
    leaves = [said, *([thought] if thought else []), *(x for n, a in calls for x in (n, *_leaves(a)))]
    for leaf in leaves:
        forms = {leaf.strip(), json.dumps(leaf.strip(), ensure_ascii=False)[1:-1], json.dumps(leaf)[1:-1]}
        assert any(form in text for form in forms), (leaf, text)


def _leaves(value) -> list[str]:
    if isinstance(value, dict):
        return [x for k, v in value.items() for x in (k, *_leaves(v))]
    if isinstance(value, list):
        return [x for v in value for x in _leaves(v)]
    return [value] if isinstance(value, str) else []


def test_a_tool_whose_short_name_stands_there_by_chance_is_not_shown():
    row = {"tools": [{"name": "w", "description": "d"}], "messages": turns({"content": "Ann."})}
    with pytest.raises(RowProblem, match="does not show the tool 'w'") as caught:
        TASK.encode(Record(row, id="r"), stock.tokenizer("chatml"), EncodeOptions())
    assert caught.value.field == "tools[0]"
    assert TASK.encode(Record(row, id="r"), stock.tokenizer("qwen2.5"), EncodeOptions())


@pytest.mark.parametrize(
    "name, messages, field",
    [
        ("llama-3.1", turns({"content": "a", "tool_calls": [PLAIN]}), "messages[1].content"),
        (
            "chatml",
            turns({"tool_calls": [{"name": "e", "arguments": {"i": 1}}]}),
            "messages[1].tool_calls[0].function.name",
        ),
        ("phi-4-mini", [{"role": "system", "content": "s"}, *turns({"content": "Ann."})], "messages[0].content"),
        (
            "rwkv-world",
            [*turns({"content": "Ann."}), {"role": "tool", "content": "s"}, {"role": "assistant", "content": "Bo."}],
            "messages[2].content",
        ),
    ],
)
def test_a_short_text_that_stands_there_by_chance_is_not_taken_for_the_turns_own(name, messages, field):
    with pytest.raises(RowProblem) as caught:
        TASK.encode(Record({"messages": messages}, id="r"), stock.tokenizer(name), EncodeOptions())
    assert caught.value.field == field


FLAGS = [{"train": False}, {"training": False}, {"train_on_turn": 0}, {"loss": False}, {"masked": True}, {"weight": 0}]


@pytest.mark.parametrize("flag", FLAGS)
def test_a_turn_that_is_not_to_be_trained_is_context_under_every_name_for_it(flag):
    two = [*turns({"content": "Ann.", **flag}), *turns({"content": "Bo."})]
    got, weights = checked(two)
    assert weights == [0, 0, 0, 1] and got == [*turns({"content": "Ann."}), *turns({"content": "Bo."})]
    t = stock.tokenizer("chatml")
    row = TASK.encode(Record({"messages": two}, id="r"), t, EncodeOptions())
    assert stock.trained("chatml", row) == "Bo.<|im_end|>" and "untrained" not in row.fields
    assert checked(turns({"content": "Ann.", **dict.fromkeys(flag)}))[1] == [0, 1]  # Arrow's null says nothing


@pytest.mark.parametrize("flag", [{"train": True}, {"loss": 1}, {"masked": False}, {"train": True, "weight": 0.5}])
def test_a_turn_that_is_to_be_trained_has_its_weight(flag):
    assert checked(turns({"content": "Ann.", **flag}))[1] == [0, flag.get("weight", 1)]


@pytest.mark.parametrize(
    "answer, asked, field",
    [
        ({"content": "a", "train": "no"}, {}, "messages[1].train"),
        ({"content": "a", "loss": 0.3}, {}, "messages[1].loss"),
        ({"content": "a", "train": [1]}, {}, "messages[1].train"),
        ({"content": "a", "train": True, "weight": 0}, {}, "messages[1].train"),
        ({"content": "a", "train": False, "training": True}, {}, "messages[1].training"),
        ({"content": "a"}, {"train": True}, "messages[0].train"),
        ({"content": "a"}, {"masked": False}, "messages[0].masked"),
        (
            {"content": "a", "train_detail": [{"begin_offset": 0, "end_offset": 1, "train": False}]},
            {},
            "messages[1].train_detail",
        ),
    ],
)
def test_what_says_neither_yes_nor_no_or_both_is_refused(answer, asked, field):
    with pytest.raises(RowProblem) as caught:
        checked(turns(answer, **asked))
    assert caught.value.field == field and caught.value.remedy
