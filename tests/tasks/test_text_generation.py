"""text-generation: what is trained, what the prompt is, batches of both layouts, the forward at labels only."""

from __future__ import annotations

import json

import pytest
import torch

from tests import tiny
from tunewright.contract.batch import Row
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.tasks import get_task
from tunewright.tasks._causal import has_plain_head, model_inputs
from tunewright.tasks._segments import ids_of

TASK = get_task("text-generation")
DEFAULT_SYSTEM = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nBe "
    "kind.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt "
    "%}<|im_start|>assistant\n{% endif %}"
)


def encode(values: dict, options: EncodeOptions | None = None, **tokenizer) -> tuple[Row, object]:
    t = tiny.tokenizer(**tokenizer)
    return TASK.encode(Record(values, id="r:1", source="s"), t, options or EncodeOptions()), t


def trained(row: Row, tokenizer) -> str:
    return tokenizer.decode([i for i, w in zip(row.input_ids, row.weights, strict=True) if w > 0])


def test_plain_text_trains_every_token_with_one_bos_and_eos_at_the_end():
    row, t = encode({"text": "The river rose."}, bos_first=True)
    assert list(row.input_ids) == [tiny.BOS, *ids_of(t, "The river rose."), tiny.EOS]
    assert all(w == 1 for w in row.weights) and row.fields == {"kind": "plain"}
    row, _ = encode({"text": "The river rose."})
    assert row.input_ids[0] != tiny.BOS and row.input_ids[-1] == tiny.EOS


def test_prompt_and_completion_go_through_the_chat_template():
    row, t = encode({"prompt": "Which topic?", "completion": "card arrival"})
    assert (
        t.decode(row.input_ids)
        == "<|im_start|>user\nWhich topic?<|im_end|>\n<|im_start|>assistant\ncard arrival<|im_end|>\n"
    )
    assert trained(row, t) == "card arrival<|im_end|>"
    assert row.fields["reference"] == "card arrival" and row.fields["kind"] == "prompt"


def test_the_prompt_is_the_same_at_training_generation_and_likelihood():
    options = EncodeOptions(template="Which support topic is this?\n{text}", system="")
    record = Record({"text": "my card 1999 has not come", "label": "card arrival"}, id="r:1")
    t = tiny.tokenizer()
    t.chat_template = DEFAULT_SYSTEM
    row = TASK.encode(record, t, options)
    other = TASK.answer(record, "lost card", t, options)
    prompt = row.fields["prompt_ids"]
    assert t.decode(prompt) == (
        "<|im_start|>user\nWhich support topic is this?\nmy card 1999 has not come<|im_end|>\n<|im_start|>assistant\n"
    )
    assert list(row.input_ids[: len(prompt)]) == prompt == other.fields["prompt_ids"] == ids_of(t, t.decode(prompt))
    assert other.fields["reference"] == "lost card" and trained(other, t) == "lost card<|im_end|>"


@pytest.mark.parametrize("bos", ["<|im_start|>", "<|bos|>", None])
@pytest.mark.parametrize("front", ["", "{{ bos_token }}"])
def test_the_default_turn_goes_whatever_token_opens_the_text(bos, front):
    t = tiny.tokenizer()
    t.bos_token = bos
    front = front if bos == "<|bos|>" else ""
    t.chat_template = front + DEFAULT_SYSTEM
    row = TASK.encode(Record({"prompt": "a", "completion": "b"}, id="r"), t, EncodeOptions(system=""))
    start = "<|bos|>" if front else ""
    assert t.decode(row.input_ids) == start + "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"


@pytest.mark.parametrize(
    "system, start",
    [(None, "<|im_start|>system\nBe kind."), ("", "<|im_start|>user"), ("Say no.", "<|im_start|>system\nSay no.<")],
)
def test_system_turn_as_the_template_has_it_left_out_or_given(system, start):
    t = tiny.tokenizer()
    t.chat_template = DEFAULT_SYSTEM
    row = TASK.encode(Record({"prompt": "a", "completion": "b"}, id="r"), t, EncodeOptions(system=system))
    assert t.decode(row.input_ids).startswith(start) and trained(row, t) == "b<|im_end|>"


def test_a_template_with_completion_takes_the_place_of_the_chat_template():
    row, t = encode(
        {"prompt": "2+2", "completion": "4"}, EncodeOptions(template="Q: {prompt}\nA: {completion}\n"), bos_first=True
    )
    assert t.decode(row.input_ids) == "<|bos|>Q: 2+2\nA: 4\n<|im_end|>"
    assert (
        trained(row, t) == " 4\n<|im_end|>"
        and list(row.input_ids[: len(row.fields["prompt_ids"])]) == row.fields["prompt_ids"]
    )


def test_a_space_before_the_answer_in_a_template_is_the_answers():
    asked, t = encode({"prompt": "2 2", "completion": "four"}, EncodeOptions(template="Q: {prompt} A: {completion}"))
    assert trained(asked, t) == " four<|im_end|>" and t.decode(asked.fields["prompt_ids"]).endswith("Q: 2 2 A:")
    assert asked.fields["reference"] == "four" and "spaced" not in asked.fields
    plain, _ = encode({"prompt": "Q: 2 2 A:", "completion": " four"}, chat=False)
    assert list(asked.input_ids) == list(plain.input_ids)


def test_a_bare_prompt_that_ends_in_a_space_is_noted():
    assert encode({"prompt": "A: ", "completion": "four"}, chat=False)[0].fields["spaced"]
    for prompt, completion in (("A:", " four"), ("A:\n", "four")):
        assert "spaced" not in encode({"prompt": prompt, "completion": completion}, chat=False)[0].fields


def test_without_a_chat_template_a_completion_starts_right_after_the_prompt():
    row, t = encode({"prompt": "The river", "completion": " rose"}, chat=False, bos_first=True)
    assert t.decode(row.input_ids) == "<|bos|>The river rose<|im_end|>" and trained(row, t) == " rose<|im_end|>"


def test_chat_trains_assistant_turns_by_their_weight():
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "first", "weight": 0},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "second", "weight": 0.5},
    ]
    row, t = encode({"messages": messages})
    assert trained(row, t) == "second<|im_end|>" and max(row.weights) == 0.5
    assert t.decode(row.fields["prompt_ids"]).endswith("b<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("said", ["b", [{"role": "assistant", "content": [{"type": "text", "text": "b"}]}]])
def test_a_prompt_of_turns_and_its_completion_are_one_conversation(said):
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "a"}]}]
    row, t = encode({"prompt": asked, "completion": said})
    same, _ = encode({"prompt": "a", "completion": "b", "system": "Be brief."})
    assert list(row.input_ids) == list(same.input_ids) and trained(row, t) == "b<|im_end|>"
    together = TASK.encode_many([Record({"prompt": asked, "completion": said}, id="r")], t, EncodeOptions())
    assert list(together[0].input_ids) == list(row.input_ids)


@pytest.mark.parametrize(
    "rest",
    [
        [{"role": "user", "content": "and now?"}],
        [{"role": "user", "content": "and now?"}, {"role": "assistant", "content": "never", "weight": 0}],
    ],
)
def test_turns_after_the_last_trained_answer_are_left_out(rest):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "first"}]
    row, t = encode({"messages": [*messages, *rest]})
    alone, _ = encode({"messages": messages})
    assert list(row.input_ids) == list(alone.input_ids) and trained(row, t) == "first<|im_end|>"
    assert row.fields == alone.fields and row.fields["reference"] == "first"


def test_tools_and_tool_calls_reach_the_template():
    t = tiny.tokenizer()
    t.chat_template = (
        "{% if tools %}{{ tools | tojson }}\n{% endif %}{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if m.tool_calls %}{{ m.tool_calls[0].function.name }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% "
        "endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    call = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "look_up", "arguments": {}}}]}
    messages = [
        {"role": "user", "content": "find"},
        call,
        {"role": "tool", "content": "ok"},
        {"role": "assistant", "content": "done"},
    ]
    tools = json.dumps([{"type": "function", "function": {"name": "look_up"}}])
    row = TASK.encode(Record({"messages": messages, "tools": tools}, id="r"), t, EncodeOptions())
    assert trained(row, t) == "look_up<|im_end|>done<|im_end|>" and t.decode(row.input_ids).startswith("[{")


def test_where_the_front_changes_with_the_turns_the_answer_follows_the_prompt_that_generation_sees():
    t = tiny.tokenizer()
    t.chat_template = "{{ messages | length }} turns\n" + tiny.CHAT_TEMPLATE
    row = TASK.encode(Record({"prompt": "a", "completion": "b"}, id="r"), t, EncodeOptions())
    asked = t.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False, add_generation_prompt=True)
    assert asked.startswith("1 turns") and t.decode(row.fields["prompt_ids"]) == asked
    assert t.decode(row.input_ids) == asked + "b<|im_end|>\n" and trained(row, t) == "b<|im_end|>"


def test_a_template_whose_prompt_has_nothing_to_do_with_its_answers_is_refused():
    t = tiny.tokenizer()
    t.chat_template = tiny.CHAT_TEMPLATE.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>bot: {% endif %}")
    with pytest.raises(RowProblem, match="no prefix"):
        TASK.encode(Record({"prompt": "a", "completion": "b"}, id="r"), t, EncodeOptions())


@pytest.mark.parametrize(
    "values, field",
    [
        ({"text": ""}, "text"),
        ({"text": 3}, "text"),
        ({"other": "x"}, "text"),
        ({"prompt": "a"}, "completion"),
        ({"prompt": "a", "completion": "  "}, "completion"),
        ({"text": "a", "label": float("nan")}, "label"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "a"}]}, "messages"),
        ({"messages": [{"content": "a"}]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}, "messages[1].content"),
        (
            {"messages": [{"role": "user", "content": "a", "weight": 1}, {"role": "assistant", "content": "b"}]},
            "messages[0].weight",
        ),
        ({"messages": [{"role": "assistant", "content": "b", "weight": float("nan")}]}, "messages[0].weight"),
        ({"messages": [{"role": "assistant", "content": "b"}], "tools": "{"}, "tools"),
    ],
)
def test_bad_rows_name_the_field(values, field):
    with pytest.raises(RowProblem) as caught:
        encode(values)
    assert caught.value.field == field and caught.value.remedy


def test_a_conversation_without_a_chat_template_and_a_text_without_eos_are_refused():
    with pytest.raises(RowProblem, match="no chat template"):
        encode({"messages": [{"role": "assistant", "content": "b"}]}, chat=False)
    with pytest.raises(RowProblem, match="no end-of-text"):
        encode({"text": "a"}, eos=False)


def rows() -> list[Row]:
    t = tiny.tokenizer()
    pairs = [("Which topic?", "card arrival"), ("a", "b"), ("In 1999 the river rose.", "the town left")]
    return [
        TASK.encode(Record({"prompt": p, "completion": c}, id=f"r:{i}", source="s"), t, EncodeOptions())
        for i, (p, c) in enumerate(pairs)
    ]


def test_packed_and_padded_batches_name_the_same_targets():
    packed, padded = TASK.collate(rows(), True), TASK.collate(rows(), False)
    assert (
        torch.equal(packed.labels, padded.labels)
        and torch.equal(packed.rows, padded.rows)
        and torch.equal(packed.weights, padded.weights)
    )
    assert packed.cu_seqlens.dtype == torch.int32 and packed.tokens == padded.tokens == int(packed.cu_seqlens[-1])
    assert packed.inputs["position_ids"][0, packed.cu_seqlens[:-1].long()].tolist() == [0, 0, 0]
    flat = packed.inputs["input_ids"][0]
    assert torch.equal(flat[packed.positions + 1], packed.labels)
    assert torch.equal(padded.inputs["input_ids"].flatten()[padded.positions + 1], padded.labels)


def test_no_row_predicts_its_first_token_from_the_row_before():
    plain = [Row(f"r{i}", "s", [5, 6, 7], [1.0] * 3) for i in range(2)]
    batch = TASK.collate(plain, True)
    assert batch.positions.tolist() == [0, 1, 3, 4]


@pytest.mark.parametrize("maker", ["llama", "qwen3", "gpt2"])
def test_lazy_logits_equal_the_models_own(maker):
    model, batch = tiny.MAKERS[maker](), TASK.collate(rows(), False)
    outputs = TASK.forward(model, batch, hidden=True)
    theirs = model(**batch.inputs).logits.flatten(0, 1)[batch.positions]
    assert outputs._logits is not theirs and callable(outputs._logits)
    assert torch.allclose(outputs.logits, theirs, atol=1e-5) and len(outputs.hidden) == 3
    direct = torch.nn.functional.cross_entropy(theirs, batch.labels, reduction="none")
    assert torch.allclose(TASK.loss(TASK.forward(model, batch), batch).value, direct, atol=1e-5)


def test_a_model_that_changes_logits_after_the_head_runs_whole():
    model, batch = tiny.llama(), TASK.collate(rows(), False)
    own = type(model).forward

    class Capped(type(model)):
        def forward(self, *args, **kwargs):
            out = own(self, *args, **kwargs)
            out.logits = torch.tanh(out.logits)
            return out

    model.__class__ = Capped
    assert not has_plain_head(model, model_inputs(batch))
    assert TASK.forward(model, batch).logits.abs().max() <= 1


def test_the_first_comparison_draws_no_random_numbers():
    model = tiny.gpt2(dropout=0.5).train()
    before = torch.get_rng_state()
    has_plain_head(model, model_inputs(TASK.collate(rows(), False)))
    assert torch.equal(before, torch.get_rng_state()) and all(m.training for m in model.modules())


def test_default_metric():
    assert TASK.default_metric(rows()) == "exact_match"
    assert TASK.default_metric([encode({"text": "a b"})[0]]) == "loss"
