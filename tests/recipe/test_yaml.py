from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.catalogue.numbers import parse_number
from tunewright.errors import RecipeError
from tunewright.recipe import yaml_text

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**15), 10**15),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=20),
    st.sampled_from(
        [
            "2e-4",
            "16k",
            "1e5",
            "0x1f",
            "yes",
            "off",
            "null",
            "~",
            "1_000",
            "2020-01-01",
            "1:30",
            "<<",
            "=",
            ".5",
            "1.",
            "NaN",
            "- a",
            "a: b",
        ]
    ),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc_", min_size=1, max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(TREES)
def test_what_is_written_reads_back_equal_and_of_the_same_type(tree):
    again = yaml_text.read(yaml_text.write(tree)).tree
    assert again == tree and repr(again) == repr(tree)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("1E5", 1e5),
        ("0.5", 0.5),
        ("1_000", 1000),
        ("010", 10),
        ("yes", "yes"),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("16k", "16k"),
    ],
)
def test_scalars(text, value):
    got = yaml_text.read(f"a: {text}").tree["a"]
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize("text", ["\x85", "a\x85b", "\u2028x", "a\u2029 b", "a: \x85\n\x85", "\x85" * 150])
def test_line_breaks_that_few_know_are_written_so_that_they_are_read_again(text):
    assert yaml_text.read(yaml_text.write({"k": [text]})).tree == {"k": [text]}


KEYS = st.sampled_from(["a", "b", "c", "<", "<<<"])


@given(st.lists(st.dictionaries(KEYS, SCALARS, max_size=3), min_size=1, max_size=3), st.dictionaries(KEYS, SCALARS))
def test_keys_that_are_taken_over_stand_behind_the_own_ones_and_the_first_mapping_has_them(mappings, own):
    lines = [f"- &m{i} {yaml_text.write(m).strip()}" if not m else f"- &m{i}" for i, m in enumerate(mappings)]
    for i, m in enumerate(mappings):
        lines[i] += "".join(f"\n  {line}" for line in yaml_text.write(m).splitlines() if m)
    text = "\n".join(lines) + f"\n- <<: [{', '.join(f'*m{i}' for i in range(len(mappings)))}]\n"
    text += "".join(f"  {line}\n" for line in yaml_text.write(own).splitlines() if own)
    expected: dict = {}
    for mapping in (own, *mappings):
        expected = mapping | expected
    got = yaml_text.read(text).tree[-1]
    assert got == expected and {k: repr(v) for k, v in got.items()} == {k: repr(v) for k, v in expected.items()}


def test_what_is_taken_over_has_the_place_where_it_is_written_out():
    text = "d: &d\n  a: {x: 1}\n  b:\n    y: 2\ne:\n  <<: *d\n  b: [3]\n"
    document = yaml_text.read(text, "r.yaml")
    assert document.tree["e"] == {"a": {"x": 1}, "b": [3]}
    assert document.place(("e", "a", "x")) == "r.yaml:2"
    assert document.place(("e", "b", 0)) == document.place(("e", "b", "y")) == "r.yaml:7"
    assert ("e", "b", "y") not in document.places
    assert document.place(("d", "b", "y")) == "r.yaml:4"


def test_a_quoted_merge_key_is_a_key():
    assert yaml_text.read("d: &d {a: 1}\nb:\n  '<<': *d\n").tree["b"] == {"<<": {"a": 1}}


def test_every_value_has_its_place():
    document = yaml_text.read("a: 1\nb:\n  - x\n  - {c: 2}\n", "r.yaml")
    assert document.place(("b", 1, "c")) == "r.yaml:4"
    assert document.place(("b", 1, "nothing")) == "r.yaml:4"
    assert document.place(("a",)) == "r.yaml:1"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "twice"),
        ("a:\n  b: 1\n  b: 1\n", 3, "a.b"),
        ("a: !!python/object/apply:os.system ['true']\n", 1, "not allowed"),
        ("a: &x [*x]\n", 1, "itself"),
        ("a: 1\n b: 2\n", 2, "YAML"),
        ("a:\n\t- b\n", 2, "tab"),
        ("? [a]\n: 1\n", 1, "plain text"),
        ("d: &d {a: 1}\nb:\n  <<: *d\n  <<: *d\n", 4, "'b.<<' is written twice (first at line 3)"),
        ("d: &d {a: 1}\nb:\n  <<: *d\n  c: 1\n  c: 2\n", 5, "twice"),
        ("d: &d\n  a: 1\n  a: 2\nb:\n  <<: *d\n", 3, "twice"),
        ("d: &d [1]\nb:\n  <<: *d\n", 1, "takes over the keys of a mapping"),
        ("b:\n  <<: 1\n", 2, "takes over the keys of a mapping"),
        ("a: &x\n  <<: *x\n", 1, "itself"),
    ],
)
def test_bad_yaml_names_its_line(text, line, says):
    with pytest.raises(RecipeError) as caught:
        yaml_text.read(text, "r.yaml")
    assert caught.value.where == f"r.yaml:{line}"
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("16k", 16000), ("2M", 2_000_000), ("1.5M", 1_500_000), ("10%", 0.1), ("1e15", 1e15), ("7", 7), ("2e-4", 2e-4)],
)
def test_numbers_as_people_write_them(text, value):
    assert parse_number(text) == value


@pytest.mark.parametrize("text", ["", "k", "16q", "1 2", "ten", "16 kk", "--1"])
def test_what_is_no_number(text):
    assert parse_number(text) is None
