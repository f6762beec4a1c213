"""What was made for a stage: once, when the stage begins, and from then on read from the run's folder.

`made/<stage>.replies.jsonl` is the journal: all that models wrote, a line for each batch (of an address, for each
answer), there before it is used. So a run that is killed makes again what no model is asked for, and goes on behind
the last whole line. When all is made, `made/<stage>.jsonl` says what became of every record: a first line of counts,
writers and cost, then a line for each with its values, what it was made of, who wrote it after which prompt with which
draw, and why it was thrown away where it was. `made/<stage>.rows.jsonl` holds the rows that are trained on (before
selectors), as a user's own file would. progress.json holds the hashes of the last two from the moment at which the
stage's rows count as made.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunewright.contract.batch import Row
from tunewright.contract.made import Made
from tunewright.contract.method import Method, arguments
from tunewright.contract.reader import Reader
from tunewright.contract.records import Record
from tunewright.contract.task import EncodeOptions
from tunewright.contract.writer import Journal, Writer
from tunewright.data.caution import of_data
from tunewright.data.truncate import fit_length
from tunewright.errors import DataError, MethodError
from tunewright.files.cache import cache_folder
from tunewright.files.checkpoint import write_texts
from tunewright.loading.address import RemoteWriter
from tunewright.measure.cost import Cost
from tunewright.models.adapted import Adapted
from tunewright.models.flops import counting
from tunewright.recipe import Recipe
from tunewright.runs.folder import RunFolder, unaltered
from tunewright.runs.foreseen import foresee
from tunewright.runs.making import (
    BASE,
    START,
    Makers,
    check_judges,
    judged_by,
    kept_of,
    made_by,
    place_of,
    resolved,
    rng_of,
    usable,
)
from tunewright.runs.selected import use_rows
from tunewright.runs.session import Making, Session, StageInputs
from tunewright.tasks._segments import ids_of
from tunewright.training import carry
from tunewright.training.writing import LocalWriter, answered

FOLDER = "made"
MADE = "made"
"""Key of progress.json: the hashes of each stage's files."""
PHASE = "generation"
SHOWN = 4
"""Reasons for throwing records away that a sentence names."""
FLAWS = {"empty": "empty", "refused": "refused", "cut": "cut", "uncounted": "whose tokens it did not count"}
"""Counts of answers with something wrong, in words."""
SAID_EVERY = 30.0
Say = Callable[[str], None]


def settle(session: Session, part: StageInputs, folder: RunFolder, cost: Cost, say: Say) -> None:
    """Give a stage the rows that its makers make. Called when the session's model is the stage's start, where they were
    not made before; it is again afterwards. CheckpointError where what was made is no longer what the run noted.
    """
    making = part.making
    if making is None:
        return
    stage, noted = part.spec.name, folder.progress().get(MADE, {})
    about, rows = (folder.path / FOLDER / f"{stage}{end}.jsonl" for end in ("", ".rows"))
    if stage not in noted:
        digests = _make(session, part, making, folder, cost, say)
        folder.note_progress(cost=cost.state(), **{MADE: {**noted, stage: digests}})
        noted = {stage: digests}
    head = json.loads(unaltered(about, noted[stage][0], "what was made").split(b"\n", 1)[0])
    unaltered(rows, noted[stage][1], "what was made")
    dataset = making.read(rows)
    told = _told(head)
    say(told)
    cautions = of_data([dataset], {"eval": session.eval, "validation": session.validation})
    session.notes += [told, *(f"what was made for the stage '{stage}': {text}" for text in cautions)]
    part.making = None
    if part.selection is not None:
        part.selection.pool, part.selection.records = dataset, lambda: making.records_of(dataset, rows)
    use_rows(session, part, dataset)


# -- making ------------------------------------------------------------------------------------------------------------


@dataclass
class Voices:
    """The models of a stage's makers. The session's own model is brought to whatever is asked; `present` says what it
    is now.
    """

    session: Session
    part: StageInputs
    run: Path
    present: str = START

    def bring(self, name: str) -> Adapted:
        """The model of a speaker (resolved), ready to read or write."""
        if name in self.session.recipe.models:
            return self.session.other(name)
        adapted, spec = self.session.adapted, self.part.spec
        if name != self.present:
            start, kept = (spec.start or BASE, spec.carry) if name == START else (name, "frozen")
            carry.begin(adapted, start, kept, self.run, place_of(spec))
            self.present = name
        return adapted

    def writing(self, name: str) -> Adapted:
        """The same for a writer. MethodError where another method wraps it."""
        if name in self.session.recipe.models:
            return self.session.voice(name)
        adapted = self.bring(name)
        if adapted.wrapper is not None:
            assert adapted.wrapped_by is not None
            raise MethodError(
                f"'{adapted.wrapped_by.method['name']}' wraps the forward of '{name}', which is asked to write",
                where=place_of(self.part.spec),
                remedy="ask base, or one of `models`",
            )
        return adapted


def _make(
    session: Session, part: StageInputs, making: Making, folder: RunFolder, cost: Cost, say: Say
) -> tuple[str, str]:
    """Make a stage's records and write both files; gives their hashes."""
    stage, where = part.spec.name, place_of(part.spec)
    say(f"making the rows of the stage '{stage}'")
    voices = Voices(session, part, folder.path)
    records = making.records()
    as_kept = _usable(session, making)
    lines: list[dict[str, Any]] = []
    journal = Journal(folder.path / FOLDER / f"{stage}.replies.jsonl")
    with cost.phase(PHASE), counting() as counted:
        writers = _writers(session, part, making.makers, voices, journal, _around(folder, cost, say, stage))
        readers = _readers(session, part, making, voices)
        encode = _encoder(session, making)
        needs = session.needs(part)
        score = judged_by(making.makers.judges, encode, lambda text: ids_of(session.tokenizer, text), needs)
        given, counts = records, list[int]()
        for k, (name, method) in enumerate(making.makers.makers):
            made = made_by(
                name, method, given, writers=writers, readers=readers, score=score, labels=session.options.labels,
                round=part.spec.round or 1, rng=rng_of(part.train.seed, stage, name, k), where=where,
            )  # fmt: skip
            made = [as_kept(one) for one in made]
            lines += [_line(name, one) for one in made]
            given = kept_of(name, made)
            counts.append(len(made))
    if voices.present != START:
        voices.bring(START)
    tokens = sum(w.counts["read"] + w.counts["written"] for w in writers.values())
    tokens += sum(r.tokens for r in readers.values())
    cost.add(PHASE, tokens=tokens, flops=counted.total)
    thrown = Counter(line["thrown"].split(":")[0] for line in lines if line["thrown"])
    verdicts = Counter(
        one.verdict for one in made if one.verdict and not one.thrown
    )  # the last maker's, which are kept
    head = {
        "stage": stage,
        "round": part.spec.round,
        "seed": part.train.seed,
        "of": len(records),
        "made": counts,
        "kept": len(given),
        "thrown": dict(thrown.most_common()),
        "verdicts": dict(verdicts.most_common()),
        "makers": [{"name": n, "parameters": m.model_dump(mode="json")} for n, m in making.makers.makers],
        "judges": [{"name": n, "parameters": m.model_dump(mode="json")} for n, m in making.makers.judges],
        "writers": {n: {**w.identity(), **dict(sorted(w.counts.items()))} for n, w in writers.items() if w.counts},
        "tokens": tokens,
        "flops": counted.total,
    }
    texts = {
        f"{stage}.jsonl": [_json(line) for line in [head, *lines]],
        f"{stage}.rows.jsonl": [_json(dict(r)) for r in given],
    }
    write_texts({folder.path / FOLDER / name: text for name, text in texts.items()})
    if not given:
        raise DataError(
            f"'{making.makers.names}' made no row to train on: {_told(head)}",
            where=where,
            remedy=f"look at {folder.path / FOLDER / f'{stage}.jsonl'}: what was written, and why it was thrown away",
        )
    first, second = (hashlib.sha256("".join(text).encode()).hexdigest() for text in texts.values())
    return first, second


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def _line(name: str, one: Made) -> dict[str, Any]:
    line: dict[str, Any] = {"by": name, "source": one.of.source, "of": one.of.id, "thrown": one.thrown}
    line |= {"verdict": one.verdict} if one.verdict else {}
    line["values"] = dict(one.values)
    if one.scores:
        line["scores"] = {n: float(v) for n, v in one.scores.items()}
    if one.written is not None:
        line |= {k: v for k, v in asdict(one.written).items() if v is not None and v != ""}
    return line


def _usable(session: Session, making: Making) -> Callable[[Made], Made]:
    """What is made as it is kept."""
    return lambda one: usable(one, session.task, session.tokenizer, making.options)


def _around(folder: RunFolder, cost: Cost, say: Say, stage: str) -> Callable[[], Any]:
    """What is open while a batch is generated: its seconds are kept at once, since the batch is."""
    batches, last = [0], [time.monotonic()]

    @contextmanager
    def around() -> Iterator[None]:
        with cost.phase(PHASE):
            yield
        folder.note_progress(cost=cost.state())
        batches[0] += 1
        if time.monotonic() - last[0] > SAID_EVERY:
            last[0] = time.monotonic()
            say(f"stage '{stage}': {batches[0]} batches were generated")

    return around


def _writers(
    session: Session, part: StageInputs, makers: Makers, voices: Voices, journal: Journal, around: Callable[[], Any]
) -> dict[str, Writer]:
    found: dict[str, Writer] = {}
    asked = [n for _, m in makers.makers if "writers" in arguments(type(m), "synthesize") for n in m.speakers()]
    common: dict[str, Any] = {"seed": part.train.seed, "stage": part.spec.name, "journal": journal, "around": around}
    options = part.making.options if part.making is not None else session.options
    for name in dict.fromkeys(asked):
        speaker = resolved(name, session.recipe, part.spec)
        spec = session.recipe.models.get(speaker)
        if spec is not None and spec.url is not None:
            found[name] = RemoteWriter(name, spec=spec, **common)
            continue
        found[name] = LocalWriter(
            name,
            bring=lambda speaker=speaker: voices.writing(speaker),  # type: ignore[misc]
            task=session.writing_task,
            tokenizer=session.tokenizer if spec is None else session.voice(speaker).tokenizer,
            options=options if session.task.continues else EncodeOptions(),
            **common,
        )
    return found


def _readers(session: Session, part: StageInputs, making: Making, voices: Voices) -> dict[str, Reader]:
    found: dict[str, Reader] = {}
    asked = [
        (n, m) for _, m in making.makers.makers if "readers" in arguments(type(m), "synthesize") for n in m.speakers()
    ]
    for name, method in asked:
        speaker = resolved(name, session.recipe, part.spec)
        other = speaker in session.recipe.models
        found[name] = Reader(
            name,
            session.other(speaker) if other else session.adapted,
            session.task,
            _rows(session, making, method),
            seed=part.train.seed,
            device=session.device,
            packed=session.packed and not other,
            cache=cache_folder() / "scores",
            bring=lambda speaker=speaker: voices.bring(speaker),  # type: ignore[misc]
        )
    return found


def _rows(session: Session, making: Making, method: Method) -> Callable[[Record], Sequence[Row]]:
    """A record's rows, with what it lacks filled in."""
    known: dict[int, list[Row]] = {}

    def rows(record: Record) -> Sequence[Row]:
        if id(record) not in known:
            filled = method.stand_in(record, session.options.labels)
            row = session.task.encode(filled, session.tokenizer, making.options)
            known[id(record)] = fit_length(row, making.options.max_length, making.options.truncation) or [row]
        return known[id(record)]

    return rows


def _encoder(session: Session, making: Making) -> Callable[[Record], Row]:
    """A record's row, whole, as it stands: what judges compare answers with."""
    known: dict[int, Row] = {}

    def row(record: Record) -> Row:
        if id(record) not in known:
            known[id(record)] = session.task.encode(answered(record), session.tokenizer, making.options)
        return known[id(record)]

    return row


# -- what is said ------------------------------------------------------------------------------------------------------


def _told(head: dict[str, Any]) -> str:
    """One sentence of what was made, kept and thrown away, and of answers that were none."""
    names = " and ".join(m["name"] for m in head["makers"])
    thrown = list(head["thrown"].items())
    counted = ", thrown ones counted," if thrown else ""
    said = f"stage '{head['stage']}': {names} made {head['made'][-1]:,} records of {head['of']:,}{counted} and kept "
    said += f"{head['kept']:,}"
    if verdicts := head.get("verdicts"):
        said += f" ({', '.join(f'{count:,}: {verdict}' for verdict, count in verdicts.items())})"
    if thrown:
        reasons = ", ".join(f"{count:,}: {reason}" for reason, count in thrown[:SHOWN])
        more = sum(count for _, count in thrown[SHOWN:])
        said += f"; thrown away: {reasons}{f', {more:,} for other reasons' if more else ''}"
    for name, w in head["writers"].items():
        flaws = [f"{w[k]:,} {words}" for k, words in FLAWS.items() if w.get(k)]
        said += f"; '{name}' gave {w.get('replies', 0):,} answers ({w.get('written', 0):,} tokens"
        said += f"; {', '.join(flaws)})" if flaws else ")"
    return said


def load(session: Session) -> None:
    """Load the other models that are asked, and refuse what cannot be read with and stages of which nothing will be
    made, before anything is measured.
    """
    for part in session.stages:
        if part.making is not None:
            _foresee(session, part, part.making)
        check_judges(part.making.makers if part.making is not None else None, session.needs(part))
        for _, method in part.making.makers.makers if part.making is not None else ():
            asks = arguments(type(method), "synthesize")
            for name in method.speakers() if {"writers", "readers"} & set(asks) else ():
                _load(session, part, resolved(name, session.recipe, part.spec), asks)


def _foresee(session: Session, part: StageInputs, making: Making) -> None:
    """DataError where nothing will be made for a stage."""
    as_kept = _usable(session, making)
    foresee(making.makers, making.records, part.spec, part.train.seed, session.options.labels, as_kept)


def _load(session: Session, part: StageInputs, speaker: str, asks: Sequence[str]) -> None:
    spec = session.recipe.models.get(speaker)
    if spec is not None:
        if spec.url is None:
            (session.voice if "writers" in asks else session.other)(speaker)
        return
    from_base = speaker == BASE or (speaker == START and (part.spec.start or BASE) == BASE)
    if "readers" in asks and from_base and session.task.labelled and session.adapted.new:
        raise MethodError(
            "the head of the base is new: its labels say nothing of records",
            where=place_of(part.spec),
            remedy="tune a stage on labelled rows first, and ask that one: model: stages.NAME",
        )


def announced(session: Session) -> list[str]:
    """What a plan says of stages whose rows are made when they begin."""
    out = []
    for part in session.stages:
        if part.making is None:
            continue
        count, rows = len({(r.source, r.id.partition("#")[0]) for r in part.rows.rows}), len(part.rows.rows)
        most: int | None = count
        for _, method in part.making.makers.makers:
            most = method.makes(most) if most is not None else None
        asked = ", ".join(_called(n, session.recipe, part) for n in part.making.makers.speakers())
        out.append(
            f"stage '{part.spec.name}': {part.making.makers.names} will make "
            f"{'records' if most is None else f'up to {most:,} records'} of {count:,} (thrown ones not counted) when "
            f"it begins, asking {asked or 'no model'}; nothing is generated now and no time for it is in the estimate, "
            f"and rows, epochs and steps to an epoch are told here of {rows:,} rows that stand in for them"
        )
    return out


def _called(name: str, recipe: Recipe, part: StageInputs) -> str:
    speaker = resolved(name, recipe, part.spec)
    spec = recipe.models.get(speaker)
    if spec is not None and spec.url is not None:
        return f"{spec.name} at {spec.url}"
    return "the model that it starts from" if speaker == START else speaker
