"""What a classifier's base can do already: a linear probe on its frozen features, and the commonest class.

A head that was drawn afresh answers by chance, so that any training looks like a gain. Logistic regression on what the
head reads of the untouched base tells what was there before: a tuned model that does no better has learned nothing
that the features did not hold. The strength of its L2 penalty is chosen by accuracy on held-out folds of the training
rows, of equal ones the stronger; evaluated rows are never seen.

As a probe by name it asks both models alike: how well the classes of the evaluated rows can be read linearly out of
their features, on folds that were held out.

Shapes: R rows, D size of the features, V classes.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.method import Method
from tunewright.contract.task import Task
from tunewright.errors import MethodError
from tunewright.measure.among import among
from tunewright.measure.intervals import paired_proportions, wilson
from tunewright.measure.probe import ProbeResult, Side
from tunewright.measure.rows import RowResult
from tunewright.measure.target import evaluate, get_metric

MOST = 5000
"""Training rows that are read, at most, drawn by `draw`: what more of them add is small, what they take is not."""
FOLDS, MOST_FOLDED = 3, 2000
"""Folds for choosing the penalty, and the rows that they are made of, at most."""
STRENGTHS = (0.01, 0.1, 1.0, 10.0)
"""Inverse strengths of the penalty that are tried (scikit-learn's C, on features of unit variance)."""


@dataclass(frozen=True)
class LinearProbe:
    """Logits are features [R, D] x weight [V, D] + bias [V]. `c`: the penalty chosen; `rows`: what it was fitted on."""

    weight: Tensor
    bias: Tensor
    c: float
    rows: int

    def logits(self, features: Tensor) -> Tensor:
        """[R, V] in double precision."""
        return features.double() @ self.weight.double().T + self.bias.double()


def draw(n: int) -> list[int]:
    """Which of n training rows are read: all of them, or MOST drawn without a seed of the run, in their order."""
    if n <= MOST:
        return list(range(n))
    return sorted(np.random.default_rng(0).choice(n, MOST, replace=False).tolist())


def fit(
    features: Tensor, labels: Sequence[int], classes: int, *, bias: bool = True, penalty: float | None = None
) -> LinearProbe:
    """Fit on features [R, D] of rows with these labels. Equal inputs give equal probes, whatever was drawn before.

    `bias=False`: for a head that has none; `penalty`: C, in the place of the one that is chosen. A class without a row
    is held for less likely than any other.
    """
    x, y = features.double().numpy(), np.asarray(labels)
    mean = x.mean(0) if bias else np.zeros(x.shape[1])
    spread = np.sqrt(np.square(x - mean).mean(0))
    scale = np.maximum(spread, max(0.01 * float(spread.max(initial=0.0)), 1e-12))
    z, seen = (x - mean) / scale, np.unique(y)
    c = STRENGTHS[0]
    weight, offset = np.zeros((classes, x.shape[1])), np.zeros(classes)
    if len(seen) > 1:
        c = _penalty(z, y, bias) if penalty is None else penalty
        weight[seen], offset[seen] = _solved(z, y, c, bias)
    if bias:
        absent = np.setdiff1d(np.arange(classes), seen)
        offset[absent] = offset[seen].min() - np.log(len(y) + 1)
    weight = weight / scale
    return LinearProbe(torch.from_numpy(weight), torch.from_numpy(offset - weight @ mean), c, len(y))


def fit_targets(
    features: Tensor,
    targets: Sequence[Sequence[float]],
    *,
    regression: bool,
    bias: bool = True,
    penalty: float | None = None,
) -> LinearProbe:
    """Fit on features [R, D] of rows with targets [R, V]: numbers (`regression`: ridge regression), or 0 and 1 (a
    logistic regression each, of one penalty). Equal inputs give equal probes. `penalty`: C, in the place of the one
    that is chosen.

    A label that every row has, or none, keeps what its share tells.
    """
    x, y = features.double().numpy(), np.asarray(targets, dtype=float)
    mean = x.mean(0) if bias else np.zeros(x.shape[1])
    spread = np.sqrt(np.square(x - mean).mean(0))
    scale = np.maximum(spread, max(0.01 * float(spread.max(initial=0.0)), 1e-12))
    z = (x - mean) / scale
    solve = _ridge if regression else _each
    c = _penalty_of(z, y, solve, bias) if penalty is None else penalty
    weight, offset = solve(z, y, c, bias)
    weight = weight / scale
    return LinearProbe(torch.from_numpy(weight), torch.from_numpy(offset - weight @ mean), c, len(y))


def _ridge(z: np.ndarray, y: np.ndarray, c: float, bias: bool) -> Solution:
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=1 / c, fit_intercept=bias).fit(z, y)
    return model.coef_.reshape(y.shape[1], -1), np.broadcast_to(model.intercept_, y.shape[1]).copy()


def _each(z: np.ndarray, y: np.ndarray, c: float, bias: bool) -> Solution:
    weight, offset = np.zeros((y.shape[1], z.shape[1])), np.zeros(y.shape[1])
    for k, column in enumerate(y.T.astype(int)):
        if column.min() < column.max():
            both, shift = _solved(z, column, c, bias)
            weight[k], offset[k] = both[1] - both[0], shift[1] - shift[0]
        elif bias:
            share = (column.sum() + 0.5) / (len(column) + 1)
            offset[k] = np.log(share / (1 - share))
    return weight, offset


def _penalty_of(z: np.ndarray, y: np.ndarray, solve: Callable[..., Solution], bias: bool) -> float:
    """The C of the least held-out loss; of equal ones the strongest penalty."""
    some = np.random.default_rng(0).permutation(len(y))[:MOST_FOLDED]
    z, y, fold = z[some], y[some], np.arange(len(some)) % FOLDS
    if len(some) < FOLDS:
        return STRENGTHS[0]
    lost = dict.fromkeys(STRENGTHS, 0.0)
    for c in STRENGTHS:
        for k in range(FOLDS):
            weight, offset = solve(z[fold != k], y[fold != k], c, bias)
            said, right = z[fold == k] @ weight.T + offset, y[fold == k]
            lost[c] += float((np.logaddexp(0, said) - right * said if solve is _each else (said - right) ** 2).sum())
    return min(STRENGTHS, key=lambda c: lost[c])


def always(targets: Sequence[Sequence[float]], *, regression: bool) -> Tensor:
    """[V] what is told of every row by rows' targets alone: their mean, or 1 for a label that more than half of the
    rows have and -1 for others.
    """
    mean = torch.tensor(targets, dtype=torch.float64).mean(0)
    return mean if regression else torch.where(mean > 0.5, 1.0, -1.0)


def by_chance(task: Task, rows: Sequence[Row]) -> list[RowResult]:
    """What an answer at random gives on each row, on average; none where the task does not say it."""
    shares = [task.chance(row) for row in rows]
    return [RowResult(id=r.id, source=r.source, score=s) for r, s in zip(rows, shares, strict=True) if s is not None]


def predicted_results(task: Task, logits: Tensor, rows: Sequence[Row], metric: str) -> list[RowResult]:
    """Rows' results from logits [R, V] that something else than the model gave, as the task says them."""
    compare = get_metric(metric).compare
    said = task.predict(Outputs(logits, torch.zeros(len(rows), dtype=torch.long)), task.collate(rows), rows)
    return [
        RowResult(
            id=row.id,
            source=row.source,
            answer=answer,
            reference=right,
            score=float(answer == right) if compare is None else compare(answer, right),
        )
        for row, (answer, right) in zip(rows, said, strict=True)
    ]


def _penalty(z: np.ndarray, y: np.ndarray, bias: bool) -> float:
    """The C of most held-out hits; of equal ones the first, which is the strongest penalty."""
    some = np.random.default_rng(0).permutation(len(y))[:MOST_FOLDED]
    z, y = z[some], y[some]
    order, fold = np.argsort(y, kind="stable"), np.empty(len(y), dtype=int)
    fold[order] = np.arange(len(y)) % FOLDS  # each class is spread over the folds
    hits = dict.fromkeys(STRENGTHS, 0)
    for k in range(FOLDS):
        train, held = fold != k, fold == k
        seen = np.unique(y[train])
        if len(seen) < 2:
            continue
        start = None
        for c in STRENGTHS:
            start = _solved(z[train], y[train], c, bias, start)
            said = seen[(z[held] @ start[0].T + start[1]).argmax(1)]
            hits[c] += int((said == y[held]).sum())
    return max(STRENGTHS, key=lambda c: hits[c])


Solution = tuple[np.ndarray, np.ndarray]


def _solved(z: np.ndarray, y: np.ndarray, c: float, bias: bool, start: Solution | None = None) -> Solution:
    """(weights, offsets) of the classes that occur in y, in rising order; `start`: a solution to go on from."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=c, fit_intercept=bias, max_iter=500, tol=1e-3, warm_start=start is not None)
    if start is not None:
        model.coef_, model.intercept_ = (
            (start[0][1:] - start[0][:1], start[1][1:] - start[1][:1]) if len(start[0]) == 2 else start
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few rows of many classes, and a penalty so weak that it takes long
        model.fit(z, y)
    weight, offset = model.coef_, np.broadcast_to(model.intercept_, len(model.coef_))
    if len(weight) == 1:  # two classes have one row of weights, for the second
        weight, offset = np.concatenate([-weight, weight]) / 2, np.concatenate([-offset, offset]) / 2
    return weight, offset.copy()


def probe_results(probe: LinearProbe, rows: Sequence[Row], features: Tensor, names: Any) -> list[RowResult]:
    """What the probe answers to evaluated rows with features [R, D]. `names`: class id -> name."""
    every = torch.softmax(among(rows, probe.logits(features)), -1)
    return [_answered(row, share, names) for row, share in zip(rows, every.numpy(), strict=True)]


def commonest_results(labels: Sequence[int], rows: Sequence[Row], names: Any) -> list[RowResult]:
    """The commonest class of the training rows as the answer to every evaluated row; of equal ones the first."""
    counts = np.bincount(np.asarray(labels), minlength=len(names))
    return [_answered(row, counts / counts.sum(), names) for row in rows]


def commonest_by_token(
    model: Any, tokenizer: Any, task: Task, learnt: Iterable[Row], rows: Sequence[Row], metric: str
) -> list[RowResult]:
    """The commonest class of the training rows' tokens (pixels) as the answer to every one; of equal ones the first."""
    counts = Counter[int]()
    for row in learnt:
        counts.update(_counted(row))
    most = max(sorted(counts), key=lambda c: counts[c])
    classes = int(model.config.num_labels)

    class Always(type(task)):  # type: ignore[misc]
        def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
            sure = torch.zeros(len(batch.labels), classes, device=batch.labels.device)
            sure[:, most] = 1.0
            return Outputs(sure, batch.labels)

    return evaluate(model, tokenizer, Always(), rows, metric)


def _counted(row: Row) -> dict[int, int]:
    """How many targets of a row are of each class."""
    targets, weights = np.asarray(row.fields["targets"]), np.asarray(row.weights)
    classes, counts = np.unique(targets[(weights > 0) & (targets >= 0)], return_counts=True)
    return dict(zip(classes.tolist(), counts.tolist(), strict=True))


def _answered(row: Row, shares: np.ndarray, names: Any) -> RowResult:
    """The likeliest class of probabilities [V] as the answer; of equal ones the first."""
    assert row.label is not None
    answer = int(shares.argmax())
    return RowResult(
        id=row.id,
        source=row.source,
        answer=str(names.get(answer, answer)),
        reference=str(names.get(row.label, row.label)),
        score=float(answer == row.label),
        confidence=float(shares[answer]),
        likelihood=float(shares[row.label]),
    )


class LinearReading(Method):
    """How well classes can be read linearly out of what a classifier's head reads, before and after."""

    splits: int = Field(5, ge=2, description="parts of the rows: each is read by a probe fitted on the others")

    papers: ClassVar[tuple[str, ...]] = ()

    def probe(self, base: Side, tuned: Side) -> ProbeResult:
        """Held-out accuracy of logistic regression on both sides' features, paired by row. MethodError where a side has
        none, or there is but one class.
        """
        rows = base.answers.get("target") or ()
        if base.features is None or tuned.features is None or not rows:
            raise MethodError(
                "there are no features to read: what a classifier's head reads of evaluated rows is needed",
                where="linear-probe",
                remedy="take the probe out, or use a classification task with rows to evaluate",
            )
        names = sorted({r.reference for r in rows})
        labels = np.array([names.index(r.reference) for r in rows])
        if len(names) < 2:
            raise MethodError(
                "all rows have one class", where="linear-probe", remedy="evaluate rows of several classes"
            )
        hits = [self._hits(side.features().cpu(), labels, len(names)) for side in (base, tuned) if side.features]
        return ProbeResult(
            title="Linear probe of the features",
            description=(
                f"Accuracy of logistic regression on what the head reads, fitted on the other evaluated rows "
                f"({self.splits} folds): whether the features themselves tell the classes, whatever the head does."
            ),
            values={
                "base_accuracy": wilson(int(hits[0].sum()), len(rows)),
                "tuned_accuracy": wilson(int(hits[1].sum()), len(rows)),
                "difference": paired_proportions(hits[0].tolist(), hits[1].tolist()),
                "classes": len(names),
            },
        )

    def _hits(self, features: Tensor, labels: np.ndarray, classes: int) -> np.ndarray:
        """1 for each row whose class a probe names that was fitted without its fold. Each class is spread over them."""
        order, fold = np.argsort(labels, kind="stable"), np.empty(len(labels), dtype=int)
        fold[order] = np.arange(len(labels)) % self.splits
        hits = np.zeros(len(labels))
        for k in range(self.splits):
            held = np.flatnonzero(fold == k)
            if not len(held):
                continue
            learnt = np.flatnonzero(fold != k)
            found = fit(features[learnt], labels[learnt].tolist(), classes)
            hits[held] = found.logits(features[held]).argmax(-1).numpy() == labels[held]
        return hits
