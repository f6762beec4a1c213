"""DualMix: mixtures of changed pictures, and of old classes with new ones whose labels lean to the rarer class, beside
experience replay (Fan et al. 2023, arXiv:2303.07864; papers: dualmix).

    EnMix    x = s v(x_i) + (1 - s) v(x_j),  y = s y_i + (1 - s) y_j:  i, j of the step's rows and the kept ones that
             join them, v a picture's view (a part of it, mirrored or not), s ~ Beta(alpha, alpha)
    AdpMix   x = s x_o + (1 - s) x_n,  y = r y_o + (1 - r) y_n:  n a row of the step, o a kept one of an older class,
             r = s c_n / (s c_n + (1 - s) c_o),  c: how often the row's class was trained on in this stage, and 1
    loss     L(B u M) + enmix_weight CE(EnMix) + adpmix_weight CE(AdpMix)

B are the step's rows, M as many kept ones, L the stage's loss (its objectives, or the task's), so that an objective
against forgetting stands beside it; which rows are kept is `keep`, as of `er`. Mixtures are made of pixels before they
are normalised, drawn by step and place and never by how a step is split. An older class is one that the stage's rows
are not of; while none is kept there is no AdpMix. Kept rows go on into later stages and are counted in a report.

Defaults: alpha 1, both weights 1, views of 0.6 of a picture or more, half of them mirrored (write `mirror: false` where
left and right differ, as in digits); 500 rows. All ours.
Reconstructed from the abstract: the views, that each mixture adds a loss, and by what rule the labels' ratio follows
the imbalance.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from tunewright.contract.batch import Batch, Loss, Outputs, Row
from tunewright.contract.method import Need, Needs, Setup, State
from tunewright.methods.needs.row_features import RowFeatures
from tunewright.methods.needs.row_labels import RowLabels
from tunewright.methods.needs.stage_rows import StageRows
from tunewright.pieces.rehearsal import Keep, RehearsalMethod
from tunewright.pieces.views import Changes, pictures
from tunewright.training.inner import Inner, Reading

NAME = "dualmix"


def leaning(share: float, first: int, second: int) -> float:
    """The share of a label whose class was seen `first` times in a mixture with one seen `second` times, `share` of
    whose pixels are the first's: the rarer one has more than its pixels.
    """
    return share * second / (share * second + (1 - share) * first)


def mixed(first: Sequence[Row], second: Sequence[Row], shares: Sequence[float]) -> list[Row]:
    """Rows whose pixels are shares of a first and a second row's."""
    out = []
    for a, b, s in zip(first, second, shares, strict=True):
        pixels = s * a.fields["pixels"].astype("float32") + (1 - s) * b.fields["pixels"].astype("float32")
        out.append(a.replace(fields={**a.fields, "pixels": pixels.astype("float32")}))
    return out


def soft(first: Sequence[Row], second: Sequence[Row], shares: Sequence[float]) -> Reading:
    """Cross-entropy of each row with two labels, `shares` of the first."""

    def loss(outputs: Outputs, batch: Batch, places: Sequence[int]) -> Loss:
        said = outputs.logits.float().log_softmax(-1)

        def of(rows: Sequence[Row]) -> Tensor:
            labels = torch.tensor([rows[i].label or 0 for i in places], device=said.device)
            return said.gather(-1, labels[:, None])[:, 0]

        s = torch.tensor([shares[i] for i in places], device=said.device)
        return Loss(-(s * of(first) + (1 - s) * of(second)))

    return loss


class DualMix(RehearsalMethod):
    """Replay with mixtures of changed pictures, and of old classes with new ones."""

    alpha: PositiveFloat = Field(1.0, description="both parameters of the Beta distribution of shares", examples=[0.2])
    enmix_weight: NonNegativeFloat = Field(
        1.0, description="weight of the loss on mixtures of changed pictures", examples=[0.0]
    )
    adpmix_weight: NonNegativeFloat = Field(
        1.0, description="weight of the loss on mixtures of old classes with new ones", examples=[0.0]
    )
    area: float = Field(
        0.6, gt=0, le=1, description="least share of a picture that a view shows, per area", examples=[1.0]
    )
    mirror: bool = Field(True, description="whether half of the views are mirrored", examples=[False])
    minibatch_size: PositiveInt | None = Field(
        None, description="kept rows a step; left out: as many as the step has rows", examples=[1]
    )
    keep: Keep = Field("reservoir", description="which rows are kept of the stream")  # type: ignore[assignment]

    tasks: ClassVar[tuple[str, ...] | None] = ("image-classification",)
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[dict[str, object]] = {"buffer_size": 5}
    conformance_stages: ClassVar[int] = 2
    _name: ClassVar[str] = NAME

    def needs(self) -> Sequence[Need]:
        return (RowLabels(), *((RowFeatures(), StageRows()) if self.keep == "herding" else ()))

    def setup(self, run: Setup) -> State:
        state = super().setup(run)
        state.data |= {"new": [], "trained": {}}
        return state

    def begin_task(self, needs: Needs, state: State) -> None:
        state.data["new"] = needs.row_labels

    def step(self, inner: Inner, step: int, state: State) -> None:
        buffer, own = self._buffer(state), inner.rows
        drawn = [buffer.row(slot) for slot in buffer.draw(self.minibatch_size or len(own), step)]
        older = [s for s, (_, c) in enumerate(buffer.slots) if c not in state.data["new"]]
        trained = Counter({int(c): n for c, n in state.data["trained"].items()})
        total = inner.gradients(also=drawn)
        rng = random.Random(f"{buffer.memory['key']}/mix/{step}")
        for name, weight, (first, second, shares, labels) in (
            ("enmix", self.enmix_weight, self._views([*own, *drawn], rng)),
            ("adpmix", self.adpmix_weight, self._old_and_new(own, [buffer.row(s) for s in older], trained, rng)),
        ):
            if weight and first:
                found, loss = inner.gradients_of(mixed(first, second, shares), soft(first, second, labels))
                total = {n: g + weight * found[n] if n in found else g for n, g in total.items()}
                inner.record |= {f"{name}/{NAME}": loss, "loss": inner.record["loss"] + weight * loss}
        inner.leave(total)
        trained.update(int(row.label or 0) for row in (*own, *drawn))
        state.data["trained"] = {str(c): n for c, n in sorted(trained.items())}
        buffer.add(own)

    def _shares(self, count: int, rng: random.Random) -> list[float]:
        return [rng.betavariate(self.alpha, self.alpha) for _ in range(count)]

    def _views(self, rows: Sequence[Row], rng: random.Random) -> tuple[list[Row], list[Row], list[float], list[float]]:
        """(first, second, shares of pixels, shares of labels) of EnMix: each row's view with another's."""
        pixels = torch.stack([torch.from_numpy(row.fields["pixels"]).float() for row in rows])
        each = [random.Random(rng.getrandbits(63)) for _ in rows]
        seen = pictures(pixels, Changes(area=(self.area, 1.0), mirror=self.mirror), each).numpy()
        views = [row.replace(fields={**row.fields, "pixels": p}) for row, p in zip(rows, seen, strict=True)]
        shares = self._shares(len(rows), rng)
        return views, rng.sample(views, len(views)), shares, shares

    def _old_and_new(
        self, new: Sequence[Row], old: Sequence[Row], trained: Counter[int], rng: random.Random
    ) -> tuple[list[Row], list[Row], list[float], list[float]]:
        """The same of AdpMix: a kept row of an older class with each row of the step."""
        if not old:
            return [], [], [], []
        first, shares = [rng.choice(old) for _ in new], self._shares(len(new), rng)
        counts = [[1 + trained[int(row.label or 0)] for row in rows] for rows in (first, new)]
        return first, list(new), shares, [leaning(*of) for of in zip(shares, *counts, strict=True)]

    def end_task(self, needs: Needs, state: State) -> None:
        if self.keep == "herding":
            features, classes = needs.row_features()
            self._buffer(state).herd(needs.stage_rows, features, classes)
