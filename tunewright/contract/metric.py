"""What a metric is: which reading of the rows it takes, and how their figure is made.

Shapes: S labels, as in `contract.batch`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from tunewright.contract.batch import Batch, Outputs


class Answered(Protocol):
    """An evaluated row as a figure sees it: what the model answered, what was expected, and the metric on this row."""

    @property
    def answer(self) -> str: ...

    @property
    def reference(self) -> str: ...

    @property
    def score(self) -> float: ...


@dataclass(frozen=True)
class Ranking:
    """What a query finds: `scores` [N] of all texts, `relevance` [N] of each to the query (0: none, more is better),
    the text that scores highest (`answer`) and the right one (`reference`). Rows of one `query` count
    once.
    """

    scores: np.ndarray
    relevance: np.ndarray
    answer: str = ""
    reference: str = ""
    query: int = 0


@dataclass(frozen=True)
class Metric:
    """A metric: how its rows are made (`kind`), whether more is better, and, if it is no mean of rows, the figure.

    Kinds: "generated" compares text that the model writes; "teacher-forced" reads the targets; "classified" takes the
    likeliest class of a row; "paired" holds a preferred answer against the other; "predicted" compares what the task's
    own `predict` says of a row; "ranked" reads where a query's right texts stand among all (`Task.rank`); "played" rows
    are episodes of an environment, of which `compare` reads what was got, and what chance and an expert get. `tasks`:
    names of the tasks whose rows it can read, and with them every task of their `kind`; (): all that its kind of
    reading allows.

    A `figure` lies within `bounds` (None: it has none), and the scores of "predicted" rows from 0 to 1, unless the
    metric is no `share`: then its figures are plain numbers and no per cent. `of`: the tasks that have rows for it are
    those with any number of "labels" a row, or with a "number" ("": others). `compare` scores an answer against a
    reference (of a "predicted" row without it: 1 where both are equal, else 0), and `misses` says of the start of a
    generated one that its score is 0 however it goes on; `per_label` gives [S] values a supervised position;
    `proportion`: scores are 0 or 1; `mean`: answers are compared by their mean log-probability a token.

    `weigh` says of a reference for how much its row counts (words, where scores are errors a word), of generated ones;
    without it all count alike. `of_ranking` is the figure of one query, from 0 to 1. `reads`: kinds of rows
    (`fields["kind"]`) that it can read, of a task that has several; (): all.

    `parts` gives the figure of each part that rows have (a type of spans), by name; `beside`: names of further metrics
    of the same kind, which are shown beside it; `library`: the module that it counts with, of the extra "metrics".
    `unit`: of a figure that is no share, where it is not the unit of the task's loss.
    """

    kind: Literal["generated", "teacher-forced", "classified", "paired", "predicted", "ranked", "played"]
    higher_is_better: bool = True
    proportion: bool = False
    compare: Callable[[str, str], float] | None = None
    misses: Callable[[str, str], bool] | None = None
    per_label: Callable[[Outputs, Batch], Tensor] | None = None
    figure: Callable[[Sequence[Answered]], float] | None = None
    mean: bool = False
    tasks: tuple[str, ...] = ()
    parts: Callable[[Sequence[Answered]], dict[str, float]] | None = None
    beside: tuple[str, ...] = ()
    bounds: tuple[float, float] | None = (0.0, 1.0)
    share: bool = True
    of: Literal["", "labels", "number"] = ""
    library: str = ""
    weigh: Callable[[str], float] | None = None
    of_ranking: Callable[[Ranking], float] | None = None
    unit: str = ""
    reads: tuple[str, ...] = ()

    @property
    def is_rate(self) -> bool:
        """Whether figures are shares of rows or words, and no losses in nats."""
        return self.higher_is_better or self.kind in ("predicted", "generated")


OWN = (
    *("exact_match", "f1", "loss", "mean_token_accuracy", "accuracy", "f1_macro", "log_loss", "roc_auc"),
    *("pair_accuracy", "pair_accuracy_norm"),
    *("span_f1", "squad_f1", "squad_exact_match", "choice_accuracy"),
    *("mean_iou", "overall_accuracy", "mean_accuracy"),
    *("map", "map_50", "map_75", "mar_100"),
    *("multilabel_f1_micro", "multilabel_f1_macro", "multilabel_exact_match", "multilabel_accuracy"),
    *("mse", "rmse", "mae", "pearson", "spearman", "r2"),
    *("ndcg@10", "mrr", "recall@1", "recall@5", "recall@10", "recall@100", "knn_accuracy"),
    *("sacrebleu", "chrf", "rouge1", "rouge2", "rougeL"),
    *("wer", "wer_english", "wer_exact", "cer"),
    *("mase", "smape", "wql", "scaled_mse", "scaled_mae"),
    "frechet_distance",
    *("action_accuracy", "action_mae", "return", "normalized_score"),
)
"""Names of Tunewright's own metrics, which `measure.target` defines."""
