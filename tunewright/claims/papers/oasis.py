"""What learnt from a long tail meets all classes in other looks, one of them new: OASIS is right more often."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _open_world
from tunewright.errors import ClaimError

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="oasis",
    says="Of a model that learnt from a long tail of classes, on a stream in which all are alike, one is new and looks "
    "change, contrast in training and OASIS at use answer more rows rightly than plain training with Tent at use, and "
    "than plain training without adaptation.",
    task="digits",
    method=Arm(name="oasis", methods=["full", "borderline-contrast"], uses=["oasis", "borderline-contrast", "tent"]),
    baselines=[Arm(name="tent", methods=["full"]), Arm(name="without", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.01,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    extra={"budget": {"epochs": _open_world.PASSES}, "keep": []},
    scales=("nano",),
    differs="turned digits, 200 down to 4 rows a class, four corruptions and a ViT that knew digits upright, instead "
    "of pictures in colour and networks that begin anew; rates are the lab's and the methods' defaults, none is "
    "chosen; the new class is nobody's answer, so its rows are wrong in every arm",
)


def answers(run: ClaimRun, arm: str, seed: int, method: str) -> dict[str, float]:
    """Online accuracy of a method on the stream, and the accuracy without it. ClaimError where there is no stream."""
    stream = {**_open_world.STREAM, "adapt": [method]}
    record = run.trial(arm, seed, data=_open_world.data(seed, "eval"), test_time=stream)
    found = record.test_time.get(method, {})
    if not {"online", "without"} <= found.keys():
        raise ClaimError(f"the run answered no stream by '{method}'", where=record.key)
    return found


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Accuracy over the stream; beside it that of the contrast without adaptation."""
    ours, plain = answers(run, "oasis", seed, "oasis"), answers(run, "tent", seed, "tent")
    return {
        "oasis": ours["online"],
        "tent": plain["online"],
        "without": plain["without"],
        "contrast alone": ours["without"],
    }
