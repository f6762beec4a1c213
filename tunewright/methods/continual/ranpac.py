"""RanPAC: a ridge regression on randomly projected features of a frozen model, kept up to date class by class
(McDonnell et al. 2023, arXiv:2307.02251; papers: ranpac).

    h(x) = relu(f(x) W),  W [D, M] ~ N(0, 1), drawn once;   G <- G + H^T H,  Q <- Q + H^T Y     over each task's rows
    answer = h(x) (G + lambda I)^-1 Q  [K];    lambda: of 10^-8 ... 10^8 the best on a fifth of the task's rows,
                                               the sums of all others solved with it

f are the features that the head reads, H [N, M] those of a task's rows, Y [N, C] their classes one-hot. Each task is a
stage that starts from the one before with `carry: frozen`; in the first one methods beside it may adapt the model, as
they would alone, and the adapted features are then the frozen ones. Later stages read their rows once, when they end,
and train nothing. G and Q are sums over rows: the answer does not depend on the order of tasks (but for lambda, which
the last task chooses), and no row is kept.

Left to later stages: W, G [M, M] and Q [M, C]. Memory: 8 M (M + C) + 4 M D bytes, 35 MB at M 2,000. The change does not
fold. What is answered is softmax(scale y) of the regression's y, near 1 for the class and 0 for others: accuracy does
not hang on `scale`.

Defaults: M 2,000 and scale 10 are ours (the paper: M 10,000, where G takes 800 MB). Source: the paper's equations 4 to
7, RanPAC/RanPAC (RanPAC.py) and sun-hailong/LAMDA-PILOT, models/ranpac.py.
Differs from the paper in: rows held out for lambda are every fifth one; it is weighed with the sums of all tasks so far
and not of the last alone (whose few rows may choose one so small that, where about M rows have come in all, the answer
is noise: 15 % of digits right instead of 94 %); sums and solution are in double precision.
"""

from __future__ import annotations

import random
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from tunewright.contract.method import Method, Need, Needs, Setup, State, torch_generator
from tunewright.methods.needs.row_features import RowFeatures
from tunewright.models.adapted import Adapted
from tunewright.models.sites import Structure
from tunewright.pieces.feature_answers import ADAPTED, FeatureAnswers, check_stage, rows_features
from tunewright.pieces.heads import classifier_head
from tunewright.training.inner import Inner

NAME = "ranpac"
RIDGES = tuple(10.0**k for k in range(-8, 9))
HELD = 5
"""Every how many rows one is held out to choose lambda by."""


def solved(gram: Tensor, products: Tensor, ridge: float) -> Tensor:
    """[M, C] weights (G + lambda I)^-1 Q, in double precision."""
    eye = torch.eye(len(gram), dtype=torch.float64, device=gram.device)
    return torch.linalg.solve(gram + ridge * eye, products)


def best_ridge(projected: Tensor, wanted: Tensor, gram: Tensor | None = None, products: Tensor | None = None) -> float:
    """Of `RIDGES` the one whose weights, from four fifths of the rows and the sums before them, miss the classes of the
    others least (mean squared).

    `projected` [N, M], `wanted` [N, C], `gram` [M, M] and `products` [M, C] those of earlier tasks. With fewer rows
    than five, 1.
    """
    held = torch.arange(len(projected), device=projected.device) % HELD == HELD - 1
    if not bool(held.any()):
        return 1.0
    h, y = projected[~held].double(), wanted[~held].double()
    values, vectors = torch.linalg.eigh(h.T @ h if gram is None else gram + h.T @ h)
    turned = vectors.T @ (h.T @ y if products is None else products + h.T @ y)
    own = projected[held].double() @ vectors
    misses = [
        float((own @ (turned / (values.clamp_min(0) + r)[:, None]) - wanted[held]).square().mean()) for r in RIDGES
    ]
    return RIDGES[misses.index(min(misses))]


class RanPAC(Method):
    """Answer by a ridge regression on random features of the frozen model, summed up over tasks."""

    projections: PositiveInt = Field(2000, description="M, random features", examples=[5])
    scale: PositiveFloat = Field(10.0, description="what the regression's answers are multiplied by", examples=[1.0])

    folds: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...] | None] = ("text-classification", "image-classification", "audio-classification")
    carries: ClassVar[Literal["frozen"]] = "frozen"
    leaves: ClassVar[tuple[str, ...]] = ("projection", "gram", "products", "ridge", "classes")
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[dict[str, object]] = {"projections": 12}
    conformance_stages: ClassVar[int] = 2

    def needs(self) -> tuple[Need, ...]:
        return (RowFeatures(),)

    def setup(self, run: Setup) -> State:
        before = run.earlier.inherited(NAME)
        state = State(classes=[], ridge=1.0, branches=[ADAPTED], later=before is not None)
        if before is not None:
            for name in ("projection", "gram", "products"):
                state.set_buffer(name, before.values[name])
            state.data |= {n: before.values[n] for n in ("classes", "ridge")}
            self._solve(state)
        return state

    def wrap(self, model: nn.Module, structure: Structure, state: State) -> nn.Module:
        def answer(features: Tensor) -> Tensor:
            return self.scale * (_projected(features, state) @ state.get_buffer("solution"))

        return FeatureAnswers(model, structure, state, answer)

    def begin_task(self, stage: str, adapted: Adapted, state: State) -> None:
        trains = check_stage(adapted, state.data["later"], NAME, f"stages.{stage}.methods")
        state.data["trains"] = trains

    def step(self, inner: Inner, state: State) -> None:
        if state.data["trains"]:
            inner.gradients()
        else:
            inner.tell(0.0, 0)

    def end_task(self, adapted: Adapted, needs: Needs, state: State, rng: random.Random) -> None:
        features, labels = rows_features(adapted.structure, [ADAPTED], needs.row_features)
        if state.get("projection") is None:
            drawn = torch.randn(features.shape[1], self.projections, generator=torch_generator(rng))
            state.set_buffer("projection", drawn)
        classes = classifier_head(adapted.model).out_features
        h = _projected(features, state).double()  # a small lambda is lost beside sums in single precision
        wanted = torch.nn.functional.one_hot(labels, classes).double()
        nothing = torch.zeros(h.shape[1], h.shape[1]).double(), torch.zeros(h.shape[1], classes).double()
        gram, products = (state.get(n, z.to(h.device)) for n, z in zip(("gram", "products"), nothing, strict=True))
        ridge = best_ridge(h, wanted, gram, products)
        state.set_buffer("gram", gram + h.T @ h)
        state.set_buffer("products", products + h.T @ wanted)
        state.data |= {
            "ridge": ridge,
            "classes": sorted({*state.data["classes"], *labels.tolist()}),
        }
        self._solve(state)

    @staticmethod
    def _solve(state: State) -> None:
        """Keep the weights [M, K] of the classes known."""
        gram, products = state.get("gram"), state.get("products")
        assert gram is not None and products is not None
        found = solved(gram, products[:, state.data["classes"]], state.data["ridge"])
        state.set_buffer("solution", found.float().contiguous())


def _projected(features: Tensor, state: State) -> Tensor:
    return (features.float() @ state.get_buffer("projection")).relu()
