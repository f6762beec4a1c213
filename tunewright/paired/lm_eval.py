"""Two outputs of lm-evaluation-harness, paired row by row: its own comparison takes them for two samples of other rows.

A side is the folder that the harness wrote (`results_STAMP.json` with `samples_TASK_STAMP.jsonl` beside it, from
`--output_path DIR --log_samples`) or that results file. Of several evaluations in a folder the newest of each task is
read. Rows are the same where task, filter and doc_id are, and their doc_hash too where both have one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.errors import DataError, RecipeError
from tunewright.files.regular import regular
from tunewright.measure.intervals import (
    SHARE,
    Interval,
    bootstrap_mean,
    discordant,
    mcnemar,
    paired_difference,
    paired_proportions,
    wilson,
)
from tunewright.paired.result import Compared, Pair, SideInfo
from tunewright.recipe.gate import Bound
from tunewright.report.gated import judge

_STAMP = re.compile(r"(\d{4}-\d{2}-\d{2}T[0-9.:-]+)\.jsonl?$")
_RESULTS, _SAMPLES = "results*.json", "samples_*.jsonl"
_KEPT_KEYS = frozenset({"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"})

Key = tuple[str, str]
"""(task, filter)"""


@dataclass(frozen=True)
class Sample:
    """One row of the harness: its hash, and every metric that is one number."""

    doc: str
    hash: str
    scores: Mapping[str, float]


def holds(name: str) -> bool:
    """Whether a side is the harness's output."""
    path = Path(name)
    if path.is_file():
        return path.match(_RESULTS)
    return path.is_dir() and not (path / "config.json").exists() and any(path.rglob(_SAMPLES))


def refuse(flags: Mapping[str, Any]) -> None:
    """RecipeError for a flag that says how models are asked: these were."""
    if given := next((name for name, value in flags.items() if value is not None), None):
        raise RecipeError(
            "the harness asked the models already: all its rows, tasks and metrics are compared",
            where=f"--{given}",
            remedy=f"leave --{given} out",
        )


def measure(first: Sequence[str], second: Sequence[str], *, bounds: Sequence[Bound] = (), out: Path | None) -> Pair:
    """Every task and metric that both sides have, paired; the first one is the headline. DataError where they have
    none in common, rows differ, or a file cannot be read.
    """
    for side in (first, second):
        if len(side) > 1 or not holds(side[0]):
            raise RecipeError(
                "the harness's output is compared with another one of its own",
                where=side[0],
                remedy="name two folders that lm_eval wrote with --output_path and --log_samples",
            )
    sides = [read(Path(s[0])) for s in (first, second)]
    for side in (first, second):
        _one_model(Path(side[0]))
    better: dict[tuple[str, str], bool] = {}
    for name in (second[0], first[0]):
        better.update(directions(Path(name)))
    found, notes = _compared(sides, better)
    if not found:
        raise DataError(
            "the two sides have no task in common", where=second[0], remedy="evaluate both on the same tasks"
        )
    pair = Pair(
        first=SideInfo(names=list(first), kind="lm-eval", model=asked(Path(first[0]))),
        second=SideInfo(names=list(second), kind="lm-eval", model=asked(Path(second[0]))),
        target=found[0],
        others=found[1:],
        notes=[*_named_target(found), *notes],
    )
    if bounds:
        pair.gate = judge(bounds, pair)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        pair.save(out)
    return pair


def read(place: Path) -> dict[Key, dict[str, Sample]]:
    """(task, filter) -> doc_id -> row. DataError naming the file and line that cannot be read."""
    folder = place.parent if place.is_file() else place
    stamp = m[1] if place.is_file() and (m := _STAMP.search(place.name)) else None
    newest: dict[str, Path] = {}
    for file in sorted(folder.rglob(_SAMPLES), key=lambda f: (_stamp(f), str(f))):
        if stamp is None or _stamp(file) == stamp:
            newest[_task(file)] = file
    if not newest:
        raise DataError(
            "there are no rows beside the results", where=str(place), remedy="evaluate again with --log_samples"
        )
    out: dict[Key, dict[str, Sample]] = {}
    for task, file in sorted(newest.items()):
        for number, line in _lines(file):
            row = _row(line, f"{file}:{number}")
            rows = out.setdefault((task, str(row.get("filter", "none"))), {})
            sample = _sample(row, f"{file}:{number}")
            if sample.doc in rows:
                raise DataError(
                    f"doc_id {sample.doc} is there twice", where=f"{file}:{number}", remedy="evaluate again"
                )
            rows[sample.doc] = sample
    return out


def _stamp(file: Path) -> str:
    m = _STAMP.search(file.name)
    return m[1] if m else ""


def _task(file: Path) -> str:
    return _STAMP.sub("", file.name).removesuffix(".jsonl").removeprefix("samples_").rstrip("_")


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    try:
        with regular(file).open(encoding="utf-8") as f:
            yield from ((n, line) for n, line in enumerate(f, 1) if line.strip())
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"cannot be read: {e}", where=str(file), remedy="evaluate again") from None


def _row(line: str, where: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or "doc_id" not in row:
        raise DataError("no row of the harness", where=where, remedy="give files that lm_eval --log_samples wrote")
    return row


def _sample(row: Mapping[str, Any], where: str) -> Sample:
    named = row.get("metrics")
    keys = named if isinstance(named, list) else [k for k in row if k not in _KEPT_KEYS and not k.endswith("_hash")]
    scores = {str(k): float(row[k]) for k in keys if isinstance(row.get(k), int | float)}
    if bad := next((k for k, v in scores.items() if not math.isfinite(v)), None):
        raise DataError(f"'{bad}' is not finite", where=where, remedy="look at the row; evaluate again")
    return Sample(str(row["doc_id"]), str(row.get("doc_hash", "")), scores)


def directions(place: Path) -> dict[tuple[str, str], bool]:
    """(task, metric) -> whether more is better, as the results file says; what it does not say is not there."""
    files = [place] if place.is_file() else sorted(place.rglob(_RESULTS), key=lambda f: (_stamp(f), str(f)))
    out: dict[tuple[str, str], bool] = {}
    for file in files:
        try:
            said = json.loads(regular(file).read_text(encoding="utf-8")).get("higher_is_better") or {}
            out |= {(t, m): bool(v) for t, ms in said.items() for m, v in ms.items() if v is not None}
        except (OSError, ValueError, AttributeError, RecursionError):
            raise DataError(
                "no results of the harness", where=str(file), remedy="give a file that lm_eval wrote"
            ) from None
    return out


def asked(place: Path) -> str | None:
    """The model that the newest results say were asked; none where they do not say."""
    files = [place] if place.is_file() else sorted(place.rglob(_RESULTS), key=lambda f: (_stamp(f), str(f)))
    if not files:
        return None
    said = json.loads(regular(files[-1]).read_text(encoding="utf-8"))  # `directions` has read it before
    config = said.get("config") if isinstance(said.get("config"), dict) else {}
    given = config.get("model_args")
    if isinstance(given, str):
        given = dict(part.partition("=")[::2] for part in given.split(","))
    found = said.get("model_name") or (given.get("pretrained") if isinstance(given, dict) else None)
    adapter = given.get("peft") if isinstance(given, dict) else None
    return (str(found) + (f" with {adapter}" if adapter else "")) if found else None


def _compared(
    sides: Sequence[Mapping[Key, Mapping[str, Sample]]], better: Mapping[tuple[str, str], bool]
) -> tuple[list[Compared], list[str]]:
    found, notes = [], []
    for key in sides[0]:
        if key not in sides[1]:
            notes.append(f"{_called(key)} was evaluated on the first side alone")
            continue
        first, second = sides[0][key], sides[1][key]
        docs = [d for d in first if d in second]
        if other := next(
            (d for d in docs if first[d].hash and second[d].hash and first[d].hash != second[d].hash), None
        ):
            raise DataError(
                f"doc_id {other} of {_called(key)} is another row on each side",
                where=key[0],
                remedy="evaluate both with one version of the task",
            )
        if lost := len(first) + len(second) - 2 * len(docs):
            notes.append(f"{lost} rows of {_called(key)} are on one side alone, and left out")
        metrics = [m for m in _metrics(first.values()) if m in _metrics(second.values())]
        for metric in metrics if docs else ():
            found.append(_one(key, metric, [first[d] for d in docs], [second[d] for d in docs], better))
    notes += [f"{_called(key)} was evaluated on the second side alone" for key in sides[1] if key not in sides[0]]
    return found, notes


def _named_target(found: Sequence[Compared]) -> list[str]:
    """What a condition on the target is about, where it could be another."""
    first = found[0]
    said = f"`target` is {first.metric} of {first.name}, the first of {len(found)} figures by the tasks' names"
    return [said] if len(found) > 1 else []


def _metrics(samples: Any) -> list[str]:
    """The metrics that every row has."""
    rows = list(samples)
    return [m for m in rows[0].scores if all(m in s.scores for s in rows)] if rows else []


def _called(key: Key) -> str:
    return key[0] if key[1] == "none" else f"{key[0]} ({key[1]})"


def _one(
    key: Key, metric: str, first: Sequence[Sample], second: Sequence[Sample], better: Mapping[tuple[str, str], bool]
) -> Compared:
    a, b = ([s.scores[metric] for s in side] for side in (first, second))
    shares = all(v in (0.0, 1.0) for v in [*a, *b])
    out = Compared(
        name=_called(key),
        metric=metric,
        direction="higher" if better.get((key[0], metric), True) else "lower",
        unit="fraction" if all(0 <= v <= 1 for v in [*a, *b]) else "score",
        before=_figure(a, shares),
        after=_figure(b, shares),
        difference=_apart(a, b, shares),
        n=len(a),
    )
    if shares:
        out.right = discordant(a, b)
        out.mcnemar = mcnemar(*out.right)
    return out


def _figure(values: Sequence[float], shares: bool) -> Interval:
    if shares:
        return wilson(round(sum(values)), len(values))
    return bootstrap_mean(values, bounds=SHARE if all(0 <= v <= 1 for v in values) else None)


def _apart(first: Sequence[float], second: Sequence[float], shares: bool) -> Interval:
    if shares:
        return paired_proportions(first, second)
    bounded = all(0 <= v <= 1 for v in [*first, *second])
    return paired_difference(first, second, bounds=SHARE if bounded else None)


def _one_model(place: Path) -> None:
    """DataError where a folder holds what several models gave: one of them would be read for all."""
    models = sorted({str(f.parent) for f in place.rglob(_SAMPLES)}) if place.is_dir() else []
    if len(models) > 1:
        raise DataError(
            f"{len(models)} models were evaluated into this folder: {', '.join(Path(m).name for m in models[:4])}",
            where=str(place),
            remedy=f"name one of them: {models[0]}",
        )
