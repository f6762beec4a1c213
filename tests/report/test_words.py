from __future__ import annotations

import pytest

from tests.report.example import make_example, of
from tunewright.measure.intervals import Interval
from tunewright.report import dial_words, sentences, summary, terminal, words
from tunewright.report.schema import Answer, Drift, Measured, Report, RunInfo, Strength, Target


@pytest.mark.parametrize(
    ("value", "unit", "sign", "text"),
    [
        (0.7583, "fraction", False, "75.8 %"),
        (0, "fraction", False, "0 %"),
        (1, "fraction", False, "100 %"),
        (0.741, "fraction", True, "+74.1"),
        (-0.05, "fraction", True, "−5.0"),
        (0, "fraction", True, "0"),
        (3.114, "nats per token", False, "3.11"),
        (0.0614, "nats per token", False, "0.061"),
        (0.00021, "nats per token", False, "0.00021"),
        (-0.8, "nats per token", True, "−0.80"),
        (1234.5, "seconds", False, "1,234"),
    ],
)
def test_a_score_is_said_in_its_unit(value: float, unit: str, sign: bool, text: str) -> None:
    assert words.score(value, unit, sign=sign) == text


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (47.6, "48 s"),
        (59.7, "1 min 00 s"),
        (252.4, "4 min 12 s"),
        (11_100, "3 h 05 min"),
    ],
)
def test_durations(x: float, text: str) -> None:
    assert words.seconds(x) == text


@pytest.mark.parametrize(
    ("x", "text"),
    [(0, "0"), (9_999, "9,999"), (31_204, "31.2k"), (999_960, "1.0M"), (4_884_480, "4.9M"), (2.52e13, "25.2T")],
)
def test_counts(x: float, text: str) -> None:
    assert words.count(x) == text


@pytest.mark.parametrize(("x", "text"), [(12, "12 B"), (19_552_304, "19.6 MB"), (1_912_340_480, "1.9 GB")])
def test_sizes(x: float, text: str) -> None:
    assert words.size(x) == text


@pytest.mark.parametrize(
    ("value", "half", "direction", "fate"),
    [
        (0.2, 0.1, "higher", "better"),
        (0.2, 0.1, "lower", "worse"),
        (-0.2, 0.1, "lower", "better"),
        (0.1, 0.1, "higher", "unclear"),
        (0, 0, "higher", "same"),
    ],
)
def test_a_verdict_needs_an_interval_without_zero(value: float, half: float, direction: str, fate: str) -> None:
    measured = Measured.model_validate({"metric": "m", "direction": direction, "difference": of(value, half)})
    assert words.verdict(measured) == fate


def test_a_difference_without_ends_is_unclear() -> None:
    assert words.verdict(Measured(metric="m", difference=Interval(value=1.0, n=1))) == "unclear"


def test_the_headline_says_gain_loss_drift_and_cost() -> None:
    gain, loss, drift, cost = sentences.headline(make_example())
    assert gain == "In this run exact match rose from 1.7 % to 75.8 %: +74.1 points, 95 % interval 68.6 to 79.6."
    assert loss.startswith("Loss on general rose from 3.11 to 3.69 nats per token: +0.58,")
    assert "drifted 1.52 nats per token" in drift and cost.startswith(
        "It cost 4 min 12 s, 31.2k training tokens and 19.6 MB"
    )


def test_this_run_is_not_said_of_an_interval_over_seeds() -> None:
    target = make_example().target
    assert target is not None
    over_seeds = target.model_copy(update={"difference": of(0.7, 0.1, 8, "seed"), "after": of(0.7, 0.1, 8, "seed")})
    report = make_example(target=over_seeds, kept=[], drift=None)
    assert not sentences.headline(report)[0].startswith("In this run")
    assert sentences.what_intervals_mean(report) == "Intervals: 95 %, over training seeds."
    assert "this run" in sentences.what_intervals_mean(make_example())


def test_nothing_gained_is_not_called_a_gain() -> None:
    target = Target(metric="accuracy", before=of(0.5, 0.1), after=of(0.5, 0.1), difference=of(0, 0), n=240)
    report = make_example(target=target, kept=[], drift=Drift(value=of(0, 0, 64, "sequence")))
    assert sentences.headline(report)[:2] == [
        "In this run accuracy did not change: 50.0 %.",
        "The model's outputs did not move from its base's at all.",
    ]
    assert dial_words.dialled(report) == ""
    unclear = target.model_copy(update={"difference": of(0.02, 0.1)})
    assert "no clear change" in sentences.headline(make_example(target=unclear))[0]


def test_a_run_that_stopped_says_so_first() -> None:
    run = RunInfo(name="x", status="interrupted", stopped_in="train")
    target = Target(metric="accuracy", before=of(0.5, 0.1))
    first, second = sentences.headline(Report(run=run, target=target))
    assert "was interrupted in the phase 'train'" in first and "the tuned model was not measured" in second


def test_the_dial_names_the_strength_that_keeps_most_of_the_gain_for_its_drift() -> None:
    assert (
        dial_words.dialled(make_example())
        == "At strength 0.5 exact match is 54.6 % (49.1 to 60.1) of the tuned model's 75.8 %, and the drift 0.29 "
        "(0.23 to 0.35) instead of 1.52, on these rows."
    )


def _classified(probe: float, half: float, fresh: bool = True) -> Report:
    against = Measured(
        metric="accuracy", before=of(probe, 0.03), after=of(0.89, 0.02), difference=of(0.89 - probe, half)
    )
    target = Target(
        metric="accuracy",
        before=of(0.13, 0.02),
        after=of(0.89, 0.02),
        difference=of(0.76, 0.04),
        n=240,
        fresh_head=fresh,
    )
    target.linear_probe, target.commonest = against, of(0.02, 0.01)
    return make_example(target=target, task="image-classification", notes=[])


def test_a_new_heads_gain_is_held_against_a_linear_probe() -> None:
    first, second = sentences.headline(_classified(0.80, 0.04))[:2]
    assert first == (
        "In this run accuracy is 89.0 %; a linear probe on the base's frozen features has 80.0 %, 9.0 points less "
        "(tuned minus probe, 95 % interval 5.0 to 13.0)."
    )
    assert second == "Before training, a head drawn at random gave 13.0 %."
    assert "no clear difference" in sentences.headline(_classified(0.88, 0.04))[0]
    assert "6.0 points more" in sentences.headline(_classified(0.95, 0.04))[0]
    own = sentences.headline(_classified(0.80, 0.04, fresh=False))
    assert own[0].startswith("In this run accuracy rose from 13.0 %") and own[1].startswith(
        "A linear probe on the base"
    )


def test_what_a_probe_gives_as_well_is_cautioned_about() -> None:
    assert sentences.beneath_probe(_classified(0.80, 0.04)) == "" == sentences.beneath_probe(make_example())
    assert "not shown to be better" in sentences.cautions(_classified(0.88, 0.04))[0]
    assert "is worse than" in sentences.cautions(_classified(0.95, 0.04))[0]


def test_pictures_are_counted_as_images() -> None:
    assert "31.2k training images" in sentences.headline(_classified(0.8, 0.04))[-1]
    assert "31.2k training tokens" in sentences.headline(make_example())[-1]


def test_drift_is_in_what_is_compared() -> None:
    report = make_example()
    for task, scored in (("object-detection", "proposal"), ("image-segmentation", "pixel"), ("fill-mask", "token")):
        report.task = task
        assert f"drifted 1.52 nats per {scored} from" in sentences.headline(report)[2]
        assert any(line.note.startswith(f"nats per {scored}") for line in summary.lines(report) if line.kind == "drift")


def test_few_rows_are_cautioned_about() -> None:
    assert "Only 40 rows" in sentences.small_sample(make_example(target=Target(metric="accuracy", n=40)))
    assert sentences.small_sample(make_example()) == ""


def test_the_lines_come_in_order_and_know_their_fate() -> None:
    assert [(line.kind, line.fate) for line in summary.lines(make_example())] == [
        ("target", "better"),
        ("beside", "better"),
        ("beside", "unclear"),
        ("kept", "worse"),
        ("drift", "moved"),
    ]


def test_the_dial_starts_at_the_base_and_ends_at_the_tuned_model() -> None:
    columns, rows = summary.dial(make_example())
    assert columns == ["exact match", "loss on general", "drift"]
    assert [r.name for r in rows] == ["0 (base)", "0.25", "0.5", "0.75", "1 (tuned)"]
    assert rows[0].cells[2][0] == "0" and rows[-1].cells[0][0] == "75.8 %"
    assert summary.dial(make_example(trade=[])) == ([], [])


def test_a_dial_without_drift_has_no_drift_column() -> None:
    columns, rows = summary.dial(make_example(drift=None))
    assert "drift" not in columns and all(len(r.cells) == len(columns) for r in rows)


def test_fates_of_right_and_wrong_and_of_graded_scores() -> None:
    def rows(*pairs: tuple[float | None, float | None]) -> list[Answer]:
        return [Answer(id=str(i), prompt="", base_score=b, tuned_score=t) for i, (b, t) in enumerate(pairs)]

    assert summary.fates(rows((0, 1), (1, 0), (0, 0), (1, 1), (None, 1))) == [
        "fixed",
        "broken",
        "both wrong",
        "both right",
        "",
    ]
    assert summary.fates(rows((0.2, 0.4), (1, 0.5), (0.3, 0.3))) == ["better", "worse", "same"]
    assert summary.fates(rows((1, 0), (0, 1)), "lower") == ["better", "worse"]


def test_a_dial_of_fewer_rows_says_so_and_starts_and_ends_on_them() -> None:
    few = [
        Strength(
            strength=s,
            target=of(t, 0.1, 60),
            kept={"general": of(3.0 + s, 0.2, 6, "document")},
            drift=of(s, 0.1, 16, "sequence"),
        )
        for s, t in ((0.0, 0.1), (0.5, 0.6), (1.0, 0.9))
    ]
    report = make_example(trade=few)
    assert dial_words.under_dial(report) == [
        "Every strength, base and tuned included, is here measured on 60 of 240 rows, 6 of 24 documents of general and "
        "16 of 64 sequences.",
        "At strength 0.5 exact match is 60.0 % (50.0 to 70.0) of the tuned model's 90.0 %, and the drift 0.50 (0.40 to "
        "0.60) instead of 1.00, on these rows.",
    ]
    assert [r.cells[2][0] for r in summary.dial(report)[1]][0] == "0" and "60 of 240 rows" in terminal.text(report)
    assert [s.target.value for s in dial_words.ends(report) if s.target] == [0.1, 0.9]
    assert (
        dial_words.dialled_on(make_example()) == ""
        and dial_words.ends(make_example())[0].target == make_example().target.before
    )
    lost = [s.model_copy(update={"target": of(1 - s.strength, 0.1, 60)}) for s in few]
    assert dial_words.dialled(make_example(trade=lost)) == "", "no gain on these rows: there is no share of it"


@pytest.mark.parametrize("metric", ["mse", "rmse", "mae", "r2", "pearson", "spearman"])
def test_of_numbers_the_plainest_answer_is_their_mean(metric: str) -> None:
    assert words.always(metric) == "always the training rows' mean"
    assert words.always("accuracy") == "always the commonest class"


@pytest.mark.parametrize(
    ("task", "counted", "in_short"),
    [
        ("text-generation", "tokens", "tok"),
        ("image-feature-extraction", "images", "images"),
        ("object-detection", "patches", "patches"),
        ("text-to-image", "images", "images"),
        ("time-series-forecasting", "time steps", "time steps"),
    ],
)
def test_work_is_counted_in_what_a_tasks_rows_are_made_of(task: str, counted: str, in_short: str) -> None:
    assert (words.counted(task), words.counted_in_short(task)) == (counted, in_short)


def test_more_parameters_than_the_model_has_are_not_a_share_of_it() -> None:
    assert words.trained_of(5e5, 1e6) == "500k of 1.0M parameters trained"
    assert words.trained_of(1.1e6, 1e6) == "1.1M parameters trained, some of them beside the model's 1.0M"
    assert words.trained_of(1.1e6, None) == "1.1M parameters trained"


def test_every_metric_is_named_in_words_and_keeps_its_own_capitals() -> None:
    from tunewright.measure.target import METRICS

    names = {name: words.metric_name(name) for name in METRICS}
    assert not [n for n in names.values() if "_" in n]
    assert names["mase"] == "MASE" and names["wql"] == "weighted quantile loss" and names["rmse"] != "rmse"
    assert words.capital("mAP at 0.5") == "mAP at 0.5" and words.capital("word error rate") == "Word error rate"
    assert words.capital(names["smape"]) == "sMAPE" and words.capital("") == ""
