"""Checking data before anything is trained: every bad row, and what would go wrong silently.

Problems are rows that cannot be used: a run refuses them. Notices are rows that can be used and should be looked at:
duplicates, evaluation rows that are trained on, a doubled BOS, an answer whose end is not trained, markers in the text.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tunewright.contract.batch import Row
from tunewright.contract.records import Problem, Record
from tunewright.contract.task import EncodeOptions, Task
from tunewright.data.dataset import Encoded, encode_all, refuse_nothing
from tunewright.data.files import Bad
from tunewright.data.read import Read, SourceLike, raw_rows, read_all
from tunewright.errors import DataError, TunewrightError
from tunewright.files.checkpoint import write_texts
from tunewright.tasks._segments import first_token

CONTENT = ("messages", "prompt", "completion", "text", "label", "chosen", "rejected", "system", "tools")


@dataclass(frozen=True)
class Notice:
    """Something to look at: what, at which rows, and what to do.

    `pairs` names the other row of each, where there is one.
    """

    kind: str
    reason: str
    remedy: str
    where: tuple[str, ...]
    pairs: tuple[str, ...] = ()


@dataclass
class SourceReport:
    """One source: its role ("train", "eval", ...), row shapes with their counts, and the counts of `Dataset`."""

    name: str
    role: str
    shapes: dict[str, int]
    counts: dict[str, int]


@dataclass
class CheckReport:
    """What was found. `refusals` are errors that end a run even where no single row is bad."""

    sources: list[SourceReport] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    def note(self, kind: str, reason: str, remedy: str, places: Iterable[str]) -> None:
        """Add a notice about rows, by their places; none where there is no such row."""
        if where := tuple(places):
            self.notices.append(Notice(kind, reason, remedy, where))

    @property
    def ok(self) -> bool:
        """Whether a run would take the data."""
        return not self.problems and not self.refusals

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "ok": self.ok,
            "sources": [asdict(s) for s in self.sources],
            "problems": [asdict(p) for p in self.problems],
            "notices": [asdict(n) for n in self.notices],
            "refusals": self.refusals,
        }


def check(
    groups: Mapping[str, Sequence[SourceLike]],
    task: Task,
    tokenizer: Any,
    options: EncodeOptions,
    *,
    base: Path | str = ".",
) -> CheckReport:
    """Check sources by role; the role "train" is what the others may not overlap with. Never raises for bad data."""
    report = CheckReport()
    records: dict[str, list[Record]] = {}
    for role, sources in groups.items():
        records[role] = []
        for source in sources:
            try:
                read = read_all(source, base)
                encoded = encode_all(read, task, tokenizer, options)
            except TunewrightError as error:
                report.refusals.append(str(error))
                continue
            bad = {p.where for p in encoded.problems}
            records[role] += [r for r in read.records if r.where not in bad]
            _note_source(report, role, source, read, encoded, tokenizer, options, task)
    _note_repeats(report, records)
    return report


def write_clean(
    report: CheckReport, groups: Mapping[str, Sequence[SourceLike]], folder: Path | str, *, base: Path | str = "."
) -> list[Path]:
    """Write each source's rows that have neither problem nor notice of a kind that spoils (duplicates, overlap, nothing
    trained), as they stood, and the others with their reasons to quarantine.jsonl. Returns the files.

    Raises DataError for rows that JSON cannot hold (pictures in npz or Parquet), FolderError where the files cannot be
    written: then none is.
    """
    folder = Path(folder)
    why = {p.where: asdict(p) for p in report.problems}
    for notice in report.notices:
        if notice.kind in SPOILS:
            for where in notice.where:
                why.setdefault(
                    where, {"where": where, "field": notice.kind, "reason": notice.reason, "remedy": notice.remedy}
                )
    written: dict[Path, str] = {}
    quarantined: list[dict[str, Any]] = []
    for role, sources in groups.items():
        for source in sources:
            read = read_all(source, base)
            good = []
            for _, where, row, _ in raw_rows(read.place, source):
                value = row.raw if isinstance(row, Bad) else row
                if where in why:
                    quarantined.append({**why[where], "row": value})
                else:
                    good.append(value)
            name = Path(source.path.split(":")[-1]).name.split(".")[0]
            path = folder / f"{role}-{name}.jsonl"
            path = path if path not in written else folder / f"{role}-{name}-{len(written)}.jsonl"
            written[path] = _lines(path, good)
    written[folder / "quarantine.jsonl"] = _lines(folder / "quarantine.jsonl", quarantined)
    write_texts(written)
    return list(written)


SPOILS = frozenset({"duplicate", "overlap", "nothing trained"})
"""Kinds of notices whose rows a clean copy leaves out."""


def _note_source(
    report: CheckReport,
    role: str,
    source: SourceLike,
    read: Read,
    encoded: Encoded,
    tokenizer: Any,
    options: EncodeOptions,
    task: Task,
) -> None:
    report.sources.append(
        SourceReport(read.place.name, role, dict(Counter(r.shape for r in read.records)), encoded.counts)
    )
    report.problems += encoded.problems
    if not (encoded.problems and not encoded.counts["rows"] and not encoded.zero and not encoded.long):
        try:
            refuse_nothing(read.place.name, encoded.counts, options)
        except DataError as error:
            report.refusals.append(str(error))
    report.note(
        "nothing trained",
        "no token of the row would be trained",
        "give the row an answer with a weight above 0, or take it out",
        encoded.zero,
    )
    places = {r.id: r.where for r in read.records}
    report.note(
        "earlier answers not trained",
        "the chat template writes earlier answers otherwise than they are said, so that only the last one is trained",
        "write a row for each answer, with that answer last",
        [places[r.id] for r in encoded.rows if r.fields.get("untrained")],
    )
    policy = {"drop": "the row is left out", "split": "the row is split"}.get(options.truncation, "a run refuses it")
    report.note(
        "too long",
        f"longer than max_length ({options.max_length}): {policy}",
        "raise data.max_length, or shorten the rows",
        encoded.long,
    )
    if tokenizer is not None and hasattr(tokenizer, "all_special_ids"):
        _note_tokens(report, read, encoded, tokenizer, task)


def _note_tokens(report: CheckReport, read: Read, encoded: Encoded, tokenizer: Any, task: Task) -> None:
    """Where special tokens are twice, missing, not trained, or in a row's own text."""
    places = {r.id: r.where for r in read.records}
    tokens = [r for r in encoded.rows if r.label is None and r.fields.get("kind") != "mask" and "#" not in r.id]
    bos = first_token(tokenizer)
    at = [places[r.id] for r in tokens if starts_twice(r, tokenizer.bos_token_id)]
    report.note(
        "double BOS", "the row begins with two BOS tokens", "take the BOS text out of the rows or of the template", at
    )
    at = [places[r.id] for r in tokens if bos and list(r.input_ids[:1]) != bos]
    report.note(
        "no BOS",
        "the tokenizer starts every text with BOS, and this row does not",
        "put bos_token at the start of the chat template",
        at,
    )
    ends = set(tokenizer.all_special_ids)
    at = [places[r.id] for r in tokens if not end_is_trained(r, ends)]
    report.note(
        "end not trained",
        "the answer's end is not trained, so generation would not stop",
        "end the assistant's turn with the end token in the chat template",
        at,
    )
    markers = [t for t in tokenizer.all_special_tokens if t.strip() and len(t) > 2]
    at = [r.where for r in read.records if any(m in t for t in _texts(r) for m in markers)] if task.generates else []
    report.note(
        "marker in text",
        f"the text holds a special token ({', '.join(markers[:3])} ...), which is read as one",
        "take it out unless it is meant",
        at,
    )


def _note_repeats(report: CheckReport, records: Mapping[str, Sequence[Record]]) -> None:
    first: dict[str, str] = {}
    twice = []
    for record in records.get("train", ()):
        key = _digest({c: record[c] for c in CONTENT if c in record} or dict(record))
        if key in first:
            twice.append((record.where, first[key]))
        first.setdefault(key, record.where)
    if twice:
        report.notices.append(
            Notice(
                "duplicate",
                "the same row stands in the training data before",
                "take one out, or mean it",
                *map(tuple, zip(*twice, strict=True)),
            )
        )
    trained: dict[str, str] = {}
    for record in records.get("train", ()):
        trained.setdefault(input_key(record), record.where)
    for role, rows in records.items():
        if role in ("train", "keep"):
            continue
        both = [(r.where, trained[input_key(r)]) for r in rows if input_key(r) in trained]
        if both:
            reason = f"the {role} row's input is trained on, so that its score says nothing of new rows"
            report.notices.append(
                Notice("overlap", reason, "take it out of one of the two", *map(tuple, zip(*both, strict=True)))
            )


def input_key(record: Record) -> str:
    """A hash of what the model is given (not of the answer), blind to case and spaces: equal inputs are an overlap."""
    if isinstance(record.get("messages"), list):
        turns = record["messages"]
        last = max(
            (i for i, t in enumerate(turns) if isinstance(t, dict) and t.get("role") == "assistant"), default=len(turns)
        )
        said = [str(t.get("content")) for t in turns[:last] if isinstance(t, dict) and t.get("role") != "system"]
        given: Any = said[0] if len(said) == 1 else said
    else:
        given = next((record[c] for c in ("prompt", "text", "image") if c in record), dict(record))
    return _digest(" ".join(given.casefold().split()) if isinstance(given, str) else given)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value: Any) -> Any:
    raw = value if isinstance(value, bytes) else value.tobytes() if hasattr(value, "tobytes") else repr(value).encode()
    return hashlib.sha256(raw).hexdigest()


def starts_twice(row: Row, bos: int | None) -> bool:
    """Whether a row begins with two BOS tokens."""
    return bos is not None and len(row.input_ids) > 1 and row.input_ids[0] == row.input_ids[1] == bos


def end_is_trained(row: Row, ends: set[int]) -> bool:
    """Whether the last trained token of a row is one of `ends`, so that generation learns to stop."""
    last = max((i for i, w in enumerate(row.weights) if w > 0), default=None)
    return last is not None and row.input_ids[last] in ends


def _texts(record: Record) -> Iterable[str]:
    for column in CONTENT:
        value = record.get(column)
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from (str(t["content"]) for t in value if isinstance(t, dict) and isinstance(t.get("content"), str))


def _json_line(row: Any) -> str:
    """A row as JSON; half of a surrogate pair, which UTF-8 has no bytes for, stays written as \\ud83d."""
    text = json.dumps(row, ensure_ascii=False)
    return text if text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text) else json.dumps(row)


def _lines(path: Path, rows: Iterable[Any]) -> str:
    try:
        lines = [row if isinstance(row, str) else _json_line(row) for row in rows]
    except TypeError as error:
        raise DataError(
            f"the rows cannot be written as JSON lines: {error}",
            where=str(path),
            remedy="clean copies are made of text data only",
        ) from None
    return "".join(line + "\n" for line in lines)
