"""RS-GPT4V: annotated pictures become conversations: questions with answers, descriptions from the parts to the whole,
and several turns that build on each other (Xu et al. 2024, arXiv:2406.12479; papers: rs-gpt4v).

A row of `data.train` is a picture (`image` or `images`) with what is known of it: `text` or `captions`, a class in
words (`label`), boxes (`objects`, as in object-detection, each with `attributes` in words if it has some). Out of each
come, as rows of `messages` beside the picture,

    pairs         at most `questions` rows, drawn: its class, a caption, how many of a kind, whether a kind is there
                  (one that is and one that other pictures have), what a thing is like, where it is, its box in
                  hundredths of the picture, how two near things lie to each other
    description   one row: a sentence on each thing and its place, then how at most `relations` nearest pairs lie, and
                  these merged into the whole: class, counts, caption
    turns         one row: what there is, at most `questions` of the questions above on single things and pairs, and the
                  whole at the end

Without `model` all is said by rules, and the whole is what the annotations say together. A `model` is given the local
sentences and the captions and writes the whole, in one paragraph, which goes into `description` and ends `turns`; it
sees no picture. What it writes is thrown away where it is cut off, empty, or names less than a share `named` of the
kinds of things, and with it the row that would end on it.

Defaults: all ours. Draws are keyed by the row.
Differs from the paper in: GPT-4V looks at the pictures there and people correct what it writes; here what is said comes
from annotations. Written from the abstract and the data set's page: questions, their words, places, relations and how
locals are merged are ours. Raises DataError for a row without a picture or annotations, or with one that cannot be
read.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from tunewright.contract.made import Made
from tunewright.contract.method import Method
from tunewright.contract.records import Record
from tunewright.contract.writer import Writer, Written
from tunewright.data.synthesize._scene import FACING, Scene, article, counted, scene_of
from tunewright.errors import DataError

DETAIL = "Describe the picture in detail, from its parts to the whole."
WHOLE = "So what does the picture show as a whole?"
THINGS = "What is there in the picture?"
MERGE = """\
This is what is known of a picture.

{known}

Write one paragraph that describes the picture as a whole, with every thing that is named here and nothing else."""
Form = Literal["pairs", "description", "turns"]
Asked = tuple[str, str]
"""A question and its answer."""


class RSGPT4V(Method):
    """Annotated pictures as questions, descriptions from local to global, and conversations."""

    forms: list[Form] = Field(
        ["pairs", "description", "turns"],
        min_length=1,
        description="what is made of each picture",
        examples=[["turns"]],
    )
    questions: PositiveInt = Field(4, description="pairs of a picture, and turns on its things, at most", examples=[1])
    relations: NonNegativeInt = Field(3, description="pairs of things whose relation a description tells, at most")
    boxes: Literal["coco", "pascal_voc", "albumentations", "yolo"] = Field("coco", description="format of the boxes")
    named: float = Field(
        1.0, ge=0, le=1, description="share of the kinds of things that a model's paragraph has to name"
    )
    max_new_tokens: PositiveInt = Field(256, description="longest paragraph, in tokens", examples=[2])
    temperature: NonNegativeFloat = Field(0.0, description="at which paragraphs are drawn", examples=[1.0])
    model: str | None = Field(
        None,
        description="what writes the whole: one of the recipe's `models`, start (of the stage), base, previous or "
        "stages.NAME; none: rules",
        examples=["start"],
    )

    tasks: ClassVar[tuple[str, ...] | None] = ("image-text-to-text",)
    papers: ClassVar[tuple[str, ...]] = ("rs-gpt4v",)

    def speakers(self) -> tuple[str, ...]:
        return () if self.model is None else (self.model,)

    def makes(self, count: int) -> int | None:
        return count * sum(self.questions if form == "pairs" else 1 for form in self.forms)

    def stand_in(self, record: Record, labels: Sequence[str] | None) -> Record:
        scene = scene_of(record, self.boxes)
        row = _row(record, [(DETAIL, _paragraph([*scene.locally(self.relations), scene.globally()]))])
        return Record(row, id=record.id, where=record.where, source=record.source, base=record.base)

    def synthesize(self, records: Sequence[Record], writers: dict[str, Writer], rng: random.Random) -> list[Made]:
        begin, scenes = rng.getrandbits(64), [scene_of(r, self.boxes) for r in records]
        others = list(dict.fromkeys(kind for scene in scenes for kind in scene.kinds))
        wholes = self._wholes(scenes, writers)
        out = list[Made]()
        for record, scene, (whole, written, thrown) in zip(records, scenes, wholes, strict=True):
            draws = random.Random(f"{begin}/{record.id}")
            local, single = scene.locally(self.relations), _on_things(scene, others, draws)
            for form in dict.fromkeys(self.forms):
                if form == "pairs":
                    every = [*_on_scene(scene), *single]
                    for asked in draws.sample(every, min(self.questions, len(every))):
                        out.append(Made(_row(record, [asked]), record, verdict="pairs"))
                    continue
                told = [(DETAIL, _paragraph([*local, whole]))]
                if form == "turns":
                    some = draws.sample(single, min(self.questions, len(single)))
                    first = [(THINGS, scene.listed())] if scene.things else []
                    told = [*first, *some, (WHOLE, whole)]
                out.append(Made(_row(record, told), record, written, thrown=thrown, verdict=form))
        return out

    def _wholes(self, scenes: Sequence[Scene], writers: dict[str, Writer]) -> list[tuple[str, Written | None, str]]:
        """(the whole, who wrote it, why it is thrown away) of each scene."""
        if self.model is None or set(self.forms) == {"pairs"}:
            return [(scene.globally(), None, "") for scene in scenes]
        known = ["\n".join([*scene.locally(self.relations), scene.globally(), *scene.captions]) for scene in scenes]
        answers = writers[self.model].generate(
            [MERGE.format(known=k) for k in known], max_new_tokens=self.max_new_tokens, temperature=self.temperature
        )
        out = list[tuple[str, Written | None, str]]()
        for scene, (written,) in zip(scenes, answers, strict=True):
            missed = [kind for kind in scene.kinds if kind.lower() not in written.text.lower()]
            thrown = written.nothing or ("" if written.ended else "cut off")
            if not thrown and len(scene.kinds) - len(missed) < self.named * len(scene.kinds):
                thrown = "the whole leaves out what there is"
            out.append((written.text.strip(), written, thrown))
        return out


def _on_scene(scene: Scene) -> list[Asked]:
    """Questions on the picture as a whole that need no boxes."""
    asked = [("What kind of scene is it?", scene.label)] if scene.label else []
    return [*asked, *(("Describe the picture in a sentence.", caption) for caption in scene.captions)]


def _on_things(scene: Scene, others: Sequence[str], rng: random.Random) -> list[Asked]:
    """Questions on single things, kinds and pairs of them."""
    asked = list[Asked]()
    for kind, n in scene.kinds.items():
        asked.append((f"How many {counted(2, kind).removeprefix('2 ')} are there?", str(n)))
    there, absent = list(scene.kinds), [k for k in others if k not in scene.kinds]
    asked += [
        (f"Is there {article(rng.choice(some))}?", said) for some, said in ((there, "yes"), (absent, "no")) if some
    ]
    for thing in scene.told_apart:
        called = scene.called(thing)
        if thing.attributes and scene.kinds[thing.kind] == 1:
            asked.append((f"What is the {thing.kind} like?", " and ".join(thing.attributes)))
        if called == f"the {thing.name}":
            asked.append((f"Where is {called}?", f"at the {thing.place}"))
            asked.append((f"What is the box of {called}, in hundredths of the picture?", thing.hundredths))
    for first, how, second in scene.pairs(len(scene.things)):
        a, how, b = (first, how, second) if rng.random() < 0.5 else (second, FACING[how], first)
        asked.append((f"How does {scene.called(a)} lie to {scene.called(b)}?", f"{how} it"))
    return asked


def _paragraph(some: Sequence[str]) -> str:
    return " ".join(s for s in some if s)


def _row(record: Record, asked: Sequence[Asked]) -> dict[str, Any]:
    """Turns with the picture in the first. DataError for a record without one."""
    column = next((c for c in ("images", "image") if record.get(c) is not None), None)
    if column is None:
        raise DataError(
            "the row has no picture", where=record.where, remedy="name its column: columns: {image: your_column}"
        )
    turns = list[dict[str, Any]]()
    for question, answer in asked:
        text = {"type": "text", "text": question}
        turns.append({"role": "user", "content": [text] if turns else [{"type": "image"}, text]})
        turns.append({"role": "assistant", "content": answer})
    return {"messages": turns, column: _found(record[column], record)}


def _found(picture: Any, record: Record) -> Any:
    """A picture, or a list of them, as it is found from any folder. DataError for one that is in the row as bytes."""
    if isinstance(picture, str):
        return picture if picture.startswith("data:") else str(Path(record.base) / picture)
    if isinstance(picture, Mapping) and picture.get("bytes") is None and isinstance(picture.get("path"), str):
        return _found(picture["path"], record)
    if isinstance(picture, list | tuple):  # of files, or of pixels
        return [_found(one, record) if isinstance(one, str | Mapping) else one for one in picture]
    raise DataError(
        "the picture is no file, and what is made is written as JSON",
        where=record.where,
        remedy="save the pictures as files, and name these in the rows",
    )
