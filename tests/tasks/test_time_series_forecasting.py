"""time-series-forecasting: windows that leak nothing, forecasts of plain models, errors counted by hand, whole runs."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tunewright.conformance.bench import seeded
from tunewright.conformance.task_series import SIZES, patchtst
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.data.dataset import stored
from tunewright.data.read import read_source
from tunewright.errors import DataError, MethodError, ModelError, RecipeError
from tunewright.finished.export import export
from tunewright.finished.finished import open_run
from tunewright.loading.load import load
from tunewright.measure import forecasts
from tunewright.measure.drift import MOVED, Features, feature_drift
from tunewright.planning.check import check_recipe
from tunewright.planning.init import starter
from tunewright.recipe import Recipe, Source
from tunewright.report.schema import Report
from tunewright.runs import held_out as holding
from tunewright.runs.assemble import assemble
from tunewright.runs.held_out import by_time
from tunewright.runs.run import resume, run
from tunewright.tasks import _forecasters, _forecasts, get_task
from tunewright.tasks._series import Series, Step, held_out, places, scales, seasonal_naive, windows

TASK = get_task("time-series-forecasting")
START = datetime(2020, 1, 1)
PLAIN = {"channels": None, "stride": 1, "test": 0.2, "backtests": None, "season": None}


def patchtsmixer(**sizes):
    """PatchTSMixer of two blocks, without dropout."""
    from transformers import PatchTSMixerConfig, PatchTSMixerForPrediction

    own = {"num_layers": 2, "expansion_factor": 2, "dropout": 0.0, "head_dropout": 0.0}
    return PatchTSMixerForPrediction(PatchTSMixerConfig(**{**SIZES, **own, **sizes}))


def options(model, **changes):
    return EncodeOptions(series={**PLAIN, **_forecasters.sizes(model.config), **changes})


def series_of(values, name=""):
    values = np.array(values, dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    times = [str(START + timedelta(hours=i)) for i in range(len(values))]
    wheres = [f"a.csv:{i + 2}" for i in range(len(values))]
    return Series(name, values, tuple("abcdefg"[: values.shape[1]]), Step("s", 3600), times, wheres)


def signal(steps, channels=2, seed=0):
    draw = np.random.default_rng(seed)
    t = np.arange(steps)[:, None]
    waves = np.sin(t * 2 * math.pi / 8 + np.arange(channels)) * 3 + 10 * (1 + np.arange(channels))
    return waves + 0.2 * draw.standard_normal((steps, channels))


def rows_of(model, values, split="rolling", **changes):
    how = options(model, **changes)
    found = windows(series_of(values), split, how.series)
    return [TASK.encode(Record({"window": w}, id=f"r:{w.at}", source="s"), None, how) for w in found]


def write(folder, values, name="series.csv", header=None):
    names = "abcdefg"[: values.shape[1]]
    lines = [header or f"date,{','.join(names)}"]
    for i, row in enumerate(values):
        lines.append(f"{START + timedelta(hours=i)},{','.join('' if v != v else f'{v:.4f}' for v in row)}")
    (folder / name).write_text("\n".join(lines) + "\n")
    return lines


# -- windows -----------------------------------------------------------------------------------------------------------

WINDOW = {"context": 6, "prediction": 3, "inputs": 1, "outputs": None, **PLAIN}


@pytest.mark.parametrize("steps", [30, 31, 47])
@pytest.mark.parametrize("how", [{}, {"test": 0.4}, {"backtests": 2}, {"stride": 4}, {"backtests": 1, "stride": 3}])
def test_no_target_of_the_held_out_end_is_in_a_training_window(steps, how):
    given = {**WINDOW, **how}
    train, test = (places(steps, split, given) for split in ("train", "test"))
    seen = {t for at in train for t in range(at - 6, at + 3)}
    judged = [t for at in test for t in range(at, at + 3)]
    assert judged and train and not seen & set(judged)
    assert len(judged) == len(set(judged)) == held_out(steps, given) and judged[-1] == steps - 1
    assert train[-1] + 3 == steps - len(judged)  # the last training window ends where the held-out end begins
    assert len(test) == given["backtests"] or given["backtests"] is None
    assert {b - a for a, b in zip(train, train[1:], strict=False)} <= {given["stride"]}


def test_windows_of_a_whole_file_are_all_or_rolled_from_its_end():
    assert list(places(20, None, WINDOW)) == list(range(6, 18))
    assert list(places(20, "rolling", WINDOW)) == [8, 11, 14, 17]
    assert list(places(20, "rolling", {**WINDOW, "backtests": 2})) == [14, 17]
    assert list(places(8, "rolling", WINDOW)) == []


def test_what_errors_are_divided_by_is_of_the_values_before_the_held_out_end():
    values, end = signal(40, 1), 40 - held_out(40, WINDOW)
    first = next(windows(series_of(values), "test", WINDOW))
    other = values.copy()
    other[end:] *= 100  # the held-out end alone
    changed = next(windows(series_of(other), "test", WINDOW))
    assert end == 34 and (first.std, first.mase) == (changed.std, changed.mase)
    assert first.mase == pytest.approx(np.abs(values[24:end] - values[: end - 24]).mean())  # hours, a day apart
    assert first.std == pytest.approx(values[:end].std())
    assert next(windows(series_of(other), "train", WINDOW)).std == first.std
    other[:end] *= 2
    assert next(windows(series_of(other), "train", WINDOW)).std == pytest.approx(2 * first.std)


def test_a_series_is_as_long_as_a_window_or_told_so():
    with pytest.raises(RowProblem, match="has 8 steps, and a window takes 9: 6 of context and 3 to forecast"):
        list(windows(series_of(np.arange(8)), "rolling", WINDOW))
    with pytest.raises(RowProblem, match="the last 3 are held out, which leaves 8 to learn from"):
        list(windows(series_of(np.arange(11)), "train", WINDOW))
    assert len(list(windows(series_of(np.arange(9)), "rolling", WINDOW))) == 1


def test_what_is_missing_is_masked_and_no_error_is_taken_of_it():
    model = seeded(patchtst).eval()
    values = signal(16, 1)
    values[3] = values[13] = np.nan
    (row,) = rows_of(model, values)
    batch = TASK.collate([row])
    assert batch.inputs["past_observed_mask"][0, :, 0].tolist() == [float(t != 3) for t in range(12)]
    assert batch.fields["known"][0, :, 0].tolist() == [1, 0, 1, 1]
    assert row.fields["past"][3] == pytest.approx(np.nanmean(values[:12]))
    with torch.no_grad():
        out = TASK.forward(model, batch)
        full = TASK.loss(out, batch).value
        batch.fields["future"][0, 1] = 1e6
        assert torch.equal(TASK.loss(out, batch).value, full)
    unknown = signal(16, 2)
    unknown[:12, 1] = np.nan
    assert not list(windows(series_of(unknown), "rolling", {**WINDOW, "context": 12, "prediction": 4}))


def test_naive_forecasts_repeat_the_last_season_and_the_last_value():
    history = np.array([[1.0], [2.0], [3.0], [np.nan], [5.0]])
    assert seasonal_naive(history, 3, 4)[:, 0].tolist() == [3, 5, 5, 3]  # what is unknown is the last known value
    assert seasonal_naive(history, 9, 2)[:, 0].tolist() == [5, 5]
    assert scales(np.array([[1.0], [3.0], [2.0]]), 1) == [1.5]
    assert np.isnan(scales(np.ones((9, 1)), 2)).all()
    assert scales(np.array([[1.0], [3.0]]), 24) == [2.0]  # no longer than a season: of the last values


# -- models ------------------------------------------------------------------------------------------------------------

NLL = {"loss": "nll", "init_std": 0.02}


@pytest.mark.parametrize("make", [patchtst, patchtsmixer])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scaling", ["std", "mean", None])
def test_forecasts_are_those_of_a_plain_forward(make, channels, scaling):
    model = seeded(lambda: make(num_input_channels=channels, scaling=scaling)).eval()
    rows = rows_of(model, signal(28, channels))
    batch = TASK.collate(rows)
    with torch.no_grad():
        out = TASK.forward(model, batch, hidden=True)
        plain = model(past_values=batch.inputs["past_values"], future_values=batch.fields["future"])
        given = TASK.loss(out, batch).value
    assert len(rows) == 4 and torch.equal(out.raw.forecast, plain.prediction_outputs)
    std = batch.fields["std"][:, None]
    expected = (((plain.prediction_outputs - batch.fields["future"]) / std) ** 2).mean((1, 2))
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)
    assert out.features.shape == (4, 16) and out.hidden[-1].shape == (4, 3 * channels, 16)
    said = json.loads(TASK.predict(out, batch, rows)[0][0])
    assert list(said) == list("abc"[:channels])
    close = torch.tensor([said[n] for n in said]).T
    torch.testing.assert_close(close, plain.prediction_outputs[0], rtol=0, atol=float(std.max()) * 1e-4)


@pytest.mark.parametrize("make", [patchtst, patchtsmixer])
@pytest.mark.parametrize("kind", ["student_t", "normal", "negative_binomial"])
def test_distributions_are_transformers_own_and_their_quantiles_lie_where_samples_do(make, kind):
    model = seeded(lambda: make(num_input_channels=1, distribution_output=kind, scaling="mean", **NLL)).eval()
    rows = rows_of(model, np.abs(signal(20, 1)).round())
    batch = TASK.collate(rows)
    with torch.no_grad():
        out = TASK.forward(model, batch)
        plain = model(past_values=batch.inputs["past_values"], future_values=batch.fields["future"])
        torch.testing.assert_close(TASK.loss(out, batch).value.mean(), plain.loss, rtol=1e-4, atol=1e-4)
        torch.manual_seed(0)
        if make is patchtsmixer and kind == "negative_binomial":  # its generate puts the scale in twice
            count, logits = model(past_values=batch.inputs["past_values"]).prediction_outputs
            drawn = torch.distributions.NegativeBinomial(count, logits=logits).sample((2000,)).transpose(0, 1)
        else:
            model.config.num_parallel_samples = model.num_parallel_samples = 2000
            drawn = model.generate(past_values=batch.inputs["past_values"]).sequences  # [R, N, P, 1]
    found = _forecasters.quantiles_of(out.raw)
    assert found.shape == (len(rows), 4, 1, 9)
    below = (drawn[:, :, :, :, None] <= found[:, None] + 1e-6).float().mean(1)  # how many lie at or below each
    levels = torch.tensor(_forecasters.QUANTILES)
    assert bool((below >= levels - 0.05).all())
    if kind != "negative_binomial":  # of whole numbers many lie on a quantile
        assert bool((below - levels).abs().max() < 0.05)
    middle = drawn.mean(1) if kind == "negative_binomial" else drawn.median(1).values
    torch.testing.assert_close(out.raw.forecast, middle, rtol=0.1, atol=1.5)
    text = TASK.predict(out, batch, rows)[0][0]
    assert _forecasts.has_quantiles(text) and list(json.loads(text)["a"]) == [f"{q:g}" for q in _forecasters.QUANTILES]


def timesfm():
    from transformers import TimesFmConfig, TimesFmModelForPrediction

    sizes = {"patch_length": 4, "context_length": 12, "horizon_length": 4, "num_hidden_layers": 2, "head_dim": 8}
    more = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    return TimesFmModelForPrediction(TimesFmConfig(**sizes, **more))


def test_timesfm_reads_one_channel_and_gives_deciles():
    model = seeded(timesfm).eval()
    rows = rows_of(model, signal(28, 1))
    batch = TASK.collate(rows)
    with torch.no_grad():
        out = TASK.forward(model, batch, hidden=False)
        plain = model(past_values=list(batch.inputs["past_values"][..., 0]))
    assert torch.allclose(out.raw.forecast[..., 0], plain.mean_predictions, atol=1e-5)
    assert torch.allclose(_forecasters.quantiles_of(out.raw)[:, :, 0], plain.full_predictions[..., 1:], atol=1e-5)
    future, std = batch.fields["future"][..., 0], batch.fields["std"]
    squared = ((future - plain.mean_predictions) / std) ** 2
    levels = torch.tensor(_forecasters.QUANTILES)
    short = (future[..., None] - plain.full_predictions[..., 1:]) / std[..., None]
    pinball = torch.maximum(levels * short, (levels - 1) * short).mean(-1)
    torch.testing.assert_close(TASK.loss(out, batch).value, (squared + pinball).mean(1), rtol=1e-4, atol=1e-5)


def test_a_mixer_may_forecast_some_of_its_channels():
    model = seeded(lambda: patchtsmixer(num_input_channels=3, prediction_channel_indices=[2, 0])).eval()
    (row,) = rows_of(model, signal(16, 3))
    assert row.fields["names"] == [["a", "b", "c"][k] for k in model.config.prediction_channel_indices]
    batch = TASK.collate([row])
    with torch.no_grad():
        out = TASK.forward(model, batch)
    assert out.logits.shape == (1, 8) and torch.isfinite(TASK.loss(out, batch).value).all()


# -- errors ------------------------------------------------------------------------------------------------------------


def texts(said, right, scale=2.0, std=4.0):
    return json.dumps({"a": said}), json.dumps({"a": {"right": right, "mase": scale, "std": std}})


def test_errors_are_those_counted_by_hand():
    pair = texts([1.0, 2.0, 9.0], [3.0, 2.0, None])
    assert forecasts.mase(*pair) == pytest.approx((2 + 0) / 2 / 2)
    assert forecasts.smape(*pair) == pytest.approx((2 * 2 / 4 + 0) / 2)
    assert forecasts.scaled_mse(*pair) == pytest.approx((0.25 + 0) / 2)
    assert forecasts.scaled_mae(*pair) == pytest.approx((0.5 + 0) / 2)
    assert forecasts.wql(*pair) == pytest.approx(2 / 5)  # without quantiles: sum |y - f| / sum |y|
    assert forecasts.smape(*texts([0.0], [0.0])) == 0.0


def test_wql_is_gluonts_mean_weighted_quantile_loss():
    levels = {f"{q:g}": [10 * q, 5.0] for q in _forecasters.QUANTILES}
    right = [7.0, 4.0]
    summed = 0.0
    for q in _forecasters.QUANTILES:
        for value, y in zip(levels[f"{q:g}"], right, strict=True):
            summed += 2 * abs((value - y) * ((y <= value) - q)) / len(_forecasters.QUANTILES)
    assert forecasts.wql(*texts(levels, right)) == pytest.approx(summed / 11)
    assert forecasts.mase(*texts(levels, right)) == pytest.approx((2 + 1) / 2 / 2)  # by the middle one


def test_a_series_without_a_scale_counts_nothing_in_mase():
    class Told:
        def __init__(self, pair):
            self.answer, self.reference = pair
            self.score = forecasts.mase(*pair)

    rows = [Told(texts([1.0], [3.0])), Told(texts([1.0], [3.0], scale=None))]
    assert forecasts.mean_mase(rows) == 1.0 and math.isnan(forecasts.mean_mase(rows[1:]))
    model = seeded(patchtst)
    still = rows_of(model, np.ones((16, 1)))
    assert TASK.default_metric(still) == "scaled_mae" and still[0].fields["std"] == 1.0
    assert TASK.default_metric(rows_of(model, signal(16, 1))) == "mase"


def test_drift_is_how_far_forecasts_moved():
    base = Features(torch.zeros(3, 4), foretold=MOVED)
    tuned = Features(torch.tensor([[0.0] * 4, [1.0] * 4, [2.0, 0, 0, 0]]), foretold=MOVED)
    drift = feature_drift(base, tuned)
    assert drift.values == [0.0, 1.0, 1.0] and drift.measure == "forecast"


# -- recipes and runs --------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    seeded(lambda: patchtst(num_input_channels=2)).save_pretrained(tmp_path / "base")
    write(tmp_path, signal(80))
    write(tmp_path, signal(60, seed=1), "old.csv")
    return tmp_path


def recipe(folder, **changes):
    tree = {
        "model": "./base",
        "task": TASK.name,
        "data": {"train": "series.csv", "series": {"backtests": 3, "stride": 2}},
        "methods": [{"lora": {"rank": 4}}],
        "train": {"learning_rate": 0.01, "batch_tokens": 60, "threads": 1, "device": "cpu"},
        "budget": {"steps": 6},
        "measurement": {"strengths": [1]},
    }
    (folder / "recipe.yaml").write_text(json.dumps(tree | changes))
    return Recipe.load(folder / "recipe.yaml")


def test_a_recipe_says_what_it_leaves_out(folder):
    made = recipe(folder)
    assert [(s.path, s.format, s.split) for s in made.data.train] == [("series.csv", "series", "train")]
    assert [(s.path, s.format, s.split) for s in made.data.eval] == [("series.csv", "series", "test")]
    assert made.train.precision == "float32"
    again = recipe(folder, **json.loads(json.dumps({"data": made.data.model_dump()})))
    assert again.data == made.data
    other = recipe(folder, data={"train": "series.csv", "eval": "old.csv"})
    assert (other.data.train[0].split, other.data.eval[0].split) == (None, "rolling")
    with pytest.raises(RecipeError, match="reads no time series"):
        recipe(folder, task="text-generation")


def test_what_is_held_out_is_the_end_whatever_part_is_named(folder):
    data = {"train": {"path": "series.csv", "split": "train"}}
    assert [s.split for s in recipe(folder, data=data).data.eval] == ["test"]
    data["train"]["split"] = "last"
    with pytest.raises(DataError, match="it has no part 'last'"):
        assemble(recipe(folder, data=data), weights=False)


def by_name(path: str, folder: Path, problems: list[Any] | None = None) -> dict[str, Any]:
    """The series of a source by name."""
    read = read_source(Source(path=path, format="series"), folder, problems)
    return {r["series"].name: r["series"] for r in read}


def test_a_folder_holds_a_series_a_file_or_goes_on_with_an_id_from_file_to_file(folder: Path) -> None:
    place = folder / "stores"
    (place / "north").mkdir(parents=True)
    (place / "README.md").write_text("of stores")
    write(place, signal(40), "b.csv")
    write(place / "north", signal(30), "a.csv")
    assert {n: len(s.values) for n, s in by_name("stores", folder).items()} == {"b": 40, "a": 30}
    made = recipe(folder, data={"train": "stores"})
    assert [s.split for s in (*made.data.train, *made.data.eval)] == ["train", "test"]
    how = options(load(str(folder / "base"), TASK).model)
    rows = stored(made.data.eval[0], TASK, None, how, folder / "cache", base=folder).rows
    assert check_recipe(made).ok
    assert {str(r.id).split("@")[0] for r in rows} == {"stores:a", "stores:b"}

    write(place, signal(50), "a.csv")
    assert {n: len(s.values) for n, s in by_name("stores", folder).items()} == {"a.csv": 50, "b": 40, "north/a.csv": 30}

    lines = [f"x,2020-01-{i + 1:02},{i}" for i in range(20)]
    for name, some in (("2.csv", lines[10:]), ("1.csv", lines[:10])):
        (folder / "months").mkdir(exist_ok=True)
        (folder / "months" / name).write_text("id,timestamp,value\n" + "\n".join(some) + "\n")
    assert [int(v) for v in by_name("months", folder)["x"].values[:, 0]] == list(range(20))
    (folder / "months" / "3.csv").write_text("id,timestamp,value\nx,2020-01-05,1\n")
    problems: list[Any] = []
    assert not by_name("months", folder, problems) and problems[0].where.startswith("months/3.csv:")
    (folder / "months" / "3.csv").write_text("id,timestamp,load,wind\nx,2020-01-21,1,2\n")
    problems = []
    by_name("months", folder, problems)
    assert problems[0].reason == "series 'x' began with value, and here it has load, wind"


def test_files_of_a_folder_that_are_not_of_one_kind_are_named(folder: Path) -> None:
    place, problems = folder / "mixed", list[Any]()
    place.mkdir()
    days = [f"2020-01-{i + 1:02}" for i in range(20)]
    (place / "one.csv").write_text("timestamp,load,wind\n" + "".join(f"{d},1,2\n" for d in days))
    (place / "two.csv").write_text("timestamp,load,rain\n" + "".join(f"{d},1,2\n" for d in days))
    (place / "notes.txt").write_text("of stations\nand their ways\n")
    assert list(by_name("mixed", folder, problems)) == ["one"]
    reasons = {p.where: p.reason for p in problems}
    assert len(problems) == 2 and "no table" in reasons["mixed/notes.txt:1"]
    assert reasons["mixed/two.csv:2"] == "its columns are load, rain, and those of 'one' load, wind"
    for name in ("two.csv", "notes.txt"):
        (place / name).unlink()
    (place / "two.csv").write_text("timestamp,sun\n" + "".join(f"{d},1\n" for d in days))
    (place / "one.csv").write_text("timestamp,rain\n" + "".join(f"{d},1\n" for d in days))
    assert sorted(by_name("mixed", folder)) == ["one", "two"]  # a column each may be called as its file is

    (place / "one.csv").write_text("id,timestamp,v\n" + "".join(f"x,{d},1\n" for d in days[10:]))
    (place / "two.csv").write_text("id,timestamp,v\n" + "".join(f"x,{d},1\n" for d in days[:10]))
    problems = []
    by_name("mixed", folder, problems)
    assert "which is in mixed/one.csv:11" in problems[0].reason and "names" in problems[0].remedy


def test_a_saved_data_set_holds_series(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [
        {"start": START, "target": [[math.sin(i + k) for i in range(60)]] * 2, "freq": "D", "item_id": f"T{k}"}
        for k in range(3)
    ]
    how = options(load(str(folder / "base"), TASK).model)
    one = datasets.Dataset.from_list(rows)
    one.save_to_disk(str(folder / "one"))
    datasets.DatasetDict({"train": one, "test": one}).save_to_disk(str(folder / "several"))
    for name in ("one", "several"):
        assert {n: len(s.values) for n, s in by_name(name, folder).items()} == {"T0": 60, "T1": 60, "T2": 60}
        checked = check_recipe(made := recipe(folder, data={"train": name}))
        assert checked.ok, checked
        rows = stored(made.data.eval[0], TASK, None, how, folder / "cache", base=folder).rows
        assert len({str(r.id).split("@")[0] for r in rows}) == 3
    (folder / "drawn").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "drawn" / "a.png")
    with pytest.raises(DataError, match="pictures or recordings holds no series"):
        by_name("drawn", folder)


def test_a_share_for_validation_is_the_last_windows_and_none_that_reach_into_them(folder):
    how = options(load(str(folder / "base"), TASK).model)
    source = Source(path="series.csv", format="series", split="train")
    rows = stored(source, TASK, None, how, folder / "cache", base=folder)
    learnt, judged = by_time(rows, 0.2)
    ends = [int(r.fields["at"]) for r in judged.rows]
    assert ends == sorted(ends) and {b - a for a, b in zip(ends, ends[1:], strict=False)} == {4}
    assert max(int(r.fields["at"]) + 4 for r in learnt.rows) <= min(ends)
    assert max(ends) == 80 - held_out(80, how.series) - 4
    with pytest.raises(DataError, match="leave none to train on"):
        by_time(rows, 0.99)
    asked = SimpleNamespace(
        data=SimpleNamespace(validation=0.2), sequence=None, train=SimpleNamespace(seed=0)
    )  # a recipe's share, whatever the task
    left, held = holding.held_out(asked, rows, TASK, lambda sources: rows)
    assert [[r.id for r in d.rows] for d in (left, held)] == [[r.id for r in d.rows] for d in (learnt, judged)]


@pytest.mark.parametrize("methods", [["full"], [{"lora": {"rank": 4}}]])
def test_a_run_forecasts_beside_naive_ones_resumes_and_goes_out(methods, folder):
    out = folder / "run"
    run(recipe(folder, methods=methods, keep=["old.csv"]), out, quiet=True)
    report = Report.load(out)
    target = report.target
    assert target.metric == "mase" and target.n == 3 and target.direction == "lower"
    assert [m.metric for m in target.others] == ["smape", "scaled_mse", "scaled_mae"]
    assert [m.name for m in target.baselines] == ["seasonal naive", "last value"]
    assert all(m.difference is not None and m.after == target.after for m in target.baselines)
    assert report.drift.measure == "forecast" and report.drift.value.value > 0 and report.drift.on == "kept rows"
    assert [k.name for k in report.kept] == ["old"] and report.kept[0].after is not None
    resume(out, verify=True, quiet=True)
    export(out, folder / "model")
    from transformers import PatchTSTForPrediction

    model = PatchTSTForPrediction.from_pretrained(folder / "model").eval()
    values = np.loadtxt(folder / "series.csv", delimiter=",", skiprows=1, usecols=(1, 2))
    lines = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"series.csv:{START + timedelta(hours=at)}" for at in (68, 72, 76)]
    for line, at in zip(lines, (68, 72, 76), strict=True):
        with torch.no_grad():
            said = model(past_values=torch.tensor(values[None, at - 12 : at]).float()).prediction_outputs[0]
        told = torch.tensor([json.loads(line["tuned"])[n] for n in "ab"]).T
        torch.testing.assert_close(told, said, rtol=0, atol=1e-3)


def test_an_adapter_is_loaded_by_peft_with_the_runs_forecasts(folder):
    from peft import PeftModel
    from transformers import PatchTSTForPrediction

    out = run(recipe(folder), folder / "run", quiet=True).folder
    finished = open_run(out)
    adapter = next(p.parent for p in out.rglob("adapter_config.json"))
    theirs = PeftModel.from_pretrained(PatchTSTForPrediction.from_pretrained(folder / "base"), adapter).eval()
    past = torch.tensor(signal(12)[None]).float()
    with torch.no_grad():
        ours = finished.adapted.model(past_values=past).prediction_outputs
        torch.testing.assert_close(theirs(past_values=past).prediction_outputs, ours, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(load(str(folder / "base"), TASK).model(past_values=past).prediction_outputs, ours)


def test_windows_of_a_series_that_stands_still_are_no_duplicates_of_its_row(folder):
    row = {"start": "2024-01-01", "freq": "D", "target": np.ones_like(signal(80)).T.tolist()}
    (folder / "still.jsonl").write_text(json.dumps(row) + "\n")
    found = check_recipe(recipe(folder, data={"train": "still.jsonl"})).report.notices
    assert not [n for n in found if n.kind == "duplicate"]


def test_check_names_what_is_wrong_with_series_once(folder):
    lines = write(folder, signal(80))
    lines[10] = lines[10].rsplit(",", 1)[0] + ",broken"
    (folder / "series.csv").write_text("\n".join(lines))
    found = check_recipe(recipe(folder)).bad_rows
    assert {(p.where, p.field) for p in found} == {("series.csv:11", "b")} and "'broken'" in found[0].reason
    data = {"train": "series.csv", "series": {"channels": ["a"]}}
    assert "the model reads 2" in check_recipe(recipe(folder, data=data)).bad_rows[0].reason
    data["series"]["channels"] = ["a", "z"]
    assert "no column 'z'" in check_recipe(recipe(folder, data=data)).bad_rows[0].reason


def test_each_channel_is_a_series_for_a_model_of_one(folder):
    model = seeded(patchtst)
    (folder / "three.csv").write_text("\n".join(write(folder, np.c_[signal(40, 2), np.ones(40)])))
    source = Source(path="three.csv", format="series", split="test")
    rows = stored(source, TASK, None, options(model, backtests=1), folder / "cache", base=folder)
    assert [r.fields["series"] for r in rows.rows] == ["a", "b", "c"] and len({r.id for r in rows.rows}) == 3
    assert [bool(np.isnan(r.fields["mase"]).any()) for r in rows.rows] == [False, False, True]
    assert any("each of 3 is read as a series of its own" in told for told in rows.remarks)
    assert any("'c'" in told and "MASE is not defined" in told for told in rows.remarks)


@pytest.mark.parametrize("kind", ["TimeSeriesTransformer", "Informer", "Autoformer"])
def test_models_that_read_features_of_time_are_refused_by_name(kind):
    import transformers

    config = getattr(transformers, f"{kind}Config")(prediction_length=4, context_length=8, num_time_features=2)
    with pytest.raises(ModelError, match=f"a {config.model_type} model reads 2 features of time") as refused:
        _forecasters.refuse(config, "base")
    assert refused.value.where == "base" and "PatchTST" in refused.value.remedy


def test_what_does_not_fit_a_forecast_is_refused(folder):
    with pytest.raises(RecipeError, match="'wql' judges quantiles"):
        assemble(recipe(folder, measurement={"metric": "wql"}), weights=False)
    with pytest.raises(MethodError, match="gives values and no classes"):
        assemble(recipe(folder, methods=["lora", "stablemax"]), weights=False)
    with pytest.raises(ModelError, match="it does: time-series-forecasting"):
        load(str(folder / "base"), "text-classification", labels=["a", "b"], weights=False)


def test_init_writes_a_recipe_that_is_read(folder):
    text = starter(str(folder / "base"), folder / "series.csv")
    assert "1 series of 80 steps, 1 hour apart, 2 channels" in text and "task: time-series-forecasting" in text
    assert "# season: 24" in text and "the last 16 steps" in text and "about 49 of 12 steps and 4 to forecast" in text
    (folder / "first.yaml").write_text(text)
    made = Recipe.load(folder / "first.yaml")
    assert made.data.eval[0].split == "test" and made.stages[0].methods[0].name == "full"
