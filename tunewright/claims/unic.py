"""A student that learns a tuned teacher's features through a projector keeps what the teacher can."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunewright.claims._merging import finished, folder_of
from tunewright.claims.claim import Arm, Claim

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="unic",
    says="A student distilled through projectors that are then dropped keeps or exceeds its teacher on the teacher's task.",
    task="topics",
    method=Arm(name="student", methods=["full"], uses=["projector-distillation"]),
    baselines=[Arm(name="teacher", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=-0.02,
    strengths=(1.0,),
    real={"seeds": 5, "rates": (3e-5, 1e-4, 3e-4)},
    differs="one teacher, where the paper's point is several; texts, not pictures; after distillation, which reads no label, the student learns a new head "
    "(beside it a LoRA of rank 1)",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy of the teacher and of the student; beside it that of a student whose head was trained alike and that nobody taught."""
    teacher = finished(run, run.recipe("teacher", seed))
    distil = {"name": "distil", "methods": ["full", {"projector-distillation": {"layers": [[-1, -1], [2, 2]]}}], "budget": run.task["budget"]}
    head: dict[str, Any] = {
        "name": "head",
        "methods": [{"lora": {"rank": 1, "targets": ["query"]}}],  # a stage needs a method; the new head trains with any
        "train": {"learning_rate": 1e-3},
        "budget": run.task["budget"],
    }
    student = run.trial("student", seed, models={"teacher": folder_of(teacher.folder)}, stages=[distil, head])
    untaught = run.trial("student", seed, stages=[head])
    return {"student": student.tuned.target, "teacher": teacher.tuned.target, "untaught": untaught.tuned.target}
