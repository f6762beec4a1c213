"""What gradient-boosted trees tell of a table's rows, fitted on the same training rows: what a user of tables would try
first, and what a tuned model has to be held against.

scikit-learn's HistGradientBoosting with its own settings and a seed of 0 (it holds a tenth back for early stopping
from 10,001 rows on). Numbers and dates are read as numbers, categories as categories: the 254 commonest of the
training rows, all others as missing, as it takes them. Columns of free text are not read: trees read none.

Shapes: R rows, K columns, V classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.contract.batch import Row
from tunewright.measure.rows import RowResult
from tunewright.measure.target import get_metric
from tunewright.tasks._parts import CATEGORY, TEXT
from tunewright.tasks._table import told

CATEGORIES = 254
"""Values of a column of categories that are told apart."""


def has_columns(layout: Mapping[str, Any]) -> bool:
    """Whether a table has a column that trees read."""
    return any(c["kind"] != TEXT for c in layout["columns"])


def results(
    layout: Mapping[str, Any], learnt: Sequence[Row], rows: Sequence[Row], metric: str, names: Mapping[int, str] | None
) -> list[RowResult]:
    """What trees fitted on `learnt` say of `rows`. `names`: class id -> name; None: numbers are told. Rows that a
    method made have no cells, and are not learnt from.
    """
    kinds = [c["kind"] for c in layout["columns"]]
    whole = [r for r in learnt if r.fields.get("cells") is not None]
    known = _known(kinds, whole)
    x, asked = _matrix(kinds, known, whole), _matrix(kinds, known, rows)
    categories = [kind == CATEGORY for kind in kinds if kind != TEXT]
    if names is None:
        return _numbers(x, whole, asked, rows, categories, metric)
    return _classes(x, whole, asked, rows, categories, names)


def _known(kinds: Sequence[str], rows: Sequence[Row]) -> list[dict[Any, int]]:
    """The categories of each column, with a number each: the commonest first, equal ones in the alphabet's order."""
    out = list[dict[Any, int]]()
    for k, kind in enumerate(kinds):
        counts = Counter(row.fields["cells"][k] for row in rows) if kind == CATEGORY else Counter[Any]()
        counts.pop(None, None)
        order = sorted(counts, key=lambda value: (-counts[value], str(value)))
        out.append({value: i for i, value in enumerate(order[:CATEGORIES])})
    return out


def _matrix(kinds: Sequence[str], known: Sequence[Mapping[Any, int]], rows: Sequence[Row]) -> NDArray[np.float64]:
    """[R, K] of the columns that trees read; NaN where a cell is missing, or a category is not known."""
    columns = [k for k, kind in enumerate(kinds) if kind != TEXT]
    out = np.full((len(rows), len(columns)), np.nan)
    for i, row in enumerate(rows):
        cells = row.fields.get("cells") or [None] * len(kinds)
        for j, k in enumerate(columns):
            value = known[k].get(cells[k]) if kinds[k] == CATEGORY else cells[k]
            if value is not None:
                out[i, j] = value
    return out


def _classes(
    x: NDArray[np.float64],
    learnt: Sequence[Row],
    asked: NDArray[np.float64],
    rows: Sequence[Row],
    categories: list[bool],
    names: Mapping[int, str],
) -> list[RowResult]:
    from sklearn.ensemble import HistGradientBoostingClassifier

    y = np.array([row.label for row in learnt])
    shares = np.zeros((len(rows), max(names) + 1))
    seen = np.unique(y)
    if len(seen) > 1:
        model = HistGradientBoostingClassifier(categorical_features=categories, random_state=0).fit(x, y)
        shares[:, seen] = model.predict_proba(asked)
    else:
        shares[:, seen] = 1.0
    out = []
    for row, share in zip(rows, shares, strict=True):
        assert row.label is not None
        said = int(share.argmax())
        out.append(
            RowResult(
                id=row.id,
                source=row.source,
                answer=str(names.get(said, said)),
                reference=str(names.get(row.label, row.label)),
                score=float(said == row.label),
                confidence=float(share[said]),
                likelihood=float(share[row.label]),
            )
        )
    return out


def _numbers(
    x: NDArray[np.float64],
    learnt: Sequence[Row],
    asked: NDArray[np.float64],
    rows: Sequence[Row],
    categories: list[bool],
    metric: str,
) -> list[RowResult]:
    from sklearn.ensemble import HistGradientBoostingRegressor

    compare = get_metric(metric).compare
    y = np.array([row.fields["target"][0] for row in learnt])
    model = HistGradientBoostingRegressor(categorical_features=categories, random_state=0).fit(x, y)
    out = []
    for row, z in zip(rows, model.predict(asked).tolist(), strict=True):
        (mean, std), right = row.fields["unit"], row.fields["reference"]
        said = told(z, mean, std)
        score = float(said == right) if compare is None else compare(said, right)
        out.append(RowResult(id=row.id, source=row.source, answer=said, reference=right, score=score))
    return out
