"""Numbers, units and names, said the same way in the terminal and on the page."""

from __future__ import annotations

import math

from tunewright.measure.intervals import Interval
from tunewright.report.packed import PackFigure
from tunewright.report.schema import Measured
from tunewright.tasks._parts import DETECTION, FEATURES, FORECASTING, PLAYING, TO_IMAGE, UNCONDITIONAL

MINUS = "\u2212"
KINDS = {"row": "rows", "document": "documents", "sequence": "sequences", "seed": "seeds"}


PLAYED = ("return", "normalized_score")
"""Metrics of a policy that plays: their rows are episodes."""


def plain(x: float, digits: int = 3) -> str:
    """A number with `digits` significant digits, no exponent between 1e-4 and 1e6, a true minus sign."""
    if not math.isfinite(x):
        return str(x)
    if x == 0:
        return "0"
    if not 1e-4 <= abs(x) < 1e6:
        return f"{x:.{digits - 1}e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e").replace("-", MINUS)
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(x))))
    return f"{x:,.{decimals}f}".replace("-", MINUS)


def score(x: float, unit: str, *, sign: bool = False) -> str:
    """A value in its metric's unit; a fraction as per cent with one decimal, its differences (`sign`) in points."""
    if unit == "fraction":
        text = f"{100 * x:.1f}"
        text = text.removesuffix(".0") if text in ("0.0", "-0.0", "100.0", "-100.0") else text
        text = "0" if text == "-0" else text
        return _signed(text, sign) + ("" if sign else " %")
    small = f"{x:.3f}" if abs(x) >= 0.001 else plain(x, 2)
    tenth = round(abs(x), 3) >= 0.1
    text = f"{x:.2f}" if tenth and abs(x) < 1000 else plain(x) if tenth else small
    return _signed(text, sign)


def _signed(text: str, sign: bool) -> str:
    text = text.replace("-", MINUS)
    zero = not any(c in "123456789" for c in text)
    return "+" + text if sign and not text.startswith(MINUS) and not zero else text


def unit_of(unit: str, *, difference: bool = False) -> str:
    """What stands behind a number: 'points' behind a difference of per cents, nothing behind a per cent."""
    if unit == "fraction":
        return "points" if difference else ""
    return unit


def span(interval: Interval | None, unit: str) -> str:
    """The interval's ends without the unit, e.g. '68.1 to 79.6'; empty where there are none."""
    if interval is None or interval.low is None or interval.high is None:
        return ""
    return f"{score(interval.low, unit).removesuffix(' %')} to {score(interval.high, unit).removesuffix(' %')}"


def seconds(x: float | None) -> str:
    """A duration: '0.4 s', '48 s', '4 min 12 s', '3 h 05 min'."""
    if x is None:
        return ""
    if x < 10:
        return f"{x:.1f} s"
    whole = round(x)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(x / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _scaled(x: float, units: list[str], step: float) -> str:
    index = 0
    while abs(x) >= step * 0.9995 and index < len(units) - 1:
        x, index = x / step, index + 1
    text = f"{x:.0f}" if index == 0 or x >= 100 else f"{x:.1f}"
    return f"{text} {units[index]}".rstrip()


def size(x: float | None) -> str:
    """Bytes in the decimal units that disks are sold in: '19.4 MB'."""
    return "" if x is None else _scaled(x, ["B", "kB", "MB", "GB", "TB"], 1000)


def count(x: float | None) -> str:
    """A count: whole below 10,000, then '15.1k', '4.9M', '1.2T', as recipes write them."""
    if x is None:
        return ""
    return f"{x:,.0f}" if abs(x) < 10_000 else _scaled(x, ["", "k", "M", "G", "T", "P", "E"], 1000).replace(" ", "")


METRICS = {
    "exact_match": "exact match",
    "f1": "F1",
    "f1_macro": "macro F1",
    "span_f1": "span F1",
    "choice_accuracy": "accuracy",
    "mean_iou": "mean IoU",
    "overall_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy of classes",
    "map": "mAP",
    "map_50": "mAP at 0.5",
    "map_75": "mAP at 0.75",
    "mar_100": "mean recall",
    "multilabel_f1_micro": "micro F1",
    "multilabel_f1_macro": "macro F1",
    "multilabel_exact_match": "rows all right",
    "multilabel_accuracy": "accuracy a label",
    "mse": "mean squared error",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "r2": "R\u00b2",
    "rmse": "root mean squared error",
    "mae": "mean absolute error",
    "roc_auc": "ROC AUC",
    "pair_accuracy_norm": "pair accuracy by mean",
    "squad_f1": "SQuAD F1",
    "squad_exact_match": "SQuAD exact match",
    "ndcg@10": "nDCG@10",
    "mrr": "MRR",
    "knn_accuracy": "k-NN accuracy",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "sacrebleu": "BLEU",
    "chrf": "chrF",
    "wer": "word error rate",
    "wer_english": "word error rate (English)",
    "wer_exact": "word error rate (as written)",
    "cer": "character error rate",
    "mase": "MASE",
    "smape": "sMAPE",
    "wql": "weighted quantile loss",
    "scaled_mse": "scaled mean squared error",
    "scaled_mae": "scaled mean absolute error",
    "frechet_distance": "Fr\u00e9chet distance",
    "action_mae": "mean absolute error of actions",
    "answer_length": "length of an answer",
    "repetition": "said again within an answer",
}


NUMBERS = ("mse", "rmse", "mae", "pearson", "spearman", "r2")
"""Metrics of rows with a number."""


def always(metric: str) -> str:
    """The baseline that gives every row the same, in words."""
    if metric in NUMBERS:
        return "always the training rows' mean"
    if metric == "choice_accuracy":
        return "a choice at random"
    return "always what most rows have" if metric.startswith("multilabel_") else "always the commonest class"


def drawn(task: str | None) -> str:
    """What stands side by side in a row's pictures, where classes are drawn on them."""
    if draws(task):
        return "What was to be drawn, base, tuned"
    return "What is there, base, tuned" if task == "object-detection" else "Picture, mask, base, tuned"


def draws(task: str | None) -> bool:
    """Whether a task's models draw pictures."""
    return task in (UNCONDITIONAL, TO_IMAGE)


def counted(task: str | None) -> str:
    """What a task's rows are counted in: images, patches of them, moments of series, else tokens."""
    dense = dict.fromkeys(("image-segmentation", DETECTION), "patches")
    whole = dict.fromkeys(("image-classification", FEATURES, UNCONDITIONAL, TO_IMAGE), "images")
    return {**dense, **whole, FORECASTING: "time steps"}.get(task or "", "tokens")


def one_counted(task: str | None) -> str:
    """One of what a task's rows are counted in: a token, an image, a patch."""
    known = {"images": "an image", "patches": "a patch"}
    return known.get(counted(task), f"a {counted(task).removesuffix('s')}")


def counted_in_short(task: str | None) -> str:
    """What a second's work is counted in while a run works: tok, images."""
    return {"tokens": "tok"}.get(counted(task), counted(task))


def trained_of(trained: float, whole: float | None) -> str:
    """Parameters that were trained, of those of the model; what a method adds beside it may be more than it has."""
    if not whole:
        return f"{count(trained)} parameters trained"
    if trained > whole:
        return f"{count(trained)} parameters trained, some of them beside the model's {count(whole)}"
    return f"{count(trained)} of {count(whole)} parameters trained"


def rows_of(metric: str, n: int, task: str | None = None) -> str:
    """How many rows a metric was measured on, by what such a row is: "200 rows", "2 episodes"; with their `task` also
    "3 pictures", "4 windows".
    """
    one = row_of(metric, task)
    return f"{n:,} {one}{'' if n == 1 else 's'}"


def row_of(metric: str, task: str | None = None) -> str:
    """What a row is that a metric is measured on: an episode, a picture, a window of a series or an episode, a row."""
    pictures = (DETECTION, FEATURES, UNCONDITIONAL, TO_IMAGE, "image-classification", "image-segmentation")
    windows = (FORECASTING, PLAYING)
    return "episode" if metric in PLAYED else "picture" if task in pictures else "window" if task in windows else "row"


def metric_name(metric: str) -> str:
    """The metric in words."""
    return METRICS.get(metric, metric.replace("_", " "))


def drift_name(measure: str, start: str = "base") -> str:
    """The drift's measure in words, from the model that is called `start`."""
    known = {
        "kl": "KL",
        "forecast": "change of forecasts",
        "action": "change of actions",
        "denoising": "change of predictions",
    }
    name = known.get(measure, "1 \u2212 CKA")
    return f"{name} from {start}"


def drift_unit(measure: str, task: str | None) -> str:
    """The drift's unit; empty for a ratio."""
    places = {"image-segmentation": "pixel", "object-detection": "proposal", "reinforcement-learning": "action"}
    places |= dict.fromkeys((UNCONDITIONAL, TO_IMAGE), "code")
    scored = places.get(task or "", "token")
    return {
        "kl": f"nats per {scored}",
        **dict.fromkeys(("forecast", "action"), "standard deviations"),
        "denoising": "squared error per element",
    }.get(measure, "")


def verdict(measured: Measured) -> str:
    """better, worse, same or unclear: by whether the difference's interval leaves zero out."""
    difference = measured.difference
    if difference is None:
        return "unclear"
    if difference.value == 0 and (not difference.known or difference.low == difference.high == 0):
        return "same"
    if not difference.excludes(0):
        return "unclear"
    return "better" if (difference.value > 0) == (measured.direction == "higher") else "worse"


def change(measured: Measured, what: str) -> str:
    """One sentence: '<what> rose from 2 % to 74.2 %: +72.2 points, 95 % interval 65.9 to 78.1.'"""
    before, after, difference = measured.before, measured.after, measured.difference
    tail = f" {unit_of(measured.unit)}" if unit_of(measured.unit) else ""
    if before is None and after is None:
        return f"{what} was not measured."
    if before is None or after is None:
        one, when, other = (after, "after", "base") if after is not None else (before, "before", "tuned model")
        assert one is not None
        return f"{what} was {score(one.value, measured.unit)}{tail} {when} training; the {other} was not measured."
    fate = verdict(measured)
    if fate == "same":
        return f"{what} did not change: {score(after.value, measured.unit)}{tail}."
    ends = f"from {score(before.value, measured.unit)} to {score(after.value, measured.unit)}{tail}"
    if difference is None:
        return f"{what} went {ends}."
    by = score(difference.value, measured.unit, sign=True) + (" points" if measured.unit == "fraction" else "")
    inner = (
        f"{by}, {100 * difference.level:.0f} % interval {span(difference, measured.unit)}" if difference.known else by
    )
    if fate == "unclear":
        return f"{what} went {ends}, which is no clear change: {inner}."
    return f"{what} {'rose' if difference.value > 0 else 'fell'} {ends}: {inner}."


def subject(measured: Measured) -> str:
    """'loss on general', or the metric alone."""
    name = metric_name(measured.metric)
    played = "in" if measured.metric in ("return", "normalized_score") else "on"
    return f"{name} {played} {measured.name}" if measured.name else name


def beneath(pack: PackFigure) -> str:
    """Where a pack's change lies below its noise floor: what that is; else empty."""
    return f"below the pack's noise floor of {score(pack.floor, 'fraction', sign=True)[1:]} points" * pack.beneath


def of_metric(metric: str, target: str) -> str:
    """', accuracy' behind what stands beside a target of another metric; "" of the same."""
    return "" if metric == target else f", {metric_name(metric)}"


def joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def with_ends(interval: Interval, unit: str) -> str:
    """'54.2 % (48.0 to 60.4)'."""
    ends = span(interval, unit)
    return score(interval.value, unit) + (f" ({ends})" if ends else "")


def capital(text: str) -> str:
    """The text as a sentence or a heading begins; a name with a capital of its own ("mAP", "nDCG@10") stays."""
    first = text.split(" ", 1)[0]
    return text if first != first.lower() else text[:1].upper() + text[1:]
