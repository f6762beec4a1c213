"""Rows that are encoded by the window are those that are encoded one by one, under any template and tokenizer."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests import tiny
from tests.tasks import chat_templates as stock
from tunewright.contract.batch import Row
from tunewright.contract.records import Record
from tunewright.contract.task import EncodeOptions
from tunewright.tasks import _patterns, get_task

TASK = get_task("text-generation")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SYSTEM = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
TEMPLATES = {
    "as it stands": CHATML,
    "trimmed": CHATML.replace("m.content", "m.content | trim"),
    "a system turn by default": SYSTEM + CHATML,
    "thinks before the last answer alone": CHATML.replace(
        "{{ m.content }}",
        "{% if loop.last and m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}",
    ),
    "no line break, a space before answers": "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% if m.role == "
    "'assistant' %}<|im_end|>{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}",
    "otherwise where a word is said": CHATML.replace(
        "{{ m.content }}", "{% if 'card' in m.content %}{{ m.content | upper }}{% else %}{{ m.content }}{% endif %}"
    ),
    "counts letters": CHATML.replace("{{ m.role }}", "{{ m.role }}{{ m.content | length > 12 }}"),
    "refuses a word": CHATML.replace(
        "{{ m.content }}", "{{ raise_exception('no') if 'fee' in m.content else m.content }}"
    ),
}


def metaspace(prepend: str, *, old: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer that marks spaces, as SentencePiece does; `old`: with the mark put on by a normalizer."""
    inner = Tokenizer(models.BPE(unk_token="<|unk|>"))
    if old:
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    inner.decoder = decoders.Metaspace()
    special = ["<|unk|>", "<|im_start|>", "<|im_end|>", "<|bos|>"]
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    inner.train_from_iterator(["card lost fee assistant user system\nBe kind. [a] ?!\t"] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<|bos|>", eos_token="<|im_end|>", pad_token="<|bos|>", unk_token="<|unk|>"
    )


TOKENIZERS = {
    "bytes": tiny.tokenizer,
    "a mark first": lambda: metaspace("first"),
    "a mark always": lambda: metaspace("always"),
    "a mark by a normalizer": lambda: metaspace("always", old=True),
}
WORDS = [*"ab \n\t.?", "card", "lost", " fee", "<|im_end|>", "<think>", "\u00e9", "\U0001f600"]
said = st.lists(st.sampled_from(WORDS), max_size=8).map("".join)
turn = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": said})
usual = st.tuples(said, said).map(
    lambda both: [{"role": "user", "content": both[0]}, {"role": "assistant", "content": both[1]}]
)
record = st.one_of(
    usual.map(lambda turns: {"messages": turns}),
    st.tuples(usual, usual).map(lambda both: {"messages": [*both[0], *both[1]]}),
    st.lists(turn, max_size=4).map(lambda turns: {"messages": turns}),
    st.fixed_dictionaries({"prompt": said, "completion": said}),
    st.fixed_dictionaries({"text": said}),
)


def shown(row: Row | Exception) -> object:
    return row if isinstance(row, Row) else (type(row), str(row))


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_window_is_its_rows(template, tokenizer):
    reader = TOKENIZERS[tokenizer]()
    reader.chat_template = TEMPLATES[template]

    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(st.lists(record, min_size=1, max_size=12), st.sampled_from([None, "", "Be brief."]), st.booleans())
    def holds(rows, system, chat):
        options = EncodeOptions(system=system, chat=None if chat else False)
        records = [Record(r, id=f"r:{i}", source="s") for i, r in enumerate(rows)]
        alone = [TASK.encode_many([r], reader, options)[0] for r in records]
        one_by_one = [one(r, reader, options) for r in records]
        together = TASK.encode_many(records, reader, options)
        assert [*map(shown, together)] == [*map(shown, one_by_one)] == [*map(shown, alone)]

    holds()


def conversations(n: int, asked: str = "lost card {}?", answered: str = "rate {}") -> list[Record]:
    pair = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    turns = [[{**t, "content": t["content"].format(i)} for t in pair] for i in range(n)]
    return [Record({"messages": t}, id=f"r:{i}", source="s") for i, t in enumerate(turns)]


@pytest.mark.parametrize(
    "said", ["card {}", "lost fee {}", "lost what was lost {}", " lost {}\n", "<think>{}", "<|im_end|>{}"]
)
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_proved_pattern_is_not_taken_for_what_it_does_not_fit(template, said):
    reader, options = tiny.tokenizer(), EncodeOptions()
    reader.chat_template = TEMPLATES[template]
    usual = conversations(8, "lost {}", "rate {}")
    TASK.encode_many(usual, reader, options)
    window = [*usual[:3], *conversations(1, said), *conversations(1, "lost {}", said), usual[3]]
    alone = [TASK.encode_many([r], reader, options)[0] for r in window]
    _patterns.patterns_of.cache_clear()
    assert [*map(shown, alone)] == [*map(shown, (one(r, reader, options) for r in window))]
    TASK.encode_many(usual, reader, options)
    assert [*map(shown, TASK.encode_many(window, reader, options))] == [*map(shown, alone)]


def turns(asked: str, answered: str) -> list[dict[str, str]]:
    return [stock.user(asked), stock.answer(answered)]


@pytest.mark.parametrize("name", sorted(stock.TABLE))
def test_a_window_is_its_rows_under_the_families_templates(name):
    reader, options = stock.tokenizer(name), EncodeOptions()
    _patterns.patterns_of.cache_clear()
    asked = [f"Who is {w}?" for w in ("it", "this", "the one", "she", "he", "that one", "there", "meant")]
    first = [turns(q, "Ann.") for q in asked]
    later = [turns(q, f"Ann {i}.") + turns("Where?", f"Oslo {i}.\n") for i, q in enumerate(asked)]
    kinds = [first, later, [[{"role": "system", "content": "Be brief."}, *t] for t in first]]
    rows = [Record({"messages": t}, id=f"r:{i}", source="s") for i, t in enumerate(t for k in kinds for t in k)]
    assert [*map(shown, TASK.encode_many(rows, reader, options))] == [
        *map(shown, (one(r, reader, options) for r in rows))
    ]
    known = _patterns.patterns_of(reader, str(reader.chat_template), None).by_roles
    assert name == "hermes-3" or known["user", "assistant"].proved >= _patterns.PROVED  # that one shows no plain turns


def one(record, reader, options) -> object:
    try:
        return TASK.encode(record, reader, options)
    except Exception as error:
        return error


def test_a_window_is_rendered_once_and_laid_out_by_its_pattern(monkeypatch):
    reader, laid_out = tiny.tokenizer(), []
    reader.chat_template = CHATML
    own = _patterns.conversation
    monkeypatch.setattr(_patterns, "conversation", lambda *a, **k: laid_out.append(1) or own(*a, **k))
    monkeypatch.setattr(
        "tunewright.tasks.text_generation.conversation", lambda *a, **k: laid_out.append(1) or own(*a, **k)
    )
    rows = TASK.encode_many(conversations(64), reader, EncodeOptions())
    assert all(isinstance(r, Row) for r in rows) and len(laid_out) == 1 + 4  # learnt, then proved


def test_a_pattern_that_does_not_give_what_a_row_gives_is_given_up(monkeypatch):
    reader = tiny.tokenizer()
    reader.chat_template = CHATML + "{# given up #}"
    own = _patterns.assembled

    def other(tokenizer, pattern, said, encoded):
        made = own(tokenizer, pattern, said, encoded)
        return _patterns.Encoded(made.ids[:-1], made.weights[:-1], made.start, made.answer, made.untrained)

    right = TASK.encode_many(conversations(8), reader, EncodeOptions())
    _patterns.patterns_of.cache_clear()
    monkeypatch.setattr(_patterns, "assembled", other)
    assert TASK.encode_many(conversations(8), reader, EncodeOptions()) == right
