"""W2PGNN: sources whose generators are known, against targets of each and of a mixture; every option; mismatches."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest

from tests import small
from tunewright.contract.method import call
from tunewright.contract.records import Record
from tunewright.contract.selected import Selected
from tunewright.data.select.w2pgnn import W2PGNN
from tunewright.errors import DataError
from tunewright.runs.run import run

KINDS = {
    "blocks": np.array([[0.9, 0.05], [0.05, 0.4]]),
    "even": np.array([[0.3]]),
    "core": np.array([[0.8, 0.3, 0.1], [0.3, 0.1, 0.02], [0.1, 0.02, 0.01]]),
}
SMALL: dict[str, Any] = {"keep": 12, "resolution": 12}


def drawn(w: np.ndarray, rng: np.random.Generator, nodes: int) -> dict[str, Any]:
    at = rng.integers(len(w), size=nodes)
    edges = np.nonzero(np.triu(rng.random((nodes, nodes)) < w[np.ix_(at, at)], 1))
    return {"edge_index": np.array(edges).tolist(), "num_nodes": nodes}


def rows(kinds: dict[str, np.ndarray], count: int, seed: int = 0, nodes: tuple[int, int] = (20, 50)) -> list[Record]:
    """`count` graphs of each kind in turn, from a source of that name, of different sizes."""
    rng = np.random.default_rng(seed)
    return [
        Record({**drawn(w, rng, int(rng.integers(*nodes))), "of": k}, id=f"{k}:{i}", source=k)
        for i in range(count)
        for k, w in kinds.items()
    ]


def chosen(some: list[Record], target: list[Record], **settings: Any) -> Selected:
    method = W2PGNN.model_validate({**SMALL, **settings})
    found = call(method, "select", records=some, target=target, rng=random.Random(0))
    assert isinstance(found, Selected)
    return found


@pytest.mark.parametrize("estimator", ["smooth", "gap", "usvt"])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_the_source_that_the_target_was_drawn_from_are_kept(kind: str, estimator: str) -> None:
    some = rows(KINDS, 12)
    found = chosen(some, rows({kind: KINDS[kind]}, 12, seed=1), estimator=estimator)
    assert {some[i].source for i in found.indices} == {kind} and len(found.indices) == 12
    least = {k: found.scores["source"][i] for i, k in enumerate(KINDS)}
    assert min(least, key=lambda k: least[k]) == kind
    shares = {k: found.scores["weight"][i] for i, k in enumerate(KINDS)}
    assert max(shares, key=lambda k: shares[k]) == kind and sum(shares.values()) == pytest.approx(1)
    (feasibility,) = set(found.scores["feasibility"])
    assert -least[kind] - 1e-9 <= feasibility <= 0
    assert [bool(r) for r in found.reasons or ()] == [r.source != kind for r in some]


@pytest.mark.slow
def test_what_a_combination_gives_is_feasible_and_what_none_gives_is_less_so() -> None:
    some = rows(KINDS, 12)
    mixed = 0.5 * np.kron(KINDS["even"], np.ones((6, 6))) + 0.5 * np.kron(KINDS["core"], np.ones((2, 2)))
    between, ring = chosen(some, rows({"mixed": mixed}, 30, 1)), chosen(some, rows({"full": np.array([[0.95]])}, 12, 1))
    near, far = between.scores["feasibility"][0], ring.scores["feasibility"][0]
    assert near > -0.1 and far < -0.3
    shares = dict(zip(KINDS, between.scores["weight"], strict=False))
    assert shares["even"] > 0.2 and shares["core"] > 0.2 and shares["blocks"] < 0.4
    assert near >= -min(between.scores["source"]) - 1e-9


def test_of_one_source_the_heap_that_is_like_the_target_comes_first() -> None:
    some = [Record(dict(r), id=r.id, source="all") for r in rows(KINDS, 12)]
    found = chosen(some, rows({"core": KINDS["core"]}, 12, 1), clusters=3)
    assert len(set(found.scores["source"])) == 1 and set(found.scores["weight"]) == {1.0}
    assert [some[i]["of"] for i in found.indices].count("core") >= 11
    assert len(set(found.scores["distance"])) == 3
    whole = chosen(some, rows({"core": KINDS["core"]}, 12, 1), clusters=1)
    assert list(whole.indices) == list(range(12)) and whole.scores["distance"] == whole.scores["source"]


def test_a_column_says_the_source_where_it_is_named() -> None:
    some = [Record(dict(r), id=r.id, source="all") for r in rows(KINDS, 12)]
    target = rows({"even": KINDS["even"]}, 12, 1)
    found = chosen(some, target, sources="of")
    assert {some[i]["of"] for i in found.indices} == {"even"}
    assert found.scores == chosen(rows(KINDS, 12), target).scores
    with pytest.raises(DataError, match="no column 'from'"):
        chosen(some, target, sources="from")


def test_options_change_what_is_found() -> None:
    some, target = rows(KINDS, 6), rows({"core": KINDS["core"]}, 6, 1)
    told = [{}, {"resolution": 6}, {"most_nodes": 8}, {"estimator": "gap"}, {"estimator": "usvt"}, {"clusters": 2}]
    found = [tuple(tuple(v) for v in chosen(some, target, **t).scores.values()) for t in told]
    assert len(set(found)) == len(told)


def test_of_a_large_graph_as_many_nodes_are_drawn_as_are_looked_at() -> None:
    rng, w = np.random.default_rng(0), KINDS["blocks"]
    large = [Record(drawn(w, rng, 300), id=f"{i}", source="large") for i in range(6)]
    found = chosen(large + rows({"even": KINDS["even"]}, 6), rows({"t": w}, 6, 1), most_nodes=40, keep=6)
    assert sorted(found.indices) == list(range(6)) and found.scores["source"][0] < 0.15


def test_either_form_of_edges_is_the_same_graph() -> None:
    some, target = rows(KINDS, 4), rows({"core": KINDS["core"]}, 4, 1)
    pairs = []
    for r in some:
        u, v = r["edge_index"]
        edges = [[b, a] for a, b in zip(u, v, strict=True)]  # the other way, and some twice
        told = {"edges": [*edges, *edges[:2], [0, 0]], "num_nodes": float(r["num_nodes"]), "edge_index": None}
        pairs.append(Record(told, id=r.id, source=r.source))
    assert chosen(some, target) == chosen(pairs, target)
    two = [Record({"edges": [[0, 1], [1, 2]]}, id="a"), Record({"edge_index": [[0, 1], [1, 2]]}, id="b")]
    assert chosen(two, two, keep=1).scores["distance"][0] == chosen(two[::-1], two[:1], keep=1).scores["distance"][0]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "CCO"}, "the row has no graph"),
        ({"edge_index": [[0, 1], [1]]}, "no pairs of node numbers"),
        ({"edge_index": [[0, 1], [1, 2], [2, 0]]}, "no pairs of node numbers"),
        ({"edges": [[0, 1, 2]]}, "no pairs of node numbers"),
        ({"edges": [[0.5, 1.0]]}, "no pairs of node numbers"),
        ({"edges": [[-1, 1]]}, "no pairs of node numbers"),
        ({"edges": "0 1"}, "no pairs of node numbers"),
        ({"edges": [[0, 4]], "num_nodes": 4}, "num_nodes is 4, and its edges name 5 nodes"),
        ({"edges": []}, "the graph has no edge, and nothing says how many nodes it has"),
        ({"edges": [[0, 4]], "num_nodes": 4.0}, "num_nodes is 4, and its edges name 5 nodes"),
        ({"edges": [[0, 4]], "num_nodes": 5.5}, "num_nodes is 5.5, and its edges name 5 nodes"),
        ({"edges": [[0, 1]], "num_nodes": "many"}, "num_nodes is 'many'"),
    ],
)
def test_a_row_that_holds_no_graph_is_one_message(row: dict[str, Any], said: str) -> None:
    fine = rows(KINDS, 2)
    with pytest.raises(DataError, match=said) as error:
        chosen([*fine, Record(row, id="bad", where="pool.jsonl:7")], fine)
    assert error.value.where == "pool.jsonl:7" and error.value.remedy
    with pytest.raises(DataError, match=said):
        chosen(fine, [Record(row, id="bad")])
    lonely = Record({"edges": [], "num_nodes": 3}, id="no edges")
    assert len(chosen([*fine, lonely], fine).indices) == 7


def test_a_recipe_selects_rows_by_their_graphs_and_resumes_with_what_it_selected(tmp_path: Any) -> None:
    small.write_inputs(tmp_path, train=2, test=2)

    def written(name: str, some: list[Record]) -> str:
        told = [{"prompt": "lost card", "completion": "cash fee", **r} for r in some]
        (tmp_path / name).write_text("\n".join(map(json.dumps, told)))
        return name

    data = {
        "train": [written("pool.jsonl", rows(KINDS, 6))],
        "validation": written("target.jsonl", rows({"core": KINDS["core"]}, 6, 1)),
        "select": [{"w2pgnn": {"keep": 6, "sources": "of", "resolution": 8}}],
        "eval": "test.jsonl",
    }
    stages = [{"name": "main", "methods": ["full"], "budget": {"steps": 1}}]
    run(small.write_recipe(tmp_path, data=data, stages=stages), tmp_path / "out", quiet=True)
    lines = (tmp_path / "out" / "selection" / "main.jsonl").read_text().splitlines()[1:]
    kept = [line for line in map(json.loads, lines) if line["rank"] is not None]
    assert len(kept) == 6 and all(line["scores"]["w2pgnn.weight"] > 0.5 for line in kept)
    assert [int(line["id"].rpartition(":")[2]) % 3 for line in kept] == [0] * 6  # every third row is of the core


def test_all_rows_without_a_graph_are_named_as_far_as_there_is_room() -> None:
    good = {"edges": [[0, 1], [1, 2]], "num_nodes": 3}
    wrong = [{"edges": [["a", "b"]]}, {"text": "none"}, {"edges": []}]  # the last one without `num_nodes`
    rows = [good, *wrong, good]
    records = [Record(r, id=f"f:{i}", source="s", where=f"f:{i + 1}") for i, r in enumerate(rows)]
    made = W2PGNN(keep=0.5)
    with pytest.raises(DataError) as told:
        made.select(records, records[:1], random.Random(0))
    said = str(told.value)
    assert "3 of 5 rows have no graph that can be read" in said
    assert all(f"\n  f:{i}: " in said for i in (2, 3)) and "\n  f:1:" not in said and "f:5" not in said
    many = [Record({"text": "none"}, id=f"f:{i}", source="s", where=f"f:{i + 1}") for i in range(50)]
    with pytest.raises(DataError, match="and 30 more") as told:
        made.select(many, records[:1], random.Random(0))
    assert "f:20: " in str(told.value) and "f:21: " not in str(told.value)
    with pytest.raises(DataError, match="^f:2: its edges are no pairs"):
        made.select(records[:2], records[:1], random.Random(0))
