"""Checking data before anything is trained: every bad row, and what would go wrong silently.

Problems are rows that cannot be used: a run refuses them. Notices are rows that can be used and should be looked at:
duplicates, evaluation rows that are trained on, a doubled BOS, an answer whose end is not trained, markers in the text.
Rows are encoded into the cache, where the run finds them, and all is told from the facts that stand beside them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tunewright.contract.record_change import RecordChange
from tunewright.contract.records import Problem
from tunewright.contract.task import EncodeOptions, Task
from tunewright.data import facts
from tunewright.data.caution import all_alike, equal_pairs, left_out, remarked, repeated, trained_on, unusable
from tunewright.data.dataset import Dataset, refuse_nothing, stored
from tunewright.data.facts import Facts, marker_texts, matched
from tunewright.data.raw import Bad
from tunewright.data.read import SourceLike, locate, raw_rows, read_lazily
from tunewright.errors import DataError, MethodError, RecipeError, TunewrightError
from tunewright.files.checkpoint import write_texts

TRAINED = "train"
"""How the roles begin whose rows are trained on."""


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
    """What was found. `errors` end a run even where no single row is bad; `cautions` do not, and a run says them on
    every page. `columns`: what those of a table hold, in words; `announced`: what models will read when the run has
    them, which a check asks nothing. `skipped` are bad rows that the recipe has a run leave
    out. `datasets` are the encoded rows of each role, `task` the name of what they are rows of.
    """

    sources: list[SourceReport] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    skipped: list[Problem] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    errors: list[TunewrightError] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)
    columns: str = ""
    announced: list[str] = field(default_factory=list)
    task: str = ""
    datasets: dict[str, list[Dataset]] = field(default_factory=dict, repr=False)

    def note(self, kind: str, reason: str, remedy: str, places: Iterable[str], pairs: Iterable[str] = ()) -> None:
        """Add a notice about rows, by their places; none where there is no such row."""
        if where := tuple(places):
            self.notices.append(Notice(kind, reason, remedy, where, tuple(pairs)))

    @property
    def ok(self) -> bool:
        """Whether a run would take the data."""
        return not self.problems and not self.errors

    @property
    def refusals(self) -> list[str]:
        """The messages of `errors`."""
        return [str(error) for error in self.errors]

    @property
    def code(self) -> int:
        """The exit code that a run ends with: 0 where it would take the data, else that of what it meets first."""
        first = self.errors[0] if self.errors else None
        if self.problems and not isinstance(first, RecipeError | MethodError):
            return DataError.code  # bad rows are met as soon as rows are read
        return first.code if first is not None else 0

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "ok": self.ok,
            "sources": [asdict(s) for s in self.sources],
            "problems": [asdict(p) for p in self.problems],
            "skipped": [asdict(p) for p in self.skipped],
            "notices": [asdict(n) for n in self.notices],
            "refusals": self.refusals,
            "cautions": self.cautions,
            "columns": self.columns,
            "announced": self.announced,
        }


def check(
    groups: Mapping[str, Sequence[SourceLike]],
    task: Task,
    tokenizer: Any,
    options: EncodeOptions | Mapping[str, EncodeOptions],
    *,
    base: Path | str = ".",
    cache: Path | None = None,
    changes: Mapping[str, RecordChange | None] | None = None,
    skip: Collection[str] = (),
) -> CheckReport:
    """Check sources by role ("train", "eval" ...); `options` for all, or by role. Rows of roles that begin with
    "train" are those that the others may not overlap with. Never raises for bad data.

    `cache`: where the encoded rows are kept; None: nowhere. `changes`: what the records of a role go through first.
    `skip`: roles whose bad rows a run leaves out.
    """
    report = CheckReport(task=task.name)
    with ExitStack() as stack:
        folder = cache or Path(stack.enter_context(TemporaryDirectory(prefix="tunewright-check-")))
        given: dict[str, list[SourceLike]] = {}
        for role, sources in groups.items():
            option = options if isinstance(options, EncodeOptions) else options[role]
            made: list[Dataset] = []
            given[role] = []
            change = (changes or {}).get(role)
            for source in sources:
                try:
                    dataset = stored(source, task, tokenizer, option, folder, base=base, change=change)
                except TunewrightError as error:
                    report.errors.append(error)
                    continue
                made.append(dataset)
                given[role].append(source)
                _note_source(report, role, dataset, tokenizer, option, skip=role in skip)
            report.datasets[role] = made
            if role.startswith(TRAINED) and made:
                report.cautions += [*all_alike(made), *repeated(made)]
        one = options if isinstance(options, EncodeOptions) else next(iter(options.values()), EncodeOptions())
        _note_repeats(report, given, _Pictures(base, one) if _resized(task) else None)
    return report


def _resized(task: Task) -> bool:
    """Whether rows hold pictures as the model is given them, and not their files."""
    return task.reads_files and not task.reads_audio and not task.generates


def write_clean(
    report: CheckReport, groups: Mapping[str, Sequence[SourceLike]], folder: Path | str, *, base: Path | str = "."
) -> list[Path]:
    """Write each source's rows that have neither problem nor notice of a kind that spoils (duplicates, overlap, nothing
    trained), as they stood, and the others with their reasons to quarantine.jsonl. Returns the files.

    Raises DataError for rows that JSON cannot hold (pictures in npz or Parquet), FolderError where the files cannot be
    written: then none is.
    """
    folder = Path(folder)
    why = {p.where: asdict(p) for p in (*report.problems, *report.skipped)}
    for notice in report.notices:
        if notice.kind in SPOILS:
            for where in notice.where:
                why.setdefault(
                    where, {"where": where, "field": notice.kind, "reason": notice.reason, "remedy": notice.remedy}
                )
    written: dict[Path, Iterable[str]] = {}
    quarantined: list[dict[str, Any]] = []
    for role, sources in groups.items():
        for source in sources:
            name = Path(source.path.split(":")[-1]).name.split(".")[0]
            path = folder / f"{role}-{name}.jsonl"
            path = path if path not in written else folder / f"{role}-{name}-{len(written)}.jsonl"
            written[path] = _lines(path, _good(source, base, why, quarantined))
    # last: what is quarantined is known when the good rows are written
    written[folder / "quarantine.jsonl"] = _lines(folder / "quarantine.jsonl", quarantined)
    write_texts(written)
    return list(written)


def _good(
    source: SourceLike, base: Path | str, why: Mapping[str, dict[str, Any]], quarantined: list[dict[str, Any]]
) -> Iterator[Any]:
    """The rows of a source as they stood; those with a reason against them go to `quarantined` instead."""
    for _, where, row, _ in raw_rows(locate(source, base), source):
        value = row.raw if isinstance(row, Bad) else row
        if where in why:
            quarantined.append({**why[where], "row": value})
        else:
            yield value


SPOILS = frozenset({"duplicate", "overlap", "nothing trained"})
"""Kinds of notices whose rows a clean copy leaves out."""


def _note_source(
    report: CheckReport, role: str, dataset: Dataset, tokenizer: Any, options: EncodeOptions, *, skip: bool
) -> None:
    counts, seen = dataset.counts, dataset.facts
    assert seen is not None
    report.sources.append(SourceReport(dataset.name, role, seen.shapes, counts))
    if skip:
        report.skipped += dataset.problems
        report.cautions += unusable(dataset)
    else:
        report.problems += dataset.problems
    if not (
        dataset.problems and not skip and not counts["rows"] and not counts["zero_trained"] and not counts["too_long"]
    ):
        try:
            refuse_nothing(dataset.name, counts, options)
        except DataError as error:
            report.errors.append(error)
    report.cautions += [*remarked(dataset), *left_out(dataset), *equal_pairs(dataset)]
    policy = {"drop": "the row is left out", "split": "the row is split"}.get(options.truncation, "a run refuses it")
    if options.truncation == "auto":
        dropped, split = counts["left_out"], counts["too_long"] - counts["left_out"]
        policy = (
            "the row is left out" if not split else "the row is split" if not dropped else f"{dropped} are left out"
        )
    length = f"longer than max_length ({options.max_length}): {policy}"
    markers = ", ".join(marker_texts(tokenizer)[:3]) if hasattr(tokenizer, "all_special_tokens") else ""
    for flag, kind, reason, remedy in (
        (facts.UNTRAINED, *UNTRAINED),
        (facts.EARLIER, *EARLIER),
        (facts.NAMELESS, *NAMELESS),
        (facts.SAME, *SAME),
        (facts.ITSELF, *ITSELF),
        (facts.MOVED, *MOVED),
        (facts.SPACED, *SPACED),
        (facts.LONG, "too long", length, "shorten the rows, or raise data.max_length as far as the model reads"),
        (facts.TWO_BOS, *TWO_BOS),
        (facts.NO_BOS, *NO_BOS),
        (facts.NO_END, *NO_END),
        (
            facts.MARKER,
            "marker in text",
            f"the text holds a special token ({markers} ...), which is read as one",
            MEANT,
        ),
        (facts.BLANK, *BLANK),
    ):
        report.note(kind, reason, remedy, seen.flagged(flag))


MEANT = "take it out unless it is meant"
UNTRAINED = (
    "nothing trained",
    "no token of the row would be trained",
    "give the row an answer with a weight above 0, or take it out",
)
EARLIER = (
    "earlier answers not trained",
    "the chat template writes earlier answers otherwise than they are said, so that only the last one is trained",
    "write a row for each answer, with that answer last",
)
NAMELESS = (
    "names not shown",
    "a turn has a name, and the chat template does not show it to the model",
    "write it into the turn's content if it matters, or take it out",
)
SAME = (
    "equal answers",
    "the chosen answer is the rejected one, so that the pair says nothing",
    "write two answers, or take the pair out",
)
ITSELF = (
    "positive is itself",
    "the text is paired with itself: only dropout tells the two apart",
    "mean it (unsupervised SimCSE), or write another text of the same meaning",
)
MOVED = (
    "answer moved",
    "the answer does not stand where answer_start says: it is taken where it does, the one place that holds it",
    "write that place, or look how the characters were counted",
)
SPACED = (
    "space before the answer",
    "the prompt ends in a space: tokenizers join it to the word after it, so that the answer begins otherwise than in "
    "any text that the model has read",
    "take it from the prompt's end and begin the completion with it",
)
TWO_BOS = (
    "double BOS",
    "the row begins with two BOS tokens",
    "take the BOS text out of the rows or of the template",
)
NO_BOS = (
    "no BOS",
    "the tokenizer starts every text with BOS, and this row does not",
    "put bos_token at the start of the chat template",
)
NO_END = (
    "end not trained",
    "the answer's end is not trained, so generation would not stop",
    "end the assistant's turn with the end token in the chat template",
)
BLANK = (
    "blank picture",
    "the picture shows one colour alone",
    "look at it: its pixels may be of another range than 0..255",
)


def _note_repeats(report: CheckReport, sources: Mapping[str, Sequence[SourceLike]], pictures: _Pictures | None) -> None:
    found = {role: [d.facts for d in made if d.facts is not None] for role, made in report.datasets.items()}
    for role in [r for r in found if r.startswith(TRAINED)]:
        where, first = _pairs(found[role], matched(found[role], "said"), sources[role], pictures)
        report.note(
            "duplicate", "the same row stands in the training data before", "take one out, or mean it", where, first
        )
    trained = [f for role in found if role.startswith(TRAINED) for f in found[role]]
    origins = [s for role in found if role.startswith(TRAINED) for s in sources[role]]
    for role, judged in found.items():
        if role.startswith((TRAINED, "keep", "replay")) or not trained:
            continue
        matches = [
            m
            for i, one in enumerate(judged)
            for a, b, c, d in matched([*trained, one], "given")
            if a == len(trained) and c < a
            for m in [(len(trained) + i, b, c, d)]
        ]
        where, first = _pairs([*trained, *judged], matches, [*origins, *sources[role]], pictures)
        reason = f"the {role} row's input is trained on, so that its score says nothing of new rows"
        report.note("overlap", reason, "take it out of one of the two", where, first)
        report.cautions[:0] = trained_on(role, len(where), sum(d.counts["rows"] for d in report.datasets[role]))


def _pairs(
    found: Sequence[Facts], matches: Sequence[facts.Match], sources: Sequence[SourceLike], pictures: _Pictures | None
) -> tuple[list[str], list[str]]:
    """Where the records of matches stand, and where the records stand that they are equal to. Windows of one row that
    are alike, as of a series that stands still, are no rows that are.
    """
    places = [(a, found[a].at([b])[0], c, found[c].at([d])[0]) for a, b, c, d in matches]
    places = [(a, w, c, first) for a, w, c, first in places if (a, w) != (c, first)]
    if pictures is not None:
        looks = pictures.digests(sources, {(i, w) for a, w, c, first in places for i, w in ((a, w), (c, first))})
        places = [(a, w, c, first) for a, w, c, first in places if looks.get((a, w)) == looks.get((c, first))]
    return [w for _, w, _, _ in places], [first for _, _, _, first in places]


@dataclass(frozen=True)
class _Pictures:
    """Pictures that are equal as the model is given them may differ before they are made smaller: they are looked at
    once more.
    """

    base: Path | str
    options: EncodeOptions

    def digests(self, sources: Sequence[SourceLike], wanted: set[tuple[int, str]]) -> dict[tuple[int, str], str]:
        """A hash of each wanted record's picture as it stands in the file, by (source, where)."""
        from tunewright.tasks.image_classification import image_options, read_image

        channels = (self.options.image or image_options())["channels"]
        out: dict[tuple[int, str], str] = {}
        for i in {i for i, _ in wanted}:
            for record in read_lazily(sources[i], self.base).records:
                if (i, record.where) in wanted:
                    pixels = np.asarray(read_image(record["image"], record.base, channels))
                    out[i, record.where] = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
        return out


def _json_line(row: Any) -> str:
    """A row as JSON; half of a surrogate pair, which UTF-8 has no bytes for, stays written as \\ud83d."""
    text = json.dumps(row, ensure_ascii=False)
    return text if text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text) else json.dumps(row)


def _lines(path: Path, rows: Iterable[Any]) -> Iterator[str]:
    try:
        for row in rows:
            yield (row if isinstance(row, str) else _json_line(row)) + "\n"
    except TypeError as error:
        raise DataError(
            f"the rows cannot be written as JSON lines: {error}",
            where=str(path),
            remedy="clean copies are made of text data only",
        ) from None
