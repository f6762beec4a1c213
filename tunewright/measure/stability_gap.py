"""The stability gap: a figure that falls when training begins and comes back later (papers: stability-gap).

With figures f_0 (before the first step), f_1 ... f_n of one quantity at evaluations along a run, and "better" as its
metric says:

    depth      how far the worst of f_1 ... f_n lies on the worse side of f_0; 0 where none does
    worst      which evaluation that is, the first of equal ones
    recovered  the first evaluation after it that is at least as good as f_0; none: it did not come back

Guo et al. 2024, arXiv:2406.14833, saw it of the new domain's tasks too, and not of general text alone; the name is from
De Lange et al. 2023, arXiv:2205.13452.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PAPERS = ("stability-gap",)


@dataclass(frozen=True)
class Gap:
    """`depth` in the figure's unit, 0 or above; `worst` and `recovered` count evaluations, of which the start is 0."""

    depth: float
    worst: int | None
    recovered: int | None


def stability_gap(figures: Sequence[float], *, higher_is_better: bool) -> Gap:
    """The gap of figures along a run, the start first. ValueError where there is no start."""
    if not figures:
        raise ValueError("a gap is measured from the start, and there is no figure")
    lost = [(figures[0] - f) if higher_is_better else (f - figures[0]) for f in figures]
    worst = max(range(len(lost)), key=lambda i: (lost[i], -i))
    if lost[worst] <= 0:
        return Gap(0.0, None, None)
    back = next((i for i in range(worst + 1, len(lost)) if lost[i] <= 0), None)
    return Gap(lost[worst], worst, back)
