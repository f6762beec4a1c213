"""ClipCov: keep pairs of picture and text that preserve the cross-covariance of each class (Joshi et al. 2024,
arXiv:2403.12267; papers: clipcov).

With v_i, t_i the vectors of length 1 that a model of two towers gives a pair's picture and text, V_k the pairs of class
k, n_k how many there are, and

    C(i, j) = [v_i t_j]_+ + [v_j t_i]_+                        how alike two pairs are across picture and text
    m(i)    = sum_(j in V_k) C(i, j) / n_k                     how central a pair is in its class
    o(i)    = [v_i t_i]_+                                      how well its text fits its picture
    l(i)    = t_i c_k                                          how well its text fits the class, c_k its name's vector
    x(i)    = mean over other classes q of v_i mean_(V_q) t + t_i mean_(V_q) v         how much it is like others

pairs are picked one by one, always the one of largest gain,

    gain(i) = m(i) + 2 o(i) + l(i) / 2 - x(i) - sum_(j picked of V_k) (C(i, j) + m(j) + l(j) / 2) / n_k

so that a class's centre comes first, then what its picks do not cover yet, and no class takes all by its size. They are
kept in that order: a shorter prefix is the choice for a smaller `keep`.

Classes are `classes`, names that each pair goes to by its text (the nearest c_k, made from `template`); without them
each row's own `label`, a class in words. The paper takes ImageNet's names. n_k^2 products for each class are formed and
not kept; memory holds 2 n D numbers.

From the authors' notebook, which was read, and whose files of similarities are not public: the weights 1, 2, 1/2 and 1,
the cut at 0, and what a pick takes away from its class. Reconstructed from the names of the files that it reads, and
from the abstract: m, x and how pairs go to classes; the paper's formulae were not at hand. `keep` 0.1 is one of its
sizes.

Differs from the paper in: gains are made anew after each pick (there after every 200 of a class, and in between their
stale order holds). The proxy is the stage's start, or one of `models`. Raises DataError where rows have no class and
none are named, RecipeError for a class that is named twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from tunewright.contract.batch import Batch, Outputs
from tunewright.contract.method import Method
from tunewright.contract.reader import Reader, Reading
from tunewright.contract.records import Record
from tunewright.contract.selected import Selected
from tunewright.data.select._keep import Amount, how_many
from tunewright.errors import DataError, RecipeError
from tunewright.models.flops import book

PIECE = 2048
"""Pairs of a class whose products with all of it are formed at a time."""


def pairs(outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
    """([R, 2 D] vectors of a picture and of its text, each of length 1, [R] ones)."""
    assert outputs.embeddings is not None
    found = normalize(outputs.embeddings.float(), dim=-1).unflatten(0, (-1, 2)).flatten(1)
    return found, torch.ones(len(found))


def crossed(v: Tensor, t: Tensor, at: slice | int = slice(None)) -> Tensor:
    """[k, n] (of one pair [n]) C of some pairs of a class with all of it, v and t [n, D]."""
    return (v[at] @ t.T).clamp(min=0) + (t[at] @ v.T).clamp(min=0)


def central(v: Tensor, t: Tensor) -> Tensor:
    """[n] m of each pair of a class: the mean of its C with all of the class, itself among them."""
    return torch.cat([crossed(v, t, slice(i, i + PIECE)).mean(1) for i in range(0, len(v), PIECE)])


def between(v: Tensor, t: Tensor, classes: Tensor) -> Tensor:
    """[n] x of each pair: how alike it is, on average, to the centres of other classes; 0 where there is one class."""
    named = classes.unique().tolist()
    if len(named) == 1:
        return v.new_zeros(len(v))
    centres_v, centres_t = (torch.stack([x[classes == k].mean(0) for k in named]) for x in (v, t))
    every = v @ centres_t.T + t @ centres_v.T
    own = (classes[:, None] == torch.tensor(named)).to(v)
    return (every * (1 - own)).sum(1) / (len(named) - 1)


def picked(v: Tensor, t: Tensor, classes: Tensor, fits: Tensor, count: int) -> tuple[list[int], Tensor]:
    """(`count` pairs in the order of picking, [n] the gain of each at the start); of equal gains the earlier pair."""
    gain = 2 * (v * t).sum(1).clamp(min=0) + fits / 2 - between(v, t, classes)
    members = {k: (classes == k).nonzero()[:, 0] for k in classes.unique().tolist()}
    middle = v.new_zeros(len(v))
    for places in members.values():
        middle[places] = central(v[places], t[places])
    gain = gain + middle
    first, order = gain.clone(), list[int]()
    best = {k: int(places[gain[places].argmax()]) for k, places in members.items()}
    while len(order) < count:
        k = min(best, key=lambda k: (-float(gain[best[k]]), best[k]))
        j, places = best[k], members[k]
        order.append(j)
        at = int(torch.searchsorted(places, j))
        taken = crossed(v[places], t[places], at) + middle[j] + fits[j] / 2
        gain[places] -= taken / len(places)
        gain[j] = -torch.inf
        best[k] = int(places[gain[places].argmax()])
    return order, first


class ClipCov(Method):
    """Keeps pairs that preserve the covariance of pictures and texts within classes."""

    keep: Amount = Field(
        0.1, gt=0, description="share of the records kept (10%, 0.1), or how many (1000)", examples=["25%", 3]
    )
    classes: tuple[str, ...] = Field(
        (), description="names of classes, to which rows go by their texts; none: the rows' own `label`"
    )
    template: str = Field(
        "a photo of a {label}", pattern=r"\{label\}", description="what a class's name is read as: has {label} in it"
    )
    model: str = Field(
        "start", description="what reads the records: start (of the stage), or one of the recipe's `models`"
    )

    tasks: ClassVar[tuple[str, ...]] = ("zero-shot-image-classification",)
    papers: ClassVar[tuple[str, ...]] = ("clipcov",)

    def speakers(self) -> tuple[str, ...]:
        return (self.model,)

    def select(self, records: Sequence[Record], readers: dict[str, Reader]) -> Selected:
        reader = readers[self.model]
        own = None if self.classes else [_label(r) for r in records]
        names = list(self.classes) if own is None else list(dict.fromkeys(own))
        if len(set(names)) < len(names):
            raise RecipeError(
                f"a class is named twice: {next(n for n in names if names.count(n) > 1)}",
                where="clipcov.classes",
                remedy="name each class once",
            )
        reading = Reading("vectors of pictures and texts", pairs)
        found = torch.cat([some for _, some in reader.stream(records, reading)])
        asked = [records[0].replace(text=self.template.replace("{label}", n), label=n) for n in names]
        said = torch.cat([some for _, some in reader.stream(asked, reading)]).chunk(2, 1)[1]
        v, t = found.chunk(2, 1)
        alike = t @ said.T
        classes = alike.argmax(1) if own is None else torch.tensor([names.index(n) for n in own])
        fits = alike.gather(1, classes[:, None])[:, 0]
        sizes = np.bincount(classes.numpy()).astype(float)
        book(float(4 * v.shape[1] * (sizes**2).sum()), 0.0, v)
        kept, gain = picked(v, t, classes, fits, how_many(self.keep, len(records)))
        inside = set(kept)
        reasons = [
            "" if i in inside else f"others of '{names[k]}' and of other classes gain more"
            for i, k in enumerate(classes.tolist())
        ]
        scores = {"gain": gain.tolist(), "own": (v * t).sum(1).tolist(), "class": classes.tolist()}
        return Selected(kept, scores=scores, reasons=reasons)


def _label(record: Record) -> str:
    """A row's class in words. DataError where it has none."""
    label = record.get("label")
    if not isinstance(label, str) or not label.strip():
        raise DataError(
            "the row has no class in words, and clipcov keeps pairs class by class",
            where=record.where,
            remedy="name classes: clipcov: {classes: [cat, dog, ...]}, or a column: columns: {label: your_column}",
        )
    return label
