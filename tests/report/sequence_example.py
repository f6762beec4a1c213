"""A report of a sequence of tasks: as many as asked for, with a matrix, figures and what each left."""

from __future__ import annotations

from tests.report.example import make_example, of
from tunewright.report.schema import Report
from tunewright.report.sequenced import AfterTask, SequenceReport


def make_sequence(tasks: int = 3, *, direction: str = "higher") -> Report:
    """Each task is known at 90 % once it is learnt, and loses 12 points with each task after it."""
    names = ["cards and accounts of customers abroad", *(f"task-{j}" for j in range(2, tasks + 1))]

    def known(i: int, j: int) -> float:
        return max(0.0, 0.9 - 0.12 * (i - 1 - j)) if i > j else 0.05

    sequence = SequenceReport(
        tasks=names,
        scenario="class-incremental",
        by="label",
        blurry=(0.5, 0.1),
        rows=["base", *names],
        matrix=[[of(known(i, j), 0.03) for j in range(tasks)] for i in range(tasks + 1)],
        accuracy=of(0.5, 0.03),
        incremental_accuracy=of(0.7, 0.02),
        backward_transfer=of(-0.3, 0.04),
        forward_transfer=of(0.0, 0.04),
        forgetting=of(0.3, 0.04),
        after=[
            AfterTask(
                name=n,
                seconds=3.0 * j,
                kept={"general": of(3.1, 0.1)},
                drift=of(0.1 * j, 0.02),
                held_bytes=12_000 * j,
                change_bytes=4_000_000,
                replayed_rows=100 * j,
            )
            for j, n in enumerate(names)
        ],
    )
    report = make_example(sequence=sequence)
    assert report.target is not None
    report.target.direction = direction  # type: ignore[assignment]
    return report
