"""RS-GPT4V: what is said of scenes that are known, its forms and options, a model that writes the whole, mismatches."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import seeing
from tests.methods.making import Told, made
from tunewright.contract.made import Made
from tunewright.contract.records import Record
from tunewright.contract.writer import Reply
from tunewright.data.synthesize._scene import FACING, Scene, Thing, counted, relation, scene_of
from tunewright.data.synthesize.rs_gpt4v import DETAIL, MERGE, RSGPT4V, THINGS, WHOLE
from tunewright.errors import DataError
from tunewright.recipe import Recipe
from tunewright.runs.run import run

HARBOUR = {
    "image": "a.png",
    "width": 100,
    "height": 80,
    "text": "a harbour with ships",
    "label": "harbour",
    "objects": {
        "bbox": [[5, 5, 20, 20], [60, 50, 30, 20], [40, 30, 10, 10], [35, 25, 60, 50]],
        "category": ["ship", "ship", "buoy", "quay"],
        "attributes": [["small", "red"], "large", None, None],
    },
}
ROWS = [
    Record(HARBOUR, id="h", where="rows.jsonl:1"),
    Record({"image": "b.png", "captions": ["an empty field", "A field."]}, id="f", where="rows.jsonl:2"),
    Record(
        {
            "image": "c.png",
            "label": "car park",
            "width": 9,
            "height": 9,
            "objects": [{"bbox": [0, 0, 3, 3], "label": "car"}],
        },
        id="c",
        where="rows.jsonl:3",
    ),
]
LOCAL = [
    "A small red ship is at the top left.",
    "A buoy is at the centre.",
    "A quay is at the centre.",
    "A large ship is at the bottom right.",
    "The quay is around the large ship.",
    "The buoy is inside the quay.",
    "The small red ship is left of the buoy.",
]
GLOBAL = "The scene is a harbour. In all, there are 2 ships, 1 buoy and 1 quay. A harbour with ships."


def makes(records: list[Record] | None = None, **settings: Any) -> list[Made]:
    method = RSGPT4V.model_validate(settings)
    return method.synthesize(ROWS if records is None else records, {}, random.Random(0))


def said(one: Made) -> list[tuple[str, str]]:
    """(question, answer) of each turn."""
    turns = one.values["messages"]
    return [(q["content"][-1]["text"], a["content"]) for q, a in zip(turns[::2], turns[1::2], strict=True)]


def told(some: list[Made], form: str, id: str = "h") -> list[list[tuple[str, str]]]:
    return [said(m) for m in some if m.verdict == form and m.of.id == id]


# -- scenes ------------------------------------------------------------------------------------------------------------


def test_a_scene_is_told_from_its_parts_to_the_whole() -> None:
    ((asked, answer),) = told(makes(), "description")[0]
    assert asked == DETAIL
    assert answer == " ".join([*LOCAL, GLOBAL])
    assert told(makes(relations=0), "description")[0][0][1] == " ".join([*LOCAL[:4], GLOBAL])
    assert told(makes(), "description", "f") == [[(DETAIL, "An empty field.")]]
    assert told(makes(), "description", "c")[0][0][1].endswith("The scene is a car park. In all, there is 1 car.")


@given(st.lists(st.tuples(*[st.integers(0, 9)] * 4), min_size=2, max_size=2))
def test_a_relation_told_from_the_other_thing_is_its_opposite(boxes: list[tuple[int, ...]]) -> None:
    a, b = (Thing("x", (), (x / 10, y / 10, (x + w + 1) / 10, (y + h + 1) / 10)) for x, y, w, h in boxes)
    if a.middle != b.middle:  # of two at one place that do not hold each other neither side is right
        how = relation(a, b)
        equal = abs(abs(a.middle[0] - b.middle[0]) - abs(a.middle[1] - b.middle[1])) < 1e-9
        assert equal or relation(b, a) == FACING[how]
        if how in ("left of", "right of"):
            assert (a.middle[0] < b.middle[0]) == (how == "left of")
        if how in ("above", "below"):
            assert (a.middle[1] < b.middle[1]) == (how == "above")


def test_things_of_one_name_are_told_apart_by_their_places_or_not_at_all() -> None:
    boxes = [(0.0, 0.0, 0.1, 0.1), (0.2, 0.0, 0.3, 0.1), (0.8, 0.8, 0.9, 0.9)]
    scene = Scene(tuple(Thing("car", (), box) for box in boxes), (), "")
    assert [scene.called(t) for t in scene.things] == ["the car at the top left"] * 2 + ["the car at the bottom right"]
    assert scene.told_apart == scene.things[2:] and scene.pairs(9) == []
    assert [counted(2, kind) for kind in ("ship", "quay", "ferry", "bus", "beach")] == [
        *("2 ships", "2 quays", "2 ferries", "2 buses", "2 beaches")
    ]


def test_boxes_are_read_in_their_format_and_by_the_pictures_own_size(tmp_path: Path) -> None:
    seeing.picture(0, height=40, width=20).save(tmp_path / "p.png")
    objects = {"bbox": [[10, 20, 20, 40]], "category": ["car"]}
    row = Record({"image": "p.png", "objects": objects}, id="p", base=str(tmp_path))
    (thing,) = scene_of(row, "pascal_voc").things
    assert thing.box == (0.5, 0.5, 1, 1) and thing.place == "bottom right"
    shares = {"bbox": [[0.5, 0.5, 0.2, 0.2]], "category": ["car"]}
    (middle,) = scene_of(row.replace(objects=shares), "yolo").things
    assert middle.place == "centre" and middle.hundredths == "[40, 40, 60, 60]"
    coco, corners = (
        told(
            makes([row.replace(objects={**objects, "bbox": [[2, 5, 9, 30]]})], forms=["pairs"], questions=9, boxes=b),
            "pairs",
            "p",
        )
        for b in ("coco", "pascal_voc")
    )
    assert coco != corners


# -- forms and options -------------------------------------------------------------------------------------------------


def test_pairs_are_drawn_of_what_can_be_asked_and_right() -> None:
    (harbour, field, park) = (told(makes(questions=99, forms=["pairs"]), "pairs", i) for i in "hfc")
    asked = dict(pair for (pair,) in harbour)
    assert asked["What kind of scene is it?"] == "harbour"
    assert asked["Describe the picture in a sentence."] == "a harbour with ships"
    assert asked["How many ships are there?"] == "2" and asked["How many quays are there?"] == "1"
    assert "What is the ship like?" not in asked  # there are two
    assert asked["Where is the large ship?"] == "at the bottom right"
    assert asked["What is the box of the large ship, in hundredths of the picture?"] == "[60, 62, 90, 88]"
    assert asked["Is there a car?"] == "no"
    (there,) = [q for q, a in asked.items() if a == "yes"]
    assert there in {"Is there a ship?", "Is there a buoy?", "Is there a quay?"}
    lie = {q: a for q, a in asked.items() if q.startswith("How does")}
    assert len(lie) == 4  # of six pairs as many as there are things, the nearest
    for question, answer in lie.items():
        a, b = re.fullmatch("How does the (.*) lie to the (.*)[?]", question).groups()  # type: ignore[union-attr]
        things = {t.name: t for t in scene_of(ROWS[0], "coco").things}
        assert answer == f"{relation(things[a], things[b])} it"
    assert Counter(a for ((_, a),) in field) == {"an empty field": 1, "A field.": 1, "no": 1}
    assert ("Is there a car?", "yes") in [pair for (pair,) in park]
    some = makes(questions=2, forms=["pairs"])
    assert [len(told(some, "pairs", i)) for i in "hfc"] == [2, 2, 2]
    assert all(pair in harbour for pair in told(some, "pairs"))
    red = Record(
        {**HARBOUR, "objects": {"bbox": [[5, 5, 9, 9]], "category": ["ship"], "attributes": [["small", "red"]]}}, id="h"
    )
    assert ("What is the ship like?", "small and red") in [p for (p,) in told(makes([red], questions=99), "pairs")]


def test_turns_begin_with_what_there_is_and_end_on_the_whole() -> None:
    (harbour,), (field,), _ = (told(makes(forms=["turns"], questions=3), "turns", i) for i in "hfc")
    assert harbour[0] == (THINGS, "There are 2 ships, 1 buoy and 1 quay.") and harbour[-1] == (WHOLE, GLOBAL)
    assert len(harbour) == 5
    assert field == [(field[0]), (WHOLE, "An empty field.")] and field[0][1] == "no"


def test_a_picture_is_shown_once_and_columns_of_annotations_go() -> None:
    several = ROWS[0].replace(images=["a.png"])
    del several["image"]
    for one in [*makes(), *makes([several])]:
        parts = [p for t in one.values["messages"] if not isinstance(t["content"], str) for p in t["content"]]
        assert [p["type"] for p in parts].count("image") == 1 and parts[0] == {"type": "image"}
        assert one.values.keys() in ({"messages", "image"}, {"messages", "images"})
        assert json.loads(json.dumps(one.values)) == one.values


def test_a_picture_is_found_from_any_folder() -> None:
    for named, found in (
        ("a.png", "/data/a.png"),
        ({"path": "a.png"}, "/data/a.png"),
        ("/b/a.png", "/b/a.png"),
        (["a.png", "b.png"], ["/data/a.png", "/data/b.png"]),
        ([[0, 1], [2, 3]], [[0, 1], [2, 3]]),
        ("data:image/png;base64,AA", "data:image/png;base64,AA"),
    ):
        row = Record({"image": named, "text": "a field"}, id="f", base="/data")
        assert makes([row], forms=["turns"])[0].values["image"] == found


def test_rows_depend_on_no_other_rows_but_for_the_kinds_that_are_asked_for() -> None:
    alone = makes(ROWS[:1], questions=99)
    beside = [m for m in makes(questions=99) if m.of.id == "h"]
    assert {str(said(m)) for m in alone} < {str(said(m)) for m in beside} | {str(said(m)) for m in alone}
    assert told(alone, "description") == told(beside, "description")
    assert str(makes()) == str(makes()) and makes()[0].of is ROWS[0]
    assert RSGPT4V(questions=3).makes(10) == 50 and len(makes(questions=3)) == 15
    assert [m.verdict for m in makes(ROWS[:1], forms=["turns", "description"])] == ["turns", "description"]


# -- a model -----------------------------------------------------------------------------------------------------------

PARAGRAPH = "Two ships and a buoy lie at the quay of a harbour."


def test_a_model_merges_what_is_known_and_is_held_to_the_kinds_that_there_are() -> None:
    def say(prompt: Any, k: int) -> Reply | str:
        if "harbour" in prompt:
            return PARAGRAPH
        return Reply("An empty", False, 2) if "field" in prompt else "A place for vehicles."

    some, writer = made(RSGPT4V(model="start"), ROWS, say)
    assert isinstance(writer, Told) and len(writer.asked) == 3
    asked, limit, temperature = writer.asked[0]
    assert asked == MERGE.format(known="\n".join([*LOCAL, GLOBAL, "a harbour with ships"]))
    assert (limit, temperature) == (256, 0.0)
    assert told(some, "description")[0] == [(DETAIL, " ".join([*LOCAL, PARAGRAPH]))]
    assert told(some, "turns")[0][-1] == (WHOLE, PARAGRAPH)
    fates = {(m.of.id, m.verdict, m.thrown) for m in some}
    assert ("h", "description", "") in fates and ("h", "pairs", "") in fates and ("f", "pairs", "") in fates
    assert ("f", "turns", "cut off") in fates and ("c", "description", "the whole leaves out what there is") in fates
    assert all((m.written is None) == (m.verdict == "pairs") for m in some)
    loose, again = made(RSGPT4V(model="start", named=0.0, max_new_tokens=9, temperature=0.5), ROWS, say)
    assert ("c", "description", "") in {(m.of.id, m.verdict, m.thrown) for m in loose}
    assert isinstance(again, Told) and again.asked[0][1:] == (9, 0.5)
    _, silent = made(RSGPT4V(model="start", forms=["pairs"]), ROWS, say)
    assert isinstance(silent, Told) and silent.asked == []


# -- rows that cannot be used, and a run -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": {"bytes": b"GIF"}}, "the picture is no file"),
        ({"image": None}, "the row has no picture"),
        ({"objects": None, "text": None, "label": None}, "says nothing of its picture"),
        ({"captions": ["fine", " "]}, "captions: it holds"),
        ({"label": 3}, "label: it holds 3"),
        ({"objects": {"bbox": [[0, 0, 1, 1]], "category": [3]}}, r"objects: it holds \[3"),
        ({"objects": {"bbox": [[0, 0, 1]], "category": ["car"]}}, "objects: "),
        ({"objects": {**HARBOUR["objects"], "attributes": ["red"]}}, "objects: it holds"),  # type: ignore[dict-item]
        ({"objects": {"bbox": [[0, 0, 9, 9]], "category": ["car"], "attributes": [[3]]}}, "objects: it holds"),
    ],
)
def test_a_row_that_cannot_be_said_is_one_message(change: dict[str, Any], message: str) -> None:
    row = Record({k: v for k, v in {**HARBOUR, **change}.items() if v is not None}, id="bad", where="rows.jsonl:4")
    with pytest.raises(DataError, match=message) as error:
        makes([*ROWS, row])
    assert "rows.jsonl:4" in str(error.value.where) and error.value.remedy


def test_a_recipe_learns_annotated_pictures_as_conversations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    seeing.llava_next(tmp_path / "llava")
    for name in "abc":
        seeing.picture(ord(name), height=80, width=100).save(tmp_path / f"{name}.png")
    rows = [{"image": f"{n}.png", "label": "fox", "text": "a dog is cold"} for n in "abc"]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    test = [{"prompt": "fox", "completion": "warm", "image": "a.png"}] * 2
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, test)))
    recipe = Recipe(
        model=str(tmp_path / "llava"),
        task="image-text-to-text",
        data={
            "train": [{"path": str(tmp_path / "rows.jsonl"), "name": "rows"}],
            "synthesize": [{"rs-gpt4v": {"questions": 1}}],
            "eval": str(tmp_path / "test.jsonl"),
            "max_length": 512,
        },
        methods=["full"],
        train={"threads": 1, "batch_tokens": 512, "device": "cpu"},
        budget={"steps": 2},
        measurement={"drift_sequences": 1, "drift_tokens": 2, "max_new_tokens": 2, "few_shot": 0},
    )
    run(recipe, tmp_path / "out", quiet=True)
    lines = (tmp_path / "out" / "made" / "main.rows.jsonl").read_text().splitlines()
    assert len(lines) == 9 and all("messages" in json.loads(line) for line in lines)
