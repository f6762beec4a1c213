"""The verb `check`: a recipe from disk, the model's tokenizer, a printed verdict."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests import tiny
from tunewright.commands import cli
from tunewright.errors import DataError, TunewrightError
from tunewright.planning.check import check_recipe
from tunewright.recipe import Recipe
from tunewright.runs.assemble import assemble
from tunewright.runs.run import run


@pytest.fixture
def recipe(tmp_path):
    tiny.llama().save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c"}\n')
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"model: {tmp_path}/model\ntask: text-generation\ndata: {{train: train.jsonl}}\nmethods: [full]\nbudget: "
        f"{{steps: 1}}\n"
    )
    return path


def invoke(*args):
    return CliRunner().invoke(cli.app, ["check", *map(str, args)])


def test_bad_rows_are_data(recipe):
    checked = check_recipe(recipe)
    assert not checked.ok and [p.where for p in checked.bad_rows] == ["train.jsonl:2"]
    assert repr(checked) == "<CheckResult: not ok, 1 bad rows, 0 refusals, 0 notices>"
    assert "train.jsonl:2" in str(checked) and "completion" in str(checked)


def test_bad_rows_are_printed_and_make_it_fail(recipe):
    done = invoke(recipe)
    assert done.exit_code == DataError.code
    assert "train.jsonl:2" in done.stdout and "completion" in done.stdout and "1 bad row, 0 refusals" in done.stdout


def test_one_fault_of_many_rows_is_said_once_with_what_the_rows_have(recipe, tmp_path):
    rows = [json.dumps({"prompt": f"a {i}", "completion": "b"}) for i in range(30)]
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    said = invoke(recipe, "--set", "data.train={path: train.jsonl, columns: {prompt: question}}").output
    assert said.count("columns names 'question'") == 1 and "bad rows 30: question" in said
    assert "train.jsonl:20 and 10 more" in said and "train.jsonl:21," not in said
    assert "The row has prompt, completion: name one of them, or take 'prompt' out of columns" in said
    (tmp_path / "train.jsonl").write_text("\n".join(rows[:3]))
    said = invoke(recipe, "--set", "data.train={path: train.jsonl, columns: {prompt: question}}").output
    assert said.count("columns names 'question'") == 3


def test_json_and_a_clean_copy_that_passes(recipe, tmp_path):
    report = json.loads(invoke(recipe, "--clean", tmp_path / "clean", "--json").stdout)
    assert report["problems"][0]["where"] == "train.jsonl:2" and len(report["written"]) == 2
    assert check_recipe(recipe, sets=["data.train=clean/train-train.jsonl"]).ok


def test_a_built_in_name_is_no_pictograph(recipe):
    assert "train quickstart:test: 300" in invoke(recipe, "--set", "data.train=quickstart:test").stdout


ROW = '{"prompt": "question %d", "completion": "b"}'


@pytest.fixture
def sound(recipe, tmp_path):
    """A recipe that a run would take, of a tokenizer without a padding token."""
    (tmp_path / "train.jsonl").write_text("\n".join(ROW % i for i in range(6)))
    (tmp_path / "test.jsonl").write_text("\n".join(ROW % i for i in range(6, 9)))
    (tmp_path / "general.txt").write_text("the river rose\n\nthe town slept")
    recipe.write_text(
        recipe.read_text().replace("train.jsonl", "train.jsonl, eval: test.jsonl") + "keep: [general.txt]\n"
    )
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "model")
    return recipe


@pytest.mark.parametrize(
    "sets, says",
    [
        (["stages.0.methods=[{lora: {rnk: 4}}]"], "did you mean 'rank'"),
        (["stages.0.methods=[dpo, lora]"], "one answer, and a method of the stage compares two"),
        (["stages.0.methods=[dpo, lora]", "data.train=pairs.jsonl", "data.replay={general: 0.2}"], "one answer"),
        (["keep=[none.txt]"], "no such file"),
        (["data.replay={general: 0.1, genral: 0.1}"], "replay names 'genral'"),
        (["data.eval=none.jsonl"], "no such file"),
        (["data.validation=[none.jsonl]"], "no such file"),
        (["data.select=[dsir]"], "selects by a target"),
        (["measurement.metric=accuracy"], "needs a class a row"),
        (["measurement.split=validation"], "no validation rows"),
        (["stages.0.methods=[unic, lora]"], "needs the model 'teacher'"),
        (["stages.0.methods=[ist]"], "works beside a method"),
    ],
)
def test_what_a_run_refuses_is_refused(sound, tmp_path, sets, says):
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}')
    checked = check_recipe(sound, sets=sets)
    assert not checked.ok and any(says in text for text in checked.report.refusals), checked.report.refusals
    with pytest.raises(TunewrightError) as refused:
        run(sound, tmp_path / "out", sets=sets, quiet=True)
    assert any(refused.value.what in text for text in checked.report.refusals)


def test_a_run_finds_the_rows_that_a_check_encoded(sound, tmp_path, monkeypatch):
    checked = check_recipe(sound)
    assert checked.ok and not checked.report.cautions and "ok: a run would take this data" in str(checked)
    monkeypatch.setattr("tunewright.data.dataset.encode_all", None)
    session = assemble(Recipe.load(sound))
    assert [len(d.rows) for d in (session.stages[0].rows, session.eval, session.keep["general"])] == [6, 3, 2]


def test_rows_that_are_measured_on_and_trained_on_are_said_of_everywhere(sound, tmp_path):
    for name, says in (
        ("train.jsonl", "every eval row is trained on"),
        ("both.jsonl", "1 of 4 eval rows are trained on"),
    ):
        (tmp_path / "both.jsonl").write_text("\n".join(ROW % i for i in (0, 6, 7, 8)))
        sets = [f"data.eval={name}"]
        checked = check_recipe(sound, sets=sets)
        assert says in checked.report.cautions[0] and "ok: a run" not in str(checked) and says in str(checked)
        assert says in assemble(Recipe.load(sound, sets)).notes[0]


def test_a_weight_that_repeats_a_small_file_is_said_everywhere(sound, tmp_path):
    (tmp_path / "small.jsonl").write_text(ROW % 90)
    sources = "[{path: train.jsonl, weight: 1}, {path: small.jsonl, weight: %s}]"
    sets = [f"data.train={sources % 3}"]
    checked = check_recipe(sound, sets=sets)
    # 7 rows an epoch, of nearly equal length: three quarters of them are the one row
    says = "by its weight, small.jsonl is gone through 5.2"
    assert any(says in text and "train.jsonl 0.3 times" in text for text in checked.report.cautions), (
        checked.report.cautions
    )
    session = assemble(Recipe.load(sound, sets))
    assert any(says in note for note in session.notes)
    drawn, rows = session.cursor(session.stages[0]), []
    while len(rows) < 700:
        rows += [row.source for row, _ in drawn.next_batch()]
    assert abs(rows[:700].count("small.jsonl") / 100 - 5.25) < 0.1
    for quiet in ("[{path: train.jsonl}, {path: small.jsonl}]", sources % 0.1):
        assert not any("by its weight" in t for t in check_recipe(sound, sets=[f"data.train={quiet}"]).report.cautions)


def test_what_is_left_out_is_not_called_usable(sound, tmp_path):
    (tmp_path / "train.jsonl").write_text("\n".join('{"text": "%s"}' % ("river town " * n) for n in (3, 90, 90, 90)))
    sets = ["data.max_length=64"]
    split = check_recipe(sound, sets=sets).report
    assert split.sources[0].counts["left_out"] == 0 and not split.cautions and "is split" in split.notices[0].reason
    dropped = check_recipe(sound, sets=[*sets, "data.truncation=drop"])
    says = "3 of 4 rows of train.jsonl are longer than max_length and left out"
    assert says in dropped.report.cautions[0] and says in str(dropped) and "1 of 4 used" in str(dropped)
    assert says in assemble(Recipe.load(sound, [*sets, "data.truncation=drop"])).notes[0]


def test_pictures_are_checked_as_the_run_will_see_them(tmp_path):
    tiny.vit().save_pretrained(tmp_path / "model")
    draw = np.random.default_rng(0)
    for folder in ("train", "eval"):
        (tmp_path / folder).mkdir()
        rows = []
        for i in range(6):
            Image.fromarray(draw.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(tmp_path / folder / f"{i}.png")
            rows.append(json.dumps({"image": f"{i}.png", "label": "card" if i % 2 else "loan"}))
        (tmp_path / folder / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "recipe.yaml").write_text(
        "model: ./model\ntask: image-classification\ndata: {train: train/rows.jsonl, eval: eval/rows.jsonl}\n"
        "methods: [full]\nbudget: {steps: 1}\n"
    )
    checked = check_recipe(tmp_path / "recipe.yaml")
    assert checked.ok and not checked.notices and not checked.report.cautions
    assert checked.report.datasets["train"][0].rows[0].fields["pixels"].shape == (3, 16, 16)
    copy = Image.open(tmp_path / "train" / "1.png")
    copy.save(tmp_path / "train" / "3.png", compress_level=1)  # the same picture in another file
    copy.save(tmp_path / "eval" / "5.png")
    seen = copy.load()
    seen[0, 0] = (0, 0, 0)
    Image.new("RGB", (40, 40), (9, 9, 9)).save(tmp_path / "train" / "2.png")
    found = {n.kind: (n.where, n.pairs) for n in check_recipe(tmp_path / "recipe.yaml").notices}
    assert found == {
        "duplicate": (("train/rows.jsonl:4",), ("train/rows.jsonl:2",)),
        "overlap": (("eval/rows.jsonl:6",), ("train/rows.jsonl:2",)),
        "blank picture": (("train/rows.jsonl:3",), ()),
    }
    for i, edge in ((0, 255), (2, 250)):  # equal when they are made smaller, and not the same
        picture = np.zeros((40, 40, 3), np.uint8)
        picture[:, :20], picture[0, 0] = 200, edge
        Image.fromarray(picture).save(tmp_path / "train" / f"{i}.png")
    kinds = [(n.kind, n.where) for n in check_recipe(tmp_path / "recipe.yaml").notices]
    assert ("duplicate", ("train/rows.jsonl:4",)) in kinds and len(kinds) == 2
