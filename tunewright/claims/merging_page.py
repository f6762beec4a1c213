"""docs/merging.md: every merge method on the same fine-tunings, as a picture, in words and in tables.

`python -m tunewright.claims.merging_page` runs what is missing of docs/data/merging.json (needs TUNEWRIGHT_DATA), then
writes the page's tables and its picture from it; `--draw` only writes.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewright.claims.merging_plot import Line, picture
from tunewright.claims.page import between
from tunewright.measure.intervals import Interval, t_interval

DATA, PAGE, PICTURE = Path("docs/data/merging.json"), Path("docs/merging.md"), Path("docs/merging.svg")
SHOWN, COUNTS = (3, 5, 8), (2, 3, 5, 8)
REFERENCE = "task-arithmetic"
LEARN = ("atlas", "regmean", "pleas")

Cells = dict[int, dict[str, Any]]


def cells_of(found: Mapping[str, Any], name: str, count: int) -> Cells:
    """A method's cells on `count` models, by seed."""
    keys = {int(seed): f"{seed}/{count}/{name}" for seed in found["seeds"]}
    return {seed: found["cells"][key] for seed, key in keys.items() if key in found["cells"]}


def shares(found: Mapping[str, Any], cells: Cells) -> dict[int, list[float]]:
    """By seed: each task's accuracy over that of the model tuned on it alone."""
    return {
        s: [a / b for a, b in zip(c["scores"], found["seeds"][str(s)]["alone"], strict=False)] for s, c in cells.items()
    }


def average(found: Mapping[str, Any], cells: Cells) -> dict[int, float]:
    """By seed: the mean share."""
    return {s: sum(v) / len(v) for s, v in shares(found, cells).items()}


def base_share(found: Mapping[str, Any], count: int) -> float:
    """The base's mean share of the fine-tunings' own accuracy on the first `count` tasks, over seeds."""
    each = [
        sum(b / a for b, a in zip(s["base"]["scores"][:count], s["alone"], strict=False)) / count
        for s in found["seeds"].values()
    ]
    return sum(each) / len(each)


def names(found: Mapping[str, Any]) -> list[str]:
    """Methods by average over 3, 5 and 8 models, best first; those of two models alone last."""
    seen = list(dict.fromkeys(key.split("/", 2)[2] for key in found["cells"]))

    def rank(name: str) -> tuple[bool, float]:
        means = [sum(a.values()) / len(a) for n in SHOWN if (a := average(found, cells_of(found, name, n)))]
        return not means, -sum(means) / max(1, len(means))

    return sorted(seen, key=rank)


def merged(found: Mapping[str, Any], count: int) -> bool:
    """Whether anything has been merged of so many models."""
    return any(key.split("/")[1] == str(count) for key in found["cells"])


def lines(found: Mapping[str, Any]) -> list[Line]:
    """Rows of the picture: all that merges three models or more."""
    rows = []
    for name in names(found):
        by_count = {n: cells for n in SHOWN if (cells := cells_of(found, name, n))}
        if not by_count:
            continue
        rows.append(
            Line(
                name,
                {n: t_interval(list(average(found, c).values())) for n, c in by_count.items()},
                {n: t_interval([min(v) for v in shares(found, c).values()]) for n, c in by_count.items()},
                {n: _mean([x["drift"] for x in c.values()]) for n, c in by_count.items()},
                {
                    n: _mean([x["seconds"] for x in c.values()])
                    for n, c in by_count.items()
                    if all("seconds" in x for x in c.values())
                },
                name in LEARN,
            )
        )
    return rows


def against(found: Mapping[str, Any], name: str, other: str, count: int) -> Interval | None:
    """The paired difference of two methods' averages over the seeds that both have."""
    one, two = (average(found, cells_of(found, n, count)) for n in (name, other))
    both = sorted(one.keys() & two.keys())
    return t_interval([one[s] - two[s] for s in both]) if both else None


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _points(d: Interval) -> str:
    text = f"{100 * d.value:+.1f}" + (
        "" if not d.known else f" [{100 * (d.low or 0):+.1f}, {100 * (d.high or 0):+.1f}]"
    )
    return text.replace("-", "\u2212")


def _percent(d: Interval) -> str:
    return f"{100 * d.value:.1f}" + (
        "" if not d.known else f" [{100 * (d.low or 0):.1f}, {100 * (d.high or 0):.1f}]"
    ).replace("-", "\u2212")


def _chosen(cells: Cells) -> str:
    """The one setting that varies, seed by seed; `(edge)` where it was the smallest or largest offered."""
    settings = []
    for _, cell in sorted(cells.items()):
        varied = next(
            (k for k in ("lambda", "weight", "t", "scale", "ridge", "learning_rate") if k in cell.get("chosen", {})),
            None,
        )
        settings.append("" if varied is None else f"{cell['chosen'][varied]:g}{' (edge)' if cell['at_edge'] else ''}")
    return ", ".join(settings) if any(settings) else ""


def table(found: Mapping[str, Any], count: int) -> str:
    """All methods on `count` models, best average first; a word where there is none yet."""
    if not merged(found, count):
        return "Not run yet."
    ranked = sorted(
        (n for n in names(found) if cells_of(found, n, count)),
        key=lambda n: -_mean(list(average(found, cells_of(found, n, count)).values())),
    )
    heads = [
        "method",
        "average, % of own",
        f"against {REFERENCE}, points",
        "worst task, % of own",
        "accuracy, average",
        "accuracy, worst",
    ]
    heads += ["drift, nats", "upright kept", "seconds", "setting, by seed"]
    out = [_row(heads), "| --- " * len(heads) + "|"]
    for name in ranked:
        cells = cells_of(found, name, count)
        mean, worst = (
            t_interval(list(average(found, cells).values())),
            t_interval([min(v) for v in shares(found, cells).values()]),
        )
        difference = None if name == REFERENCE else against(found, name, REFERENCE, count)
        seconds = [c["seconds"] for c in cells.values() if "seconds" in c]
        row = [
            f"`{name}`"
            + ("" if len(cells) == len(found["seeds"]) else f" ({len(cells)} seed{'s' * (len(cells) > 1)})"),
            _percent(mean),
            "" if difference is None else _points(difference),
            _percent(worst),
            f"{_mean([_mean(c['scores']) for c in cells.values()]):.3f}",
            f"{_mean([min(c['scores']) for c in cells.values()]):.3f}",
            f"{_mean([c['drift'] for c in cells.values()]):.2f}",
            f"{_mean([c['kept'] for c in cells.values()]):.3f}",
            f"{_mean(seconds):.2f}" if seconds else "",
            _chosen(cells),
        ]
        out.append(_row(row))
    return "\n".join([*out, *_ends(found, count)])


def _ends(figures: Mapping[str, Any], count: int) -> list[str]:
    """What merges lie between: every fine-tuning on its own task, and the base."""
    alone = [s["alone"][:count] for s in figures["seeds"].values()]
    base = [s["base"] for s in figures["seeds"].values()]
    scores = [b["scores"][:count] for b in base]
    best, worst = (f"{_mean([f(a) for a in alone]):.3f}" for f in (_mean, min))
    low, lowest = (f"{_mean([f(b) for b in scores]):.3f}" for f in (_mean, min))
    return [
        _row(("each alone on its own task", "100", "", "100", best, worst, "", "", "", "")),
        _row(
            (
                "the base",
                f"{100 * base_share(figures, count):.1f}",
                "",
                "",
                low,
                lowest,
                "0",
                f"{_mean([b['kept'] for b in base]):.3f}",
                "",
                "",
            )
        ),
    ]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def finding(found: Mapping[str, Any], count: int) -> str:
    """Who leads on `count` models, by how much, and who cannot be told from the best that learns nothing."""
    there = [n for n in names(found) if cells_of(found, n, count) and n != "joint training"]
    mean = {n: _mean(list(average(found, cells_of(found, n, count)).values())) for n in there}
    ranked = sorted(there, key=lambda n: -mean[n])
    plain = [n for n in ranked if n not in LEARN]
    first, best = ranked[0], plain[0]
    seeds = len(cells_of(found, best, count))
    who = f"**{count} fine-tunings** ({seeds} seed{'s' * (seeds > 1)})"
    said = [
        f"{who}: `{first}` is first with {100 * mean[first]:.1f} % of what each fine-tuning reaches on its own task."
    ]
    if first != best:
        said.append(
            f"Without learning, `{best}` is first with {100 * mean[best]:.1f} "
            f"%{_gap(against(found, first, best, count))}."
        )
    gaps = {n: against(found, best, n, count) for n in plain[1:]}
    tied = [n for n, g in gaps.items() if g is not None and g.known and not g.excludes(0)]
    behind = [n for n, g in gaps.items() if g is not None and g.known and g.excludes(0)]
    if tied:
        said.append(f"Not to be told from `{best}`: {_list(tied)}.")
    if behind:
        said.append(f"Behind it by more than noise: {_list(behind)}.")
    if not tied and not behind:
        said.append("One seed: no difference here can be told from noise.")
    return "- " + " ".join(said)


def _gap(d: Interval | None) -> str:
    return "" if d is None else f", a paired difference of {_points(d)} points"


def _list(methods: list[str]) -> str:
    return ", ".join(f"`{n}`" for n in methods)


def findings(found: Mapping[str, Any]) -> str:
    """A sentence or three for each number of models."""
    return "\n".join(finding(found, n) for n in COUNTS if merged(found, n))


def filled(page: str, found: Mapping[str, Any]) -> str:
    """The page with what was found and its tables written between their marks."""
    page = between(page, "findings", findings(found))
    for count in COUNTS:
        page = between(page, f"table {count}", table(found, count))
    return page


def drawn(found: Mapping[str, Any]) -> str:
    """The picture."""
    counts = [n for n in SHOWN if merged(found, n)]
    return picture(lines(found), {n: base_share(found, n) for n in counts}, counts)


def main(argv: list[str] | None = None) -> None:
    """Run what is missing, then write."""
    parser = argparse.ArgumentParser(prog="python -m tunewright.claims.merging_page", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="each with fine-tunings of its own")
    parser.add_argument("--data", type=Path, default=DATA, help="the file of figures")
    parser.add_argument("--no-joint", action="store_true", help="leave joint training out")
    parser.add_argument("--draw", action="store_true", help="run nothing, write page and picture")
    given = parser.parse_args(argv)
    from tunewright.claims import merging_table

    if not given.draw:
        from tunewright.claims.engine import Local
        from tunewright.claims.lab.tasks import task

        with Local(workers=1) as engine:
            merging_table.run(engine, given.data, given.seeds, task("digits").recipe("nano"), joint=not given.no_joint)
    figures = merging_table.read(given.data)
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), figures), encoding="utf-8")
    PICTURE.write_text(drawn(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
