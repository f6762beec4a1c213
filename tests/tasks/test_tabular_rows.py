"""Rows of tables as texts: what a column is, what is learnt of training rows, how cells are written and read back, what
is wrong with a row.
"""

from __future__ import annotations

import datetime
import math
import random
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tunewright.conformance.bench import seeded
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.data.tables import as_cells, cell_of
from tunewright.recipe.tables import TableSpec
from tunewright.tasks import _table, get_task

READER = tiny.tokenizer(encoder=True, chat=False)
each = settings(max_examples=60, deadline=None)


def layout(rows: list[dict[str, Any]], features: Any = None, types: Any = None, **how: Any) -> dict[str, Any]:
    spec = TableSpec(types=types or {}, **how)
    columns = _table.learn(rows, features, spec.types, spec.bins)
    made = spec.model_copy(update={"learnt": {"columns": columns}}).layout()
    assert made is not None
    return made


def encoded(made: dict[str, Any], cells: dict[str, Any], task: str = "tabular-classification", **how: Any) -> Any:
    given_ = {"labels": ("no", "yes"), "max_length": 200, **how}
    record = Record(as_cells({**cells, "label": given_.pop("label", "yes")}, {}, None), id="t.csv:2", source="s")
    return get_task(task).encode(record, READER, EncodeOptions(table=made, **given_))


def text(row: Any) -> str:
    return str(READER.decode(row.input_ids, skip_special_tokens=True))


def read_back(said: str, made: dict[str, Any]) -> dict[str, str]:
    """The values that a row's text was made of, by column; cells that were left out are not among them."""
    names = {column["shown"]: column["name"] for column in made["columns"]}
    split = (part.partition(": ") for part in said.removesuffix(";").split("; "))
    return {names[shown]: value for shown, _, value in split}


ROWS = [
    {
        "age": 20 + i,
        "job": ("clerk", "cook")[i % 2],
        "since": f"2020-01-{i + 1:02}",
        "note": f"a long note no {i} of it",
    }
    for i in range(8)
]

# -- what a column is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2.5, "3"], "number"),
        (["1e3", " 7 ", "-0.5"], "number"),
        (["007", "010", "100"], "category"),  # codes
        ([True, False], "category"),
        (["1"] * 19 + ["x"], "number"),  # a slip
        (["1", "x"], "category"),
        (["2020-01-01", "2021-12-31 10:00"], "date"),
        (["2020-13-01", "2020-01-01"], "category"),
        (["red", "green"] * 30, "category"),
        ([f"w{i}" for i in range(30)], "text"),
        (["four words are few", "but five words are text"], "text"),
        (["1_000", "2"], "category"),
        (["1", "NA", "?"], "number"),
        ([], "category"),
    ],
)
def test_values_tell_what_a_column_holds(values: list[Any], kind: str) -> None:
    assert _table.kind_of(values) == kind


def test_types_may_be_said_and_are_told() -> None:
    made = layout(ROWS)
    assert _table.described(made) == "age: number, job: category of 2, since: date, note: text"
    other = layout(ROWS, types={"age": "category"})
    assert _table.described(other).startswith("age: category of 8, job")
    assert [c["name"] for c in layout(ROWS, ["job", "age"])["columns"]] == ["job", "age"]
    for features, types in ((["jobs"], {}), (None, {"jobs": "text"})):
        with pytest.raises(RowProblem, match="'jobs'"):
            layout(ROWS, features, types)


def test_columns_that_teach_nothing_are_told() -> None:
    rows = [
        {
            "id": 100 + i,
            "code": f"k{i}",
            "same": "x",
            "none": None,
            "size": i * 3.25,
            "far": i * i * 9,
            "n": i % 3,
            "note": f"the note {i}",
        }
        for i in range(30)
    ]
    told = list(_table.faults(layout(rows)))
    assert [t.split("'")[1] for t in told] == ["id", "code", "same", "none"]
    assert "another value in every training row" in told[0] and "data.features" in told[0]
    assert "the same value" in told[2] and "no value" in told[3]
    assert not list(_table.faults(layout(rows[:19], ["id", "code"])))  # of few rows it may be chance


@each
@given(st.lists(st.floats(-1e9, 1e9, allow_subnormal=False), min_size=1, max_size=40), st.randoms(), st.integers(2, 12))
def test_statistics_are_the_same_in_any_order(numbers: list[float], rng: random.Random, bins: int) -> None:
    rows = [{"x": x, "c": str(int(x) % 3)} for x in numbers]
    mixed = rows[:]
    rng.shuffle(mixed)
    first, second = (_table.learn(r, None, {"x": "number"}, bins) for r in (rows, mixed))
    assert first == second
    column = first[0]
    assert column["mean"] == pytest.approx(np.mean(numbers), rel=1e-9, abs=1e-6)
    if np.std(numbers) > 1e-3 + 1e-9 * abs(np.mean(numbers)):
        assert column["std"] == pytest.approx(np.std(numbers), rel=1e-6)
    assert column["std"] > 0 and column["edges"] == sorted(set(column["edges"])) and len(column["edges"]) < bins


def test_bins_hold_about_as_many_each() -> None:
    numbers = list(np.random.default_rng(0).normal(size=1000))
    made = layout([{"x": x} for x in numbers], numbers="bins", bins=5)
    said = [_table.value_of(x, made["columns"][0], made) for x in numbers]
    assert {s: said.count(s) for s in sorted(set(said))} == {f"{k} of 5": 200 for k in range(1, 6)}
    few = layout([{"x": x} for x in [0] * 8 + [1, 2]], numbers="bins", bins=5)
    assert [_table.value_of(x, few["columns"][0], few) for x in (0, 1, 2)] == ["1 of 2", "2 of 2", "2 of 2"]
    assert _table.value_of(1e9, made["columns"][0], made) == "5 of 5"  # beyond what was learnt from
    assert _table.value_of(-1e9, made["columns"][0], made) == "1 of 5"


# -- how cells are written ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "digits", "wanted"),
    [
        (39, 2, "39"),
        (1234567, 2, "1234567"),
        (1234.567, 2, "1235"),
        (0.123456, 4, "0.1235"),
        (0.00098765, 2, "0.00099"),
        (-2.5, 4, "-2.5"),
        (6.02214e23, 4, "6.022e+23"),
        (1.6e-19, 4, "1.6e-19"),
        (-1e-15, 1, "-1e-15"),
        (0.0, 4, "0"),
        (99.999, 3, "100"),
    ],
)
def test_numbers_keep_their_significant_digits(number: float, digits: int, wanted: str) -> None:
    assert _table.written(number, digits) == wanted


@each
@given(st.floats(-1e300, 1e300, allow_subnormal=False), st.integers(1, 15))
def test_a_number_is_read_back_to_its_digits(number: float, digits: int) -> None:
    said = float(_table.written(number, digits))
    assert math.isclose(said, number, rel_tol=0.51 * 10 ** (1 - digits) + 1e-15, abs_tol=1e-300)


cells = st.one_of(
    st.none(),
    st.booleans(),
    st.text(max_size=12),
    st.sampled_from(["a; b: c", "x;", ";", "a; b;", "missing", " two  spaces ", "line\nend", "b: 1; c: 2"]),
)


@each
@given(
    st.lists(st.text(max_size=5).map(lambda t: t + "n"), min_size=1, max_size=4, unique=True),
    st.data(),
    st.sampled_from(["leave_out", "write"]),
)
def test_every_value_comes_back_from_the_text(names: list[str], data: Any, missing: str) -> None:
    row = {name: data.draw(cells) for name in names}
    made = layout([row], missing=missing, types=dict.fromkeys(names, "text"))
    try:
        parts = _table.parts_of(row, made)
    except RowProblem as problem:
        assert problem.field == "row" and all(_table.is_empty(v) for v in row.values())
        return
    back = read_back(_table.text_of(parts), made)
    for name, value in row.items():
        if _table.is_empty(value):
            assert back.get(name) == (_table.MISSING if missing == "write" else None)
        else:  # spaces are one each, and what ends a cell is a comma inside it
            wanted = str(value).lower() if isinstance(value, bool) else " ".join(value.split()).replace("; ", ", ")
            assert back[name] == wanted
    said = _table.text_of(parts)
    for (column, value), start, end in zip(parts, *(lambda p: (p[:-1], p[1:]))(_table.places_of(parts)), strict=True):
        assert said[start:end].strip() == f"{column['shown']}: {value};"


def test_names_that_look_alike_in_texts_stay_apart() -> None:
    made = layout([{"a:b": 1, "a b": 2, "": 3, "a  b": 4}])
    assert [c["shown"] for c in made["columns"]] == ["a b", "a b'", "column 3", "a b''"]
    row = {"a:b": 5, "a b": 6, "": 7, "a  b": 8}
    back = read_back(_table.text_of(_table.parts_of(row, made)), made)
    assert back == {name: str(value) for name, value in row.items()}


def test_a_row_is_written_cell_by_cell() -> None:
    made = layout(ROWS)
    row = encoded(made, {"age": 39.0, "job": "cook", "since": datetime.date(2021, 5, 1), "note": "so  it\nis"})
    assert READER.decode(row.input_ids[1:-1]) == READER.decode(
        READER.encode("age: 39; job: cook; since: 2021-05-01; note: so it is;")[1:-1]
    )
    assert row.fields["cells"] == [39.0, "cook", 18748.0, "so it is"]
    assert row.label == 1 and row.fields["reference"] == "yes"
    some = {"age": None, "job": "", "since": float("nan"), "note": "x"}
    assert list(encoded(made, some).input_ids) == READER.encode("note: x;")
    written = encoded(layout(ROWS, missing="write"), some)
    assert list(written.input_ids) == READER.encode("age: missing; job: missing; since: missing; note: x;")
    assert encoded(made, some).fields["cells"] == [None, None, None, "x"]
    assert list(encoded(layout(ROWS, ["age"], digits=2), {"age": "0.5678"}).input_ids) == READER.encode("age: 0.57;")
    assert list(encoded(layout(ROWS, ["age"], numbers="bins", bins=4), {"age": 27}).input_ids) == READER.encode(
        "age: 4 of 4;"
    )


def test_a_text_that_a_method_changed_is_read_in_the_cells_place() -> None:
    made = layout(ROWS, ["job"])
    record = Record(as_cells({"job": "cook", "label": "no"}, {}, None), id="r")
    task, options = get_task("tabular-classification"), EncodeOptions(table=made, labels=("no", "yes"))
    assert list(task.encode(record, READER, options).input_ids) == READER.encode("job: cook;")
    changed = task.encode(record.replace(text="a cook"), READER, options)
    assert list(changed.input_ids) == READER.encode("a cook") and "cells" not in changed.fields
    made_row = task.encode(Record({"text": "all made", "label": "no"}, id="m"), READER, options)
    assert list(made_row.input_ids) == READER.encode("all made")


def test_categories_that_no_training_row_has_are_read() -> None:
    assert "pilot" in text(encoded(layout(ROWS, ["job"]), {"job": "pilot"}))


# -- what is too long --------------------------------------------------------------------------------------------------


def test_long_rows_are_cut_by_cell() -> None:
    made = layout(ROWS, ["age", "note", "job"])
    cells_ = {"age": 3, "note": "word " * 60, "job": "clerk"}
    whole = encoded(made, cells_, max_length=400)
    row = encoded(made, cells_, max_length=40)
    assert "cut" not in whole.fields and row.fields["cut"] and 30 < len(row.input_ids) <= 40
    assert text(row).startswith("age") and text(row).replace(" ", "").endswith("job:clerk;")
    short = encoded(made, {**cells_, "note": "word"}, max_length=14)
    assert short.fields["cut"] and "job" not in text(short) and "age" in text(short)
    assert len(encoded(made, cells_, max_length=40, truncation="drop").input_ids) > 40  # what is left out is left whole


# -- what is wrong with a row ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "field", "says"),
    [
        ({"age": "old", "job": "cook", "since": None, "note": "x"}, "age", "'old' is no number"),
        ({"age": 1, "job": "cook", "since": "May", "note": "x"}, "since", "'May' is no date"),
        ({"age": 1, "since": None, "note": "x"}, "job", "no column 'job'"),
        ({"age": None, "job": None, "since": "NA", "note": " "}, "row", "every cell that is read is empty"),
        ({"age": True, "job": "a", "since": None, "note": "x"}, "age", "is no number"),
    ],
)
def test_a_bad_row_is_told(cells: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(RowProblem, match=says) as caught:
        encoded(layout(ROWS), cells)
    assert caught.value.field == field and caught.value.remedy


def test_what_is_no_table_is_told() -> None:
    task, options = get_task("tabular-classification"), EncodeOptions(labels=("no", "yes"))
    with pytest.raises(RowProblem, match="nobody says"):
        task.encode(Record({"cells": {}, "label": "no"}, id="r"), READER, options)
    with pytest.raises(RowProblem, match="not read as one of a table"):
        task.encode(Record({"label": "no"}, id="r"), READER, EncodeOptions(labels=("no",), table=layout(ROWS)))


def test_cells_are_plain_values() -> None:
    assert (
        cell_of(np.float32(0.5), "x") == 0.5 and cell_of(np.int64(3), "x") == 3 and cell_of(np.bool_(True), "x") is True
    )
    assert cell_of(Decimal("1.25"), "x") == 1.25 and cell_of(float("nan"), "x") is None and cell_of("  ", "x") is None
    assert cell_of(datetime.datetime(2020, 1, 2), "x") == "2020-01-02"
    assert cell_of(datetime.datetime(2020, 1, 2, 3), "x") == "2020-01-02 03:00:00"
    for bad in ([1], {"a": 1}, b"x"):
        with pytest.raises(RowProblem, match="a number, a text or a date"):
            cell_of(bad, "x")


def test_the_target_and_other_names_of_columns() -> None:
    row = {"Age": 3, "job": "cook", "label": "old", "income": "high"}
    made = as_cells(row, {"label": "income", "age": "Age"}, None)
    assert made["label"] == "high" and made["cells"] == {"age": 3, "job": "cook", "label": "old"}
    assert made["text"] == "age: 3; job: cook; label: old;"
    assert as_cells(row, {"label": "income"}, ["job"])["cells"] == {"job": "cook"}
    assert as_cells(row, {}, None, "income") == made | {
        "cells": {"Age": 3, "job": "cook", "label": "old"},
        "text": ("Age: 3; job: cook; label: old;"),
    }
    for columns, field in (({"label": "incom"}, "incom"), ({"age": "Years"}, "Years"), ({"job": "Age"}, "job")):
        with pytest.raises(RowProblem) as caught:
            as_cells(row, columns, None)
        assert caught.value.field == field


# -- a number a row ----------------------------------------------------------------------------------------------------


def test_a_number_is_standardised_for_learning_and_told_in_its_own_unit() -> None:
    task = get_task("tabular-regression")
    made = {**layout(ROWS, ["job"]), "target": {"mean": 100.0, "std": 20.0}}
    rows = [encoded(made, {"job": "cook"}, "tabular-regression", label=y, labels=None) for y in (150.0, "80")]
    assert [r.fields["target"] for r in rows] == [[2.5], [-1.0]] and [r.fields["reference"] for r in rows] == [
        "150",
        "80",
    ]
    model = seeded(lambda: tiny.bert_classifier(labels=1)).eval()
    batch = task.collate(rows)
    with torch.no_grad():
        out = task.forward(model, batch)
    expected = (out.logits[:, 0] - torch.tensor([2.5, -1.0])) ** 2
    torch.testing.assert_close(task.loss(out, batch).value, expected)
    said = [float(a) for a, _ in task.predict(out, batch, rows)]
    assert said == pytest.approx((100 + 20 * out.logits[:, 0]).tolist(), abs=6e-4)
    assert [_table.told(z, 0.0, s) for z, s in ((1.23456789, 1.0), (0.5, 2000.0), (-1.23456, 0.01))] == [
        "1.2346",
        "1000",
        "-0.012346",
    ]
    for bad, says in (("many", "no number"), (None, "missing"), (float("inf"), "no number")):
        with pytest.raises(RowProblem, match=says) as caught:
            encoded(made, {"job": "cook"}, "tabular-regression", label=bad, labels=None)
        assert caught.value.field == "label"


# -- cells in another order, and numbers that keep their size ----------------------------------------------------------


def test_cells_change_their_order_by_seed_epoch_and_row_while_training() -> None:
    task = get_task("tabular-classification")
    row = encoded(layout(ROWS, shuffle=True), ROWS[0])
    plain = encoded(layout(ROWS), ROWS[0])
    assert list(row.input_ids) == list(plain.input_ids)

    def ids(**how: Any) -> list[int]:
        return task.collate([row], **how).inputs["input_ids"][0].tolist()

    assert ids() == list(row.input_ids)  # measuring sees the order of the columns
    drawn = {tuple(ids(epochs=[e])) for e in range(8)}
    assert len(drawn) > 3 and all(sorted(d) == sorted(row.input_ids) for d in drawn)
    assert all((d[0], d[-1]) == (row.input_ids[0], row.input_ids[-1]) for d in drawn)
    for one in drawn:
        said = READER.decode(one[1:-1]).replace(" ", "")
        assert sorted(said.split(";")) == sorted(text(plain).replace(" ", "").split(";"))
    assert ids(epochs=[3]) == ids(epochs=[3]) and any(ids(epochs=[e], seed=1) != ids(epochs=[e]) for e in range(4))
    beside = task.collate([plain, row], epochs=[0, 5]).inputs["input_ids"]
    assert beside[1, : len(row.input_ids)].tolist() == ids(epochs=[5]) and beside[0].tolist()[
        : len(plain.input_ids)
    ] == list(plain.input_ids)


def test_numbers_scale_the_embeddings_of_their_cells() -> None:
    task = get_task("tabular-classification")
    rows = [{"n": n, "c": "cook"} for n in (0.0, 10.0)]  # mean 5, deviation 5
    made = layout(rows, numbers="scaled", shuffle=True)
    row, middle = encoded(made, rows[1]), encoded(made, {"n": 5, "c": "cook"})
    factors = row.fields["factors"]
    assert len(factors) == len(row.input_ids) and set(factors) == {1.0, 1.25} and factors[0] == factors[-1] == 1.0
    assert set(middle.fields["factors"]) == {1.0}
    assert set(encoded(made, {"n": 1e9, "c": "cook"}).fields["factors"]) == {1.0, 1.75}
    model = seeded(lambda: tiny.bert_classifier(labels=2)).eval()
    plain = encoded(layout(rows), rows[1])
    with torch.no_grad():
        batch = task.collate([row, middle])
        out = task.forward(model, batch)
        table = model.get_input_embeddings()(torch.tensor([list(row.input_ids)])) * torch.tensor(factors)[None, :, None]
        wanted = model(inputs_embeds=table).logits
        unscaled = task.forward(model, task.collate([plain])).logits
        again = task.forward(model, task.collate([plain])).logits
    torch.testing.assert_close(out.logits[:1], wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(unscaled, wanted, atol=1e-4) and torch.equal(unscaled, again)  # the hook is gone
    own = dict(zip(row.input_ids, factors, strict=True))
    drawn = [task.collate([row], epochs=[e]) for e in range(8)]
    assert any(b.inputs["input_ids"][0].tolist() != list(row.input_ids) for b in drawn)
    for one in drawn:  # of tokens that occur once
        for token, factor in zip(one.inputs["input_ids"][0].tolist(), one.fields["factors"][0].tolist(), strict=True):
            assert list(row.input_ids).count(token) > 1 or factor == own[token]


def test_numbers_that_begin_with_a_zero_make_a_column_of_names():
    codes = [str(n) for n in range(10_000, 10_030)]
    assert _table.kind_of(codes) == "number"
    assert _table.kind_of([*codes, "03086"]) != "number" and _table.kind_of([*codes, "0.5", "0"]) == "number"
