"""The metrics by name, and which of them a task's rows have. Other packages add theirs by the entry-point group
"tunewright.metrics".
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.metric import Answered, Metric
from tunewright.contract.task import Task
from tunewright.errors import MethodError, MissingExtraError, RecipeError, did_you_mean
from tunewright.machine import installed
from tunewright.measure import (
    boxes,
    likely,
    numeric,
    overlap,
    ranked,
    regions,
    returned,
    several,
    spans,
    speech,
    squad,
    text,
)
from tunewright.measure.actions import ACTIONS
from tunewright.measure.episodes import EPISODES
from tunewright.measure.forecasts import FORECASTS
from tunewright.measure.frechet import PICTURES
from tunewright.tasks._parts import CLASSED, DETECTION, FEATURES, FORECASTING, PICTURE, PLAYING


def _nats(outputs: Outputs, batch: Batch) -> Tensor:
    return -outputs.log_probs()


def _token_hit(outputs: Outputs, batch: Batch) -> Tensor:
    return (outputs.logits.argmax(-1) == batch.labels).float()


_SHOWN = (PICTURE, CLASSED)
_RANKED = ("positive-pair", "ranked-list", "judged-passage", "captioned", *_SHOWN)


def _errors(pair: tuple[Callable[[str, str], float], Callable[[str], float]]) -> Metric:
    compare, weigh = pair
    return Metric("generated", higher_is_better=False, compare=compare, weigh=weigh, library="jiwer")


def _correlation(figure: Callable[[Sequence[Answered]], float]) -> Metric:
    """Of a number a row, or of the score of two sentences."""
    return Metric("predicted", figure=figure, bounds=(-1.0, 1.0), share=False, of="number", reads=("scored-pair",))


def _error_of_numbers(
    figure: Callable[[Sequence[Answered]], float] | None = None, *, beside: tuple[str, ...]
) -> Metric:
    """Of a number a row, in its own unit."""
    return Metric(
        "predicted",
        higher_is_better=False,
        compare=numeric.absolute_error,
        figure=figure,
        bounds=None,
        share=False,
        of="number",
        unit="units of the target",
        beside=beside,
    )


def _regions(figure: Callable[[Sequence[Answered]], float]) -> Metric:
    """Of a class a pixel."""
    return Metric("predicted", figure=figure, compare=regions.of_row(figure), tasks=("image-segmentation",))


def _boxes(figure: Callable[[Sequence[Answered]], float]) -> Metric:
    """Of boxes and their classes."""
    return Metric("predicted", figure=figure, compare=regions.of_row(figure), tasks=(DETECTION,))


METRICS: dict[str, Metric] = {
    "exact_match": Metric("generated", proportion=True, compare=text.exact_match, misses=text.cannot_match),
    "f1": Metric("generated", compare=text.f1),
    "loss": Metric("teacher-forced", higher_is_better=False, per_label=_nats),
    "mean_token_accuracy": Metric("teacher-forced", per_label=_token_hit),
    "accuracy": Metric("classified", proportion=True),
    "f1_macro": Metric("classified", figure=text.macro_f1),
    "log_loss": Metric("classified", higher_is_better=False, figure=likely.log_loss, bounds=None, share=False),
    "roc_auc": Metric("classified", figure=likely.roc_auc),
    "pair_accuracy": Metric("paired", proportion=True),
    "pair_accuracy_norm": Metric("paired", proportion=True, mean=True),
    "span_f1": Metric(
        "predicted", figure=spans.span_f1, parts=spans.f1_by_type, tasks=("token-classification",), library="seqeval"
    ),
    "squad_f1": Metric(
        "predicted",
        compare=squad.squad_f1,
        parts=squad.by_kind,
        tasks=("question-answering",),
        beside=("squad_exact_match",),
    ),
    "squad_exact_match": Metric(
        "predicted", proportion=True, compare=squad.squad_exact_match, tasks=("question-answering",)
    ),
    "choice_accuracy": Metric("predicted", proportion=True, tasks=("multiple-choice",)),
    "mean_iou": replace(
        _regions(regions.mean_iou), parts=regions.iou_of_those_there, beside=("overall_accuracy", "mean_accuracy")
    ),
    "overall_accuracy": _regions(regions.overall_accuracy),
    "mean_accuracy": _regions(regions.mean_accuracy),
    "map": replace(
        _boxes(boxes.mean_precision()), parts=boxes.precision_by_class, beside=("map_50", "map_75", "mar_100")
    ),
    "map_50": _boxes(boxes.mean_precision(0.5)),
    "map_75": _boxes(boxes.mean_precision(0.75)),
    "mar_100": _boxes(boxes.mean_recall),
    "multilabel_f1_micro": Metric(
        "predicted",
        figure=several.f1_micro,
        parts=several.f1_by_label,
        of="labels",
        beside=("multilabel_f1_macro", "multilabel_exact_match", "multilabel_accuracy"),
    ),
    "multilabel_f1_macro": Metric("predicted", figure=several.f1_macro, of="labels"),
    "multilabel_exact_match": Metric("predicted", proportion=True, of="labels"),
    "multilabel_accuracy": Metric("predicted", figure=several.accuracy, of="labels"),
    "mse": Metric(
        "predicted",
        higher_is_better=False,
        compare=numeric.squared_error,
        share=False,
        of="number",
        beside=("pearson", "spearman", "r2"),
        unit="squared points",
    ),
    "rmse": _error_of_numbers(numeric.root_mean_square, beside=("mae", "r2")),
    "mae": _error_of_numbers(beside=("rmse", "r2")),
    "pearson": _correlation(numeric.pearson),
    "spearman": _correlation(numeric.spearman),
    "r2": Metric("predicted", figure=numeric.r2, bounds=None, share=False, of="number"),
    "ndcg@10": Metric("ranked", of_ranking=ranked.ndcg(10), reads=_RANKED),
    "mrr": Metric("ranked", of_ranking=ranked.reciprocal_rank, reads=_RANKED),
    **{f"recall@{k}": Metric("ranked", of_ranking=ranked.recall(k), reads=_RANKED) for k in (1, 5, 10, 100)},
    "knn_accuracy": Metric(
        "ranked", proportion=True, of_ranking=ranked.says_right, reads=_SHOWN[1:], tasks=(FEATURES,)
    ),
    "sacrebleu": Metric("generated", compare=overlap.sentence_bleu, figure=overlap.corpus_bleu, library="sacrebleu"),
    "chrf": Metric("generated", compare=overlap.sentence_chrf, library="sacrebleu"),
    **{n: Metric("generated", compare=overlap.rouge(n), library="rouge_score") for n in ("rouge1", "rouge2", "rougeL")},
    "wer": _errors(speech.word_errors(speech.basic)),
    "wer_english": _errors(speech.word_errors(speech.english)),
    "wer_exact": _errors(speech.word_errors(speech.exact)),
    "cer": _errors(speech.character_errors(speech.basic)),
    **FORECASTS,
    **PICTURES,
    **ACTIONS,
    **EPISODES,
}
"""The metrics by name. `loss` is in nats a supervised token, `f1` over words, `f1_macro` over classes,
`log_loss` and `roc_auc` of how likely the right classes are held: `measure.likely`. `pair_accuracy`:
share of pairs whose chosen answer is likelier than the rejected one, by the sum of its tokens' log-probabilities
(`_norm`: by their mean), or gets the higher score from a reward model, whose `loss` is its task's. `ndcg@10`, `mrr` and
`recall@k` of queries among all texts (or views of pictures) of the evaluated rows, `knn_accuracy` of classes that a
picture's neighbours say: `measure.ranked`. `span_f1`: of whole spans, see
`measure.spans`; `mean_iou`, `overall_accuracy`, `mean_accuracy`: of a class a pixel, see `measure.regions`; `map`,
`map_50`, `map_75`, `mar_100`: of boxes, see `measure.boxes`; `squad_f1`,
`squad_exact_match`: of extracted answers, see `measure.squad`. Of any number of labels a row: `multilabel_f1_micro` and
its kin, see `measure.several`; of numbers: `mse`, `rmse`, `mae`, `r2`, `pearson` and `spearman` (the last two also of
cosines and the scores of pairs).
`sacrebleu`, `chrf` (a mean over rows), `rouge1` ...: from 0 to 1, see `measure.overlap`.
`wer`, `cer` and their kind: errors over words (characters), see `measure.speech`. `mase`, `smape`, `wql`,
`scaled_mse`, `scaled_mae`: errors of forecasts, see `measure.forecasts`. `frechet_distance`: of drawn pictures, see
`measure.frechet`. `action_accuracy`, `action_mae`: of recorded actions, see `measure.actions`; `return`,
`normalized_score`: of episodes that are played, see `measure.episodes`."""


def metric_names() -> list[str]:
    """Names of all metrics, those of other packages last."""
    return list(dict.fromkeys([*METRICS, *installed.points(installed.METRICS)]))


def get_metric(name: str) -> Metric:
    """The metric of a name. RecipeError with the nearest names when there is none, MethodError for one of another
    package that cannot be had.
    """
    if name in installed.points(installed.METRICS):
        return _added(name)
    if name not in METRICS:
        raise RecipeError(
            f"no metric is called '{name}'", where="measurement.metric", remedy=did_you_mean(name, metric_names())
        )
    return METRICS[name]


@functools.cache
def _added(name: str) -> Metric:
    point = installed.points(installed.METRICS)[name]
    metric = point.load(METRICS)
    if not isinstance(metric, Metric):
        raise point.wrong("Metric")
    owed = {"generated": "compare", "teacher-forced": "per_label"}.get(metric.kind)
    if owed is not None and getattr(metric, owed) is None:
        raise MethodError(
            f"the metric '{name}' of {point.comes_from} is {metric.kind}, and does not say how its rows are scored",
            where=f"{point.module}:{point.attribute}",
            remedy=f"give it `{owed}`",
        )
    return returned.checked(metric, name, f"{point.module}:{point.attribute}")


def unit_of(name: str, loss: str) -> str:
    """A metric's unit: a share, the unit that it says itself, none (scores, and errors over another forecast's), or
    `loss`, the unit of the task's loss.
    """
    m = get_metric(name)
    if m.share:
        return "fraction" if m.is_rate else loss
    return m.unit or ("" if m.higher_is_better or name in FORECASTS else loss)


def check_metric(name: str, task: Task) -> Metric:
    """The metric of a name. RecipeError where there is none, or where it is nothing that a task's rows have,
    MissingExtraError without its library."""
    m = get_metric(name)
    if m.library and importlib.util.find_spec(m.library) is None:
        what = f"'{name}' counts with {m.library}, which is not installed"
        raise MissingExtraError(what, where="measurement.metric", remedy="pip install 'tunewright[metrics]'")
    first = "auto" if task.other_problem else "pair_accuracy" if task.scores else "accuracy"
    remedy = f"write metric: {first} or metric: loss"
    if m.tasks and not any(task.is_a(name) for name in m.tasks):
        what = f"'{name}' reads rows of {', '.join(m.tasks)}, not of {task.name}"
        raise RecipeError(what, where="measurement.metric", remedy="write metric: auto or metric: loss")
    number = task.predicts and (task.scores or task.embeds and bool(m.reads))
    if m.of and not (task.multi_label if m.of == "labels" else number):
        what = f"'{name}' reads rows with {'any number of labels' if m.of == 'labels' else 'a number'}"
        what += f", and those of {task.called} have none"
        raise RecipeError(what, where="measurement.metric", remedy="write metric: auto or metric: loss")
    if m.kind == "predicted" and not task.predicts:
        what = f"'{name}' compares what a task predicts of a row, and {task.name} has no predict"
        raise RecipeError(what, where="measurement.metric", remedy="write metric: auto or metric: loss")
    if m.kind == "generated" and not task.generates:
        what = f"'{name}' compares generated text, and {task.name} generates none"
        raise RecipeError(what, where="measurement.metric", remedy=remedy)
    if m.kind == "ranked" and not task.ranks:
        what = f"'{name}' reads where texts stand for a query, and {task.name} ranks none"
        raise RecipeError(what, where="measurement.metric", remedy="write metric: auto or metric: loss")
    if task.embeds and m.kind == "teacher-forced" and name != "loss":
        what = f"'{name}' reads tokens, and {task.name} gives a vector a text"
        raise RecipeError(what, where="measurement.metric", remedy="write metric: auto or metric: loss")
    if task.scores and (m.mean or m.kind == "teacher-forced" and name != "loss"):
        what = f"'{name}' reads tokens, and {task.name} gives one number a text"
        raise RecipeError(what, where="measurement.metric", remedy=remedy)
    answers = task.continues or task.is_a("image-text-to-text")
    if m.kind == "paired" and (task.ranks or not (answers or task.scores and not task.other_problem)):
        what = f"'{name}' compares two answers to a prompt, and {task.name} rows have none or one"
        raise RecipeError(what, where="measurement.metric", remedy="write metric: auto")
    if task.is_a(DETECTION) and m.kind == "teacher-forced" and name != "loss":
        what = f"'{name}' reads what each target is, and {task.name} matches boxes first"
        raise RecipeError(what, where="measurement.metric", remedy="write metric: auto or metric: loss")
    if (task.draws or task.is_a(FORECASTING)) and m.kind == "teacher-forced" and name != "loss":
        what = f"'{name}' reads what a model says of each target, and {task.name} has none that are right or wrong"
        raise RecipeError(what, where="measurement.metric", remedy="write metric: auto or metric: loss")
    if m.kind == "classified" and not task.classifies:
        what = f"'{name}' needs a class a row, and {task.called} rows have none"
        if task.is_a(DETECTION) or task.embeds:
            remedy = "write metric: auto or metric: loss"
        elif task.per_token:
            remedy = "write metric: auto, metric: mean_token_accuracy or metric: loss"
        elif not task.scores and not task.other_problem:
            remedy = "write metric: exact_match, metric: mean_token_accuracy or metric: loss"
        raise RecipeError(what, where="measurement.metric", remedy=remedy)
    return m


def check_rows(name: str, task: Task, rows: Sequence[Row]) -> None:
    """RecipeError where a metric cannot read the kind of some row of a task that has several, where all scores of
    pairs are the same, or where an area under a curve is asked of other rows than those of two classes.
    """
    m = get_metric(name)
    if name == "roc_auc" and task.classifies and {r.label for r in rows} != {0, 1}:
        what = "'roc_auc' tells a first class from a second, and the evaluated rows are not of these two"
        raise RecipeError(what, where="measurement.metric", remedy="write metric: accuracy, f1_macro or log_loss")
    if task.is_a(PLAYING) and m.kind != "played" and m.reads and any(r.fields["kind"] not in m.reads for r in rows):
        other = next(n for n, metric in ACTIONS.items() if metric.reads != m.reads)
        raise RecipeError(
            f"'{name}' reads {m.reads[0]} actions, and those of the rows are {rows[0].fields['kind']}",
            where="measurement.metric",
            remedy=f"write metric: {other}",
        )
    reads = m.reads if task.ranks else ()
    bad = next((r for r in rows if r.fields.get("kind") not in reads), None) if reads else None
    if bad is not None:
        kind = bad.fields.get("kind")
        lacks = "class" if kind in _SHOWN else "score"
        has = "has a score" if kind == "scored-pair" else f"has no {lacks}"
        other = "spearman" if kind == "scored-pair" else "recall@1" if kind in _SHOWN else "ndcg@10"
        raise RecipeError(
            f"'{name}' cannot be read of all rows: {bad.id} {has}",
            where="measurement.metric",
            remedy=f"write metric: {other}, or give rows of one kind",
        )
    if reads == ("scored-pair",) and len({r.fields["target"] for r in rows}) == 1:
        what = f"'{name}' compares an order of scores, and all rows that are evaluated have the same score"
        raise RecipeError(what, where="measurement.metric", remedy="write metric: loss, or give more rows")
