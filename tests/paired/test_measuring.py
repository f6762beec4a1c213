"""`tunewright measure`: any two models on the same rows, and what the figures say."""

from __future__ import annotations

import dataclasses
import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from typer.testing import CliRunner

from tests import small, tiny
from tunewright.commands.cli import app
from tunewright.errors import DataError, FolderError, MissingExtraError, ModelError, NonFiniteError, RecipeError
from tunewright.measure.intervals import discordant, mcnemar, welch_interval, wilson
from tunewright.paired import measuring, reading, shown
from tunewright.paired.measuring import measure
from tunewright.paired.request import Request, columns, conditions, named
from tunewright.paired.result import Pair
from tunewright.paired.sides import asked
from tunewright.report.schema import Report
from tunewright.runs.run import run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with base/, rows, and three runs of other seeds."""
    folder = tmp_path_factory.mktemp("paired")
    small.write_inputs(folder, test=24)
    for seed in (1, 2, 3):
        file = small.write_recipe(folder, f"r{seed}", train__seed=seed, stages__0__budget={"steps": 8})
        run(file, out=folder / f"run{seed}", quiet=True)
    return folder


def at(folder: Path, *names: str) -> list[str]:
    return [str(folder / n) for n in names]


def test_a_run_against_its_base_gives_the_runs_own_figures(made: Path, tmp_path: Path) -> None:
    pair = measure(Request(at(made, "base"), at(made, "run1")), tmp_path)
    report = Report.load(made / "run1")
    assert pair.target is not None and report.target is not None
    for name in ("before", "after", "difference"):
        assert getattr(pair.target, name) == getattr(report.target, name)
        ours, theirs = getattr(pair.kept[0], name), getattr(report.kept[0], name)
        assert (ours.value, ours.low, ours.high) == pytest.approx((theirs.value, theirs.low, theirs.high), abs=1e-5)
    assert report.target.likelihood is not None
    assert pair.others[0].difference == report.target.likelihood.difference
    assert Pair.load(tmp_path) == pair
    assert pair.drift is not None and report.drift is not None
    assert pair.drift.value.n == report.drift.value.n == 4, "as many sequences as the run took"
    assert pair.drift.value.value == pytest.approx(report.drift.value.value, abs=1e-5)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 24 and {"base", "tuned", "reference"} <= set(rows[0])


def test_two_ways_round_the_difference_changes_its_sign(made: Path) -> None:
    one = measure(Request(at(made, "run1"), at(made, "run2")))
    other = measure(Request(at(made, "run2"), at(made, "run1")))
    a, b = one.kept[0].difference, other.kept[0].difference
    assert a is not None and b is not None
    assert a.value == pytest.approx(-b.value, abs=1e-9) and a.value != 0
    assert one.drift is not None and one.drift.value.value > 0


def test_a_model_against_itself_is_no_change(made: Path) -> None:
    pair = measure(Request(at(made, "run1"), at(made, "run1")))
    assert pair.target is not None and pair.target.right == (0, 0) and pair.target.mcnemar == 1.0
    assert pair.drift is not None and pair.drift.value.value == pytest.approx(0, abs=1e-9)
    assert pair.kept[0].difference is not None and pair.kept[0].difference.value == 0


@pytest.mark.slow
def test_a_peft_adapter_is_read_on_its_base_as_peft_reads_it(made: Path, tmp_path: Path) -> None:
    model = get_peft_model(tiny.llama(), LoraConfig(r=2, target_modules=["q_proj", "up_proj"]))
    for n, p in model.named_parameters():
        if "lora_" in n:  # both factors: PEFT draws A from the global generator
            torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(3))
    model.save_pretrained(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(made / "base")
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    tiny.tokenizer().save_pretrained(tmp_path / "merged")
    request = {"data": at(made, "test.jsonl"), "keep": at(made, "keep.txt")}
    one = measure(Request(at(made, "base"), [str(tmp_path / "adapter")], **request))
    other = measure(Request(at(made, "base"), [str(tmp_path / "merged")], **request))
    assert one.kept[0].after is not None and other.kept[0].after is not None and one.kept[0].before is not None
    assert one.kept[0].after.value == pytest.approx(other.kept[0].after.value, abs=3e-3)  # bfloat16
    assert abs(one.kept[0].after.value - one.kept[0].before.value) > 0.01
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "adapter", moved)
    config["base_model_name_or_path"] = "nowhere/at-all"
    (moved / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(MissingExtraError, match="--base"):
        measure(Request(at(made, "base"), [str(moved)], **request))
    named_base = measure(Request(at(made, "base"), [str(moved)], base=str(made / "base"), **request))
    assert named_base.kept == one.kept


@pytest.mark.slow
def test_several_seeds_give_intervals_over_seeds(made: Path) -> None:
    pair = measure(Request(at(made, "run1", "run2"), at(made, "run3", "run2")))
    one_by_one = {n: measure(Request(at(made, "base"), at(made, n))) for n in ("run1", "run2", "run3")}
    losses = {n: p.kept[0].after.value for n, p in one_by_one.items() if p.kept[0].after is not None}
    expected = welch_interval([losses["run1"], losses["run2"]], [losses["run3"], losses["run2"]])
    found = pair.kept[0].difference
    assert found is not None and found.unit == "seed"
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
    assert pair.drift is None and pair.target is not None and pair.target.mcnemar is None
    one_side = measure(Request(at(made, "base"), at(made, "run1", "run2", "run3")))
    assert one_side.drift is not None and one_side.drift.value.unit == "seed" and one_side.drift.value.n == 3
    drifts = [p.drift.value.value for p in one_by_one.values() if p.drift is not None]
    assert one_side.drift.value.value == pytest.approx(np.mean(drifts))


def test_welchs_interval_is_scipys_and_covers() -> None:
    from scipy.stats import ttest_ind

    rng = np.random.default_rng(0)
    inside = 0
    for i in range(400):
        a, b = rng.normal(0, 1, 4), rng.normal(0.5, 3, 7)
        ours = welch_interval(a.tolist(), b.tolist())
        if i < 20:
            theirs = ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
            assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
        inside += not ours.excludes(0.5)
    assert 0.92 <= inside / 400 <= 0.98
    assert not welch_interval([1.0], [1.0, 2.0]).known
    assert welch_interval([1.0, 1.0], [2.0, 2.0]).low == 1.0


def test_mcnemar_is_the_exact_test_of_the_discordant_rows() -> None:
    assert discordant([1, 1, 0, 0, 1], [1, 0, 1, 0, 0]) == (2, 1)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(0, 5) == pytest.approx(2 / 2**5)
    assert mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)


def test_other_vocabularies_are_told_in_bits_a_byte_and_without_kl(made: Path, tmp_path: Path) -> None:
    other = tiny.tokenizer()
    other.add_tokens(["card fee"])
    model = tiny.llama()
    model.resize_token_embeddings(len(other))
    model.save_pretrained(tmp_path / "other")
    other.save_pretrained(tmp_path / "other")
    request = Request(at(made, "base"), [str(tmp_path / "other")], at(made, "test.jsonl"), at(made, "keep.txt"))
    pair = measure(request)
    assert pair.kept[0].metric == "bits_per_byte" and pair.kept[0].unit == "bits per byte"
    assert pair.kept[0].difference is not None and pair.kept[0].difference.known
    assert pair.drift is None and any("other vocabularies" in n for n in pair.notes)


@pytest.mark.slow
def test_every_option_changes_what_is_measured(made: Path, tmp_path: Path) -> None:
    sides = at(made, "base"), at(made, "run1")
    plain = measure(Request(*sides))
    assert plain.target is not None
    fewer = measure(Request(*sides, rows=5))
    assert fewer.target is not None and fewer.target.n == 5
    loss = measure(Request(*sides, metric="loss"))
    assert loss.target is not None and (loss.target.metric, loss.target.direction) == ("loss", "lower")
    renamed = tmp_path / "renamed.jsonl"
    rows = [json.loads(line) for line in (made / "test.jsonl").read_text().splitlines()][:7]
    renamed.write_text("\n".join(json.dumps({"q": r["prompt"], "a": r["completion"]}) for r in rows))
    mapped = measure(Request(*sides, data=[str(renamed)], columns=columns(["prompt=q", "completion=a"])))
    assert mapped.target is not None and mapped.target.n == 7
    texts = measure(Request(*sides, keep=[f"other={made / 'keep.txt'}"]))
    assert [k.name for k in texts.kept] == ["other"]
    short = measure(Request(*sides, keep=[f"other={made / 'keep.txt'}"], keep_limit=2))
    assert short.kept[0].n == 2 and (texts.kept[0].n or 0) > 2
    own = measure(Request(*sides, keep_limit=1))
    assert plain.kept and [k.n for k in own.kept] == [1] * len(plain.kept)
    few = measure(Request(*sides, keep=["pack:arithmetic"], keep_limit=3))
    assert few.packs[0].n == 3
    judged = measure(Request(*sides, bounds=conditions(["drift <= 100", "target >= 0.999"])))
    assert judged.gate is not None and judged.gate.verdict == "fails"
    with pytest.raises(ModelError, match="fill-mask"):
        measure(Request(sides[0], sides[0], task="fill-mask", keep=[f"other={made / 'keep.txt'}"]))


@pytest.mark.slow
def test_runs_that_were_asked_in_other_words_are_said(made: Path, tmp_path: Path) -> None:
    file = small.write_recipe(made, "other", data__template="Topic of: {text}")
    run(file, out=tmp_path / "other", quiet=True)
    pair = measure(Request([str(tmp_path / "other")], at(made, "run1")))
    assert any("data.template" in n for n in pair.notes)
    assert not measure(Request(at(made, "run2"), at(made, "run1"))).notes


@pytest.mark.slow
def test_one_model_is_in_memory_at_a_time(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Any]] = []
    kept = measuring.open_side

    def opened(*given: Any) -> Any:
        assert not [m for m in alive if m() is not None], "the side before is still there"
        side = kept(*given)
        alive.append(weakref.ref(side.adapted.model))
        return side

    monkeypatch.setattr(measuring, "open_side", opened)
    measure(Request(at(made, "base", "run1"), at(made, "run2", "run3")))
    measure(Request(at(made, "base"), at(made, "run2")))
    assert len(alive) == 4 or len(alive) == 6


def test_sides_that_were_computed_otherwise_are_said(made: Path, tmp_path: Path) -> None:
    file = small.write_recipe(made, "half", train__precision="bfloat16", stages__0__budget={"steps": 2})
    run(file, out=tmp_path / "half", quiet=True)
    pair = measure(Request(at(made, "run1"), [str(tmp_path / "half")]))
    assert any("bfloat16 on cpu" in n and "float32 on cpu" in n for n in pair.notes)


def test_what_is_not_finite_is_named(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = reading.document_losses

    def broken(*given: Any, **named: Any) -> Any:
        first, *rest = kept(*given, **named)
        return [dataclasses.replace(first, nats=float("nan")), *rest]

    monkeypatch.setattr(reading, "document_losses", broken)
    with pytest.raises(NonFiniteError, match=r"keep\.txt:1"):
        measure(Request(at(made, "base"), at(made, "run1")))


def test_seeds_that_agree_leave_open_what_their_rows_do(made: Path) -> None:
    pair = measure(Request(at(made, "run1", "run2"), at(made, "run1", "run2"), rows=10))
    assert pair.target is not None and pair.target.before is not None and pair.target.before.high is not None
    assert pair.target.before.value == 0 and pair.target.before.high == pytest.approx(wilson(0, 10).high)
    assert pair.target.before.unit == "seed" and pair.target.before.n == 2


@pytest.mark.slow
def test_classifiers_have_calibration_and_drift_of_features(tmp_path: Path) -> None:
    small.write_inputs(tmp_path, test=30, model=tiny.bert())
    for name in ("train", "test"):
        rows = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        lines = [json.dumps({"text": r["prompt"], "label": r["completion"]}) for r in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    changes: dict[str, Any] = {"task": "text-classification", "keep": [], "stages__0__methods": ["full"]}
    for seed in (1, 2):
        run(
            small.write_recipe(tmp_path, f"c{seed}", train__seed=seed, **changes), out=tmp_path / f"c{seed}", quiet=True
        )
    pair = measure(Request(at(tmp_path, "c1"), at(tmp_path, "c2")))
    assert pair.target is not None and pair.target.metric == "accuracy" and pair.target.mcnemar is not None
    assert pair.calibration is not None and pair.calibration.difference is not None
    low, high = pair.calibration.difference.low, pair.calibration.difference.high
    assert low is not None and high is not None and -1 <= low <= pair.calibration.difference.value <= high <= 1
    assert pair.drift is not None and "CKA" in pair.drift.measure
    judged = measure(Request(at(tmp_path, "c1"), at(tmp_path, "c2"), bounds=conditions(["calibration <= 1"])))
    assert judged.gate is not None and judged.gate.verdict == "pass"
    text = shown.text(pair)
    assert "expected calibration error" in text and "McNemar" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{base}", "{base}"], "--data"),
        (["{empty}", "{base}"], "no run, adapter or model"),
        (["runs/nothing", "{base}"], "no such folder"),
        (["{base}", "{base}", "--data", "{made}/test.jsonl", "--require", "target is good"], "no condition"),
        (["{base}", "{base}", "--data", "{made}/test.jsonl", "--column", "label"], "--column label=topic"),
        (["{base}", "{base}", "--data", "{made}/nothing.jsonl"], "no such file"),
        (["{base}", "{run}", "--keep", "a={made}/keep.txt", "--keep", "a={made}/test.jsonl"], "two kept texts"),
        ([",", "{base}"], "without a name"),
        (["{base},{run}", "{run}", "--require", "drift <= 1"], "the first side has several"),
        (["{base}", "{run}", "--require", "kept.kep <= 1"], "did you mean 'kept.keep'"),
        (["{base}", "{run}", "--require", "target >= 85"], "write '>= 85 %'"),
    ],
)
def test_what_cannot_be_measured_is_one_message(
    made: Path, tmp_path: Path, arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    names = {"base": made / "base", "run": made / "run1", "made": made, "empty": tmp_path / "empty"}
    result = CliRunner().invoke(app, ["measure", *(a.format(**names) for a in arguments)])
    said = result.output + capfd.readouterr().err
    assert result.exit_code in (2, 3, 5, 7) and words in said, said
    assert "Traceback" not in said


def test_the_second_side_is_looked_for_before_the_first_is_measured(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, half = tmp_path / "adapter", tmp_path / "half"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "./gone"}))
    shutil.copytree(made / "run1", half)
    (half / "report.json").unlink()
    other = tmp_path / "other"
    shutil.copytree(made / "run1", other)
    written = (other / "recipe.yaml").read_text()
    (other / "recipe.yaml").write_text(written.replace("task: text-generation", "task: fill-mask"))
    monkeypatch.setattr(measuring, "open_side", lambda *a, **k: pytest.fail("a side was loaded"))
    for name, error, what in (
        (adapter, ModelError, "there is no such model folder"),
        (half, FolderError, "not finished"),
        (other, RecipeError, "this run does fill-mask"),
    ):
        with pytest.raises(error, match=what):
            measure(Request(at(made, "run1"), [str(name)], task="text-generation", data=at(made, "test.jsonl")))
    with pytest.raises(ModelError, match="no model 'nan0'"):  # before it is asked what the models do
        measure(Request(["nano"], ["nan0"], data=at(made, "test.jsonl")))


def test_the_verbs(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "m"
    both = [str(made / "base"), str(made / "run1")]
    done = CliRunner().invoke(app, ["measure", *both, "--out", str(out), "--require", "drift <= 100", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["gate"]["verdict"] == "pass"
    assert CliRunner().invoke(app, ["measure", *both, "--require", "target >= 0.999"]).exit_code == 10
    line = CliRunner().invoke(app, ["gate", str(out), "--require", "drift <= 100", "--json"])
    assert line.exit_code == 0 and json.loads(line.stdout)["verdict"] == "pass" and line.stdout.count("\n") == 1
    middle = Pair.load(out).drift
    assert middle is not None
    torn = CliRunner().invoke(app, ["gate", str(out), "--require", f"drift <= {middle.value.value * 1.0001}"])
    assert torn.exit_code == 11 and "more sequences would tell" in torn.stdout
    assert CliRunner().invoke(app, ["gate", str(made / "run1"), "--require", "drift <= 100"]).exit_code == 0


def test_a_recipes_gate_is_judged_at_the_end_and_again_by_the_verb(made: Path, tmp_path: Path) -> None:
    file = small.write_recipe(made, "gated", gate={"drift": "<= 100", "kept.keep": "no worse by 50"})
    run(file, out=tmp_path / "g", quiet=True)
    report = Report.load(tmp_path / "g")
    assert report.gate is not None and report.gate.verdict == "pass"
    assert "Gate: pass" in (tmp_path / "g" / "report.html").read_text()
    result = CliRunner().invoke(app, ["gate", str(tmp_path / "g")])
    assert result.exit_code == 0 and result.stdout.endswith("gate: pass\n")
    bare = CliRunner().invoke(app, ["gate", str(made / "run1")])
    assert bare.exit_code == 2


def test_names(made: Path, tmp_path: Path) -> None:
    assert named("a, b,c") == ["a", "b", "c"] and asked("some/hub-id").kind == "model"
    comma = tmp_path / "a,b"
    comma.mkdir()
    assert named(str(comma)) == [str(comma)]
    assert [asked(str(made / n)).kind for n in ("base", "run1")] == ["model", "run"]
    with pytest.raises(FolderError):
        asked(str(comma))


def test_rows_that_cannot_be_used_are_told_in_flags(made: Path, tmp_path: Path) -> None:
    """A recipe's keys are no help to somebody who wrote none."""
    (tmp_path / "qa.jsonl").write_text(json.dumps({"question": "a", "answer": "b"}) + "\n")
    (tmp_path / "bad.jsonl").write_text(json.dumps({"prompt": "a"}) + "\n")
    for name, said in (("qa", "--column prompt=question --column completion=answer"), ("bad", "--data")):
        asked = Request([str(made / "base")], [str(made / "run1")], data=[str(tmp_path / f"{name}.jsonl")])
        with pytest.raises(DataError) as error:
            measure(asked)
        assert said in str(error.value) and "RECIPE" not in str(error.value) and "columns: {" not in str(error.value)


def test_a_measurement_is_not_written_over(made: Path, tmp_path: Path) -> None:
    sides = [str(made / "base")], [str(made / "run1")]
    first = measure(Request(*sides, keep=[f"text={made / 'keep.txt'}"]), tmp_path / "out")
    with pytest.raises(FolderError, match="it holds a measurement already") as error:
        measure(Request(*sides), tmp_path / "out")
    assert "name another folder" in str(error.value) and Pair.load(tmp_path / "out") == first
