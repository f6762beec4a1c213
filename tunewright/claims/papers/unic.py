"""A student of two teachers with different strengths keeps, on the task of each, what the better of them can."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import rows
from tunewright.claims.merging import finished, folder_of

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="unic",
    says=(
        "A student of the teachers' size, distilled from several with different strengths, keeps or exceeds on "
        "each task what the best teacher for it can."
    ),
    task="topics",
    method=Arm(name="student", methods=["full"], uses=["unic"]),
    baselines=[Arm(name="best-teacher", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=-0.02,
    strengths=(1.0,),
    real={"seeds": 5, "rates": (3e-5, 1e-4, 3e-4)},
    differs="two teachers, one base's tunings on five of ten domains each; texts, not pictures; instead of a linear "
    "probe, teachers and student then learn all "
    "ten domains with a LoRA of rank 1 beside the head, and the teachers bring a head that knows half of them; the "
    "mean over both halves is judged",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy of the student, and of the better teacher for each half, as means over the halves; beside it that of
    a base that nobody taught.
    """
    data, labels = rows.halves(), list(rows.DOMAINS)
    head: dict[str, Any] = {
        "name": "head",
        "methods": [
            {"lora": {"rank": 1, "targets": ["query"]}}
        ],  # a stage needs a method; the new head trains with any
        "train": {"learning_rate": 1e-3},
        "budget": run.task["budget"],
    }
    learn = {"teachers": ["first", "second"]}
    distil = {
        "name": "distil",
        "methods": ["full", {"unic": learn}],
        "budget": {"tokens": 3 * run.task["budget"]["tokens"]},
    }

    def judged(arm: str, stages: list[dict[str, Any]], **more: Any) -> list[float]:
        """Accuracy on each half of the eval rows, after all training rows were seen."""
        evals = ({"eval": [{"path": data[f"eval-{i}"]}], "labels": labels} for i in (1, 2))
        return [run.trial(arm, seed, data=e, stages=stages, **more).tuned.target for e in evals]

    folders = [
        folder_of(
            finished(
                run, run.recipe("best-teacher", seed, data={"train": [{"path": data[f"train-{i}"]}], "labels": labels})
            ).folder
        )
        for i in (1, 2)
    ]
    teachers = [judged("best-teacher", [head], model=folder) for folder in folders]
    student = judged("student", [distil, head], models={"first": folders[0], "second": folders[1]})
    untaught = judged("student", [head])
    return {"student": sum(student) / 2, "best-teacher": sum(map(max, *teachers)) / 2, "untaught": sum(untaught) / 2}
