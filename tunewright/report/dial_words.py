"""What is said of the change dialled down afterwards."""

from __future__ import annotations

from tunewright.report.schema import Report, Strength
from tunewright.report.words import joined, metric_name, score, unit_of, verdict, with_ends


def ends(report: Report) -> tuple[Strength, Strength]:
    """Base and tuned model as the dial has them, which may be measured on fewer rows; else as the report has them."""
    found = {s.strength: s for s in report.trade}
    target, kept, drift = report.target, [k for k in report.kept if k.name], report.drift
    base = Strength(
        strength=0.0,
        target=target.before if target is not None else None,
        kept={k.name: k.before for k in kept if k.name and k.before is not None},
    )
    tuned = Strength(
        strength=1.0,
        target=target.after if target is not None else None,
        kept={k.name: k.after for k in kept if k.name and k.after is not None},
        drift=drift.value if drift is not None else None,
    )
    return found.get(0.0, base), found.get(1.0, tuned)


def dialled_on(report: Report) -> str:
    """What the strengths were measured on, where that is a part of what base and tuned were; else empty."""
    point = next((s for s in report.trade if 0 < s.strength < 1), None)
    if point is None:
        return ""
    target, drift = report.target, report.drift
    pairs = [("rows", point.target.n, target.n)] if point.target is not None and target is not None else []
    pairs += [
        (f"documents of {k.name}", point.kept[k.name].n, k.n) for k in report.kept if k.name and k.name in point.kept
    ]
    pairs += [("sequences", point.drift.n, drift.sequences)] if point.drift is not None and drift is not None else []
    parts = [f"{n} of {whole} {what}" for what, n, whole in pairs if whole is not None and n < whole]
    return f"Every strength, base and tuned included, is here measured on {joined(parts)}." if parts else ""


def dialled(report: Report) -> str:
    """What turning the change down buys: the figures at the strength whose share of the gain is furthest above its
    share of the drift.
    """
    (base, tuned), target = ends(report), report.target
    if target is None or verdict(target) != "better" or base.target is None or tuned.target is None:
        return ""
    first, whole = base.target.value, tuned.target.value - base.target.value
    most = tuned.drift.value if tuned.drift is not None else 0.0
    higher = target.direction == "higher"
    if most <= 0 or (whole <= 0 if higher else whole >= 0):  # on fewer rows than the verdict is of
        return ""
    shares = [
        ((s.target.value - first) / whole, s.drift.value / most, s)
        for s in report.trade
        if s.target is not None and s.drift is not None and 0 < s.strength < 1
    ]
    if not shares:
        return ""
    gain, lost, best = max(shares, key=lambda s: s[0] - s[1])
    if gain <= lost:
        return "Dialling the change down gives up at least as much of the gain as of the drift, on these rows."
    assert best.target is not None and best.drift is not None
    unit = f" {unit_of(target.unit)}" if unit_of(target.unit) else ""
    return (
        f"At strength {best.strength:g} {metric_name(target.metric)} is {with_ends(best.target, target.unit)} of the "
        f"tuned model's {score(tuned.target.value, target.unit)}{unit}, and the drift "
        f"{with_ends(best.drift, 'nats')} instead of {score(most, 'nats')}, on these rows."
    )


def under_dial(report: Report) -> list[str]:
    """The sentences that stand with the dial's table."""
    return [line for line in (dialled_on(report), dialled(report)) if line]
