"""SimpleCIL and ADAM (also APER): class means of features are the classifier, of the base alone or of the base and a
copy adapted to the first task (Zhou et al. 2023, arXiv:2303.07338; papers: simplecil-adam).

    f(x) = [f_base(x), f_adapted(x)]      ADAM;      f(x) = f_base(x)      SimpleCIL, where nothing adapts
    p_c  = mean of f over class c's rows;   p(c | x) = softmax(scale cos(f(x), p_c)) over the classes seen so far

Each task is a stage that starts from the one before with `carry: frozen`. In the first one deltas of any method beside
it (`lora`, `ssf`, `bottleneck-adapters`) train as they would alone; later stages read their rows once, when they
end, and train nothing. Alone in the first stage, too, it is SimpleCIL. A class that comes again joins its rows to its
mean. No row is kept and nothing is forgotten: prototypes do not depend on the order of tasks.

Prototypes [K, D] and how many rows each is of are left to later stages. The change does not fold, since the base and
the adapted model both answer. Accuracy does not hang on `scale`, the likelihood of an answer does.

Defaults: scale 10 is ours (the authors read accuracies). Source: sun-hailong/LAMDA-PILOT, models/simplecil.py and
aper_*.py. Differs from the paper in: the first task may train by any delta, and full fine-tuning is refused, since the
base's features are wanted beside it.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from tunewright.contract.method import Method, Need, Needs, Setup, State
from tunewright.errors import MethodError
from tunewright.methods.needs.row_features import RowFeatures
from tunewright.models.adapted import Adapted
from tunewright.models.delta_names import is_delta
from tunewright.models.sites import Structure
from tunewright.pieces.feature_answers import ADAPTED, BASE, FeatureAnswers, check_stage, rows_features
from tunewright.pieces.prototypes import class_means, cosine_logits
from tunewright.training.inner import Inner

NAME = "simplecil-adam"


class SimpleCILAdam(Method):
    """Answer by the nearest class mean of frozen features, with those of a copy adapted to the first task."""

    scale: PositiveFloat = Field(10.0, description="what cosines are multiplied by", examples=[1.0])

    folds: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...] | None] = ("text-classification", "image-classification", "audio-classification")
    carries: ClassVar[Literal["frozen"]] = "frozen"
    leaves: ClassVar[tuple[str, ...]] = ("prototypes", "counts", "classes", "branches")
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance_stages: ClassVar[int] = 2

    def needs(self) -> tuple[Need, ...]:
        return (RowFeatures(),)

    def setup(self, run: Setup) -> State:
        before = run.earlier.inherited(NAME)
        held = before.values if before is not None else {"classes": [], "branches": [], "counts": []}
        state = State(prototypes={}, **{n: list(held[n]) for n in ("classes", "branches", "counts")})
        if held["classes"]:
            state.set_buffer("prototypes", held["prototypes"])
        return state

    def wrap(self, model: nn.Module, structure: Structure, state: State) -> nn.Module:
        def answer(features: Tensor) -> Tensor:
            return self.scale * cosine_logits(features, state.get_buffer("prototypes"))

        return FeatureAnswers(model, structure, state, answer)

    def begin_task(self, stage: str, adapted: Adapted, state: State) -> None:
        later = bool(state.data["branches"])
        state.data["trains"] = check_stage(adapted, later, NAME, f"stages.{stage}.methods")
        if not later:
            state.data["branches"] = [BASE, ADAPTED] if state.data["trains"] else [BASE]

    def step(self, inner: Inner, adapted: Adapted, step: int, state: State) -> None:
        if not state.data["trains"]:
            inner.tell(0.0, 0)
            return
        weights = [n for n in inner.parameters if not is_delta(n) and n not in adapted.new]
        if not step and weights:
            raise MethodError(
                f"'{weights[0]}' trains, and '{NAME}' wants the base's features beside the adapted ones",
                where="methods",
                remedy="adapt by a delta, such as lora",
            )
        inner.gradients()

    def end_task(self, adapted: Adapted, needs: Needs, state: State) -> None:
        features, labels = rows_features(adapted.structure, state.data["branches"], needs.row_features)
        known = dict(zip(state.data["classes"], state.data["counts"], strict=True))
        held = state.get("prototypes")
        means = {c: held[i] for i, c in enumerate(known)} if held is not None else {}
        for c, mean in class_means(features, labels).items():
            own, before = int((labels == c).sum()), known.get(c, 0)
            means[c] = (own * mean + before * means[c].to(mean.device)) / (own + before) if before else mean
            known[c] = own + before
        state.set_buffer("prototypes", torch.stack([means[c] for c in known]))
        state.data |= {"classes": list(known), "counts": list(known.values())}
