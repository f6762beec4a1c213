"""Fitted laws as text, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from tunewright.laws.result import Dynamics, Foreseen, Judged, LawFigures, Mixture


def text(laws: LawFigures) -> str:
    """What the runs were, how far each law could be believed, and what it foresees."""
    parts = [_table(
        ("run", "domain share", "tokens", "loss", "loss on general", ""),
        [
            (
                u.run, _share(u.share), f"{u.tokens:,}", _loss(u.domain), _loss(u.general),
                "" if u.part == "fitted" else u.part
            )
            for u in laws.runs
        ],
    )]  # fmt: skip
    if laws.mixture is not None:
        parts += _mixture(laws.mixture)
    if laws.dynamics is not None:
        parts += _dynamics(laws.dynamics)
    parts += [f"note: {note}" for note in laws.notes]
    return "\n\n".join(parts) + "\n"


def _mixture(law: Mixture) -> list[str]:
    head = (
        f"Loss by mixture and tokens (cmr-scaling-law), fitted to {100 * law.fitted_error:.1f} %; the base: "
        f"{law.base_domain:.2f}, on general text {law.base_general:.2f}"
    )
    foreseen = _table(
        ("domain share", "tokens", "loss", "loss on general"),
        [(_share(m.share), f"{m.tokens:,}", _span(m.domain), _span(m.general)) for m in law.foreseen],
    )
    critical = _table(
        ("tokens", "largest domain share"),
        [
            (f"{c.tokens:,}", f"{_share(c.share.value)}  [{_share(c.share.low)}, {_share(c.share.high)}]")
            for c in law.critical
        ],
    )
    limit = f"Critical mixture ratio: the general loss rises by at most {law.tolerance:g} nats per token"
    return [f"{head}\n{_judged(law.judged)}", foreseen, f"{limit}\n{critical}"]


def _dynamics(law: Dynamics) -> list[str]:
    head = (
        f"Loss on {law.text} by learning rates (cpt-dynamics-law), fitted to {100 * law.fitted_error:.1f} % at "
        f"{law.points} points"
    )
    foreseen = _table(
        ("domain share", "tokens", "loss at the end"),
        [(_share(f.share), f"{f.tokens:,}", _span(f.loss)) for f in law.foreseen],
    )
    return [f"{head}\n{_judged(law.judged)}", f"Under the longest run's schedule, stretched\n{foreseen}"]


def _judged(judged: Judged | None) -> str:
    if judged is None:
        return "Judged on no run that it had not seen: believe nothing of it yet."
    within = sum(c.inside for c in judged.checked)
    count = len({c.run for c in judged.checked})
    runs = "1 run" if count == 1 else f"{count} runs"
    lines = (
        f"On {runs} that it had not seen: off by {judged.error:.3f} nats per token on average (the nearest run's "
        f"loss: {judged.carried:.3f}), {within} of {len(judged.checked)} within their 95 % intervals"
    )
    last = {(c.run, c.text): c for c in sorted(judged.checked, key=lambda c: c.tokens)}
    rows = [
        (c.run, c.text, f"{c.tokens:,}", _loss(c.measured), _span(c.foreseen), "" if c.inside else "outside")
        for c in last.values()
    ]
    return lines + "\n" + _table(("run", "text", "tokens", "measured", "foreseen", ""), rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(r[i]) for r in (heads, *rows)) for i in range(len(heads))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in (heads, *rows)]
    return "\n".join([lines[0], "─" * max(map(len, lines)), *lines[1:]])


def _span(figure: Foreseen) -> str:
    return f"{figure.value:.2f}  [{figure.low:.2f}, {figure.high:.2f}]"


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
