"""Several adapters over one base in one process: each is the run that it would be alone, whatever became of the others.

Alone and together agree in every bit where each has forwards of its own, and to `TOLERANCE` where they share them.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import safetensors.torch
import torch
import yaml
from typer.testing import CliRunner

import tunewright
from tests import small, tiny
from tests.running import Commands
from tunewright.commands import cli, json_types
from tunewright.errors import CheckpointError, FolderError, MethodError, NonFiniteError, RecipeError
from tunewright.finished.finished import open_run
from tunewright.finished.folders import found
from tunewright.models.adapted import Adapted
from tunewright.planning.adapters import check_adapters, plan_adapters
from tunewright.runs.adapters import AdaptersResult, resume, run
from tunewright.runs.run import run as run_alone
from tunewright.runs.session import Session
from tunewright.runs.shared import SharedBase, twin
from tunewright.serve.adapters import Library
from tunewright.shipping.fusing import fuse

KINDS: dict[str, list[Any]] = {
    "lora": [{"lora": {"rank": 4}}],
    "wider": [{"lora": {"rank": 8}}],
    "ia3": ["ia3"],
    "dora": [{"dora": {"rank": 4}}],
    "vera": ["vera"],
    "oft": ["oft"],
    "prefix": ["prefix-tuning"],
    "bottle": ["bottleneck-adapters"],
}
TOLERANCE = 2e-4
"""Of float32 losses and of deltas, over a handful of steps: products over more rows round otherwise."""
QUICK = {"strengths": [1.0], "drift_sequences": 2, "drift_tokens": 4, "max_new_tokens": 2, "few_shot": 0, "rows": 4}
SET = Path("stages/main")


def recipe(*names: str, **changes: Any) -> dict[str, Any]:
    """Adapters of these kinds, each with its own seed, length of training and learning rate."""
    tree = copy.deepcopy(small.RECIPE)
    del tree["stages"], tree["keep"]
    entries = [
        {"name": n, "methods": KINDS[n], "seed": i, "budget": {"steps": 2 + i % 3}, "train": {"learning_rate": rate(i)}}
        for i, n in enumerate(names)
    ]
    return {**tree, "measurement": QUICK, "adapters": entries, **changes}


def rate(i: int) -> float:
    return 5e-3 * (1 + i % 2)


def alone(i: int, name: str) -> dict[str, Any]:
    """The recipe of one of them, written as a recipe of its own."""
    tree = copy.deepcopy(small.RECIPE)
    del tree["keep"]
    stage = {"name": "main", "methods": KINDS[name], "budget": {"steps": 2 + i % 3}}
    train = {**tree["train"], "seed": i, "learning_rate": rate(i)}
    return {**tree, "name": name, "measurement": QUICK, "train": train, "stages": [stage]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    small.write_inputs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def together(place: Path) -> AdaptersResult:
    return run(recipe(*KINDS), "together", quiet=True)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a finished stage."""
    files = sorted((folder / SET).rglob("*.safetensors"))
    return {f"{f.name}: {n}": t for f in files for n, t in safetensors.torch.load_file(f).items()}


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same(a: Path, b: Path) -> None:
    """Two runs ended in the same bits, on the same way."""
    left, right = tensors(a), tensors(b)
    assert left and left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)
    assert losses(a) == losses(b)


@pytest.mark.slow
def test_forwards_of_their_own_give_every_bit_of_each_alone(place: Path) -> None:
    names = ("lora", "bottle", "prefix")
    several = tunewright.load_adapters(recipe(*names))
    assert all(tunewright.check(one).ok for one in several.recipes.values())
    ended = tunewright.run_adapters(several, out="apart", quiet=True, joint=False)
    for i, name in enumerate(names):
        one = run_alone(alone(i, name), f"alone-{name}", quiet=True)
        same(one.folder, ended.results[name].folder)
        ours, theirs = ended.results[name].report, one.report
        assert ours.target == theirs.target and ours.drift == theirs.drift and ours.trained == theirs.trained
        assert ours.cost.steps == 2 + i % 3 and ours.run.seed == i and ours.cost.flops == theirs.cost.flops


def test_an_adapter_is_a_run_of_its_own(together: AdaptersResult) -> None:
    for name in KINDS:
        folder = together.folder / name
        assert {"report.json", "report.html", "recipe.yaml", "metrics.jsonl"} <= {p.name for p in folder.iterdir()}
    again = tunewright.resume_adapters(together.folder)
    assert all(again.results[n].report == together.results[n].report and again.results[n].earlier for n in KINDS)
    assert open_run(together.folder / "lora").adapted.deltas()
    with pytest.raises(FolderError, match="holds several adapters, each a run of its own") as refusal:
        open_run(together.folder)
    assert str(together.folder / "ia3") in str(refusal.value)
    assert [f.name for f in found([together.folder])] == sorted(KINDS)
    assert not list(together.folder.rglob("checkpoint-*"))


@pytest.mark.slow
def test_shared_forwards_agree_with_each_alone(together: AdaptersResult) -> None:
    shared = {n: json.loads((together.folder / n / "progress.json").read_text()).get("shared") for n in KINDS}
    assert [n for n, others in shared.items() if not others] == ["prefix"]
    assert shared["lora"] == [n for n in KINDS if n not in ("lora", "prefix")]
    for i, name in enumerate(KINDS):
        one = run_alone(alone(i, name), f"one-{name}", quiet=True)
        agrees(one.folder, together.folder / name)
        note = any("shared with" in text for text in together.results[name].report.notes)
        assert note == (name != "prefix")


def test_all_are_served_by_name(together: AdaptersResult) -> None:
    served = Library(Adapted(tiny.llama()), "base", together.folder)
    assert {"lora", "wider", "dora"} <= set(served.names())


def test_the_summary_has_a_line_for_each(together: AdaptersResult) -> None:
    said = json.loads((together.folder / "adapters.json").read_text())
    assert said == json.loads(json.dumps(together.summary.to_json()))
    assert [line["name"] for line in said["adapters"]] == list(KINDS)
    for line, result in zip(said["adapters"], together.results.values(), strict=True):
        cost = result.report.cost
        assert (line["steps"], line["trainable"]) == (cost.steps, cost.trainable_parameters)
        assert line["base"] == result.report.target.before.value and line["error"] is None  # type: ignore[union-attr]
    page = (together.folder / "report.html").read_text()
    assert all(f'href="{name}/report.html"' in page and name in str(together) for name in KINDS)


def test_the_base_is_in_memory_once() -> None:
    model = tiny.llama()
    one, two = twin(model), twin(model)
    mine, theirs = dict(one.named_parameters()), dict(two.named_parameters())
    assert all(p is not theirs[n] and p.data_ptr() == theirs[n].data_ptr() for n, p in mine.items())
    assert one.get_input_embeddings().weight is one.get_input_embeddings().weight
    assert not {id(m) for m in one.modules()} & {id(m) for m in two.modules()}


def test_a_lent_tensor_is_copied_before_it_changes() -> None:
    model = tiny.llama()
    one, two = Adapted(twin(model)), Adapted(twin(model))
    one.lent = set(one.base_parameters())
    name = next(iter(one.base_parameters()))
    one.remember(name)
    with torch.no_grad():
        one.base_parameters()[name].add_(1)
    assert torch.equal(two.base_parameters()[name], dict(model.named_parameters())[name])
    assert not torch.equal(one.base_parameters()[name], two.base_parameters()[name])


def test_new_heads_are_each_adapters_own(place: Path) -> None:
    """Classifiers of the same and of other labels: weights that train are never another's."""
    tiny.bert_classifier(3).save_pretrained(place / "encoder")
    tiny.tokenizer(encoder=True).save_pretrained(place / "encoder")
    for labels in ("ab", "abc"):
        rows = [{"text": f"card {x} fee", "label": x} for x in labels * 4]
        (place / f"{labels}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tree = recipe("lora", "wider", "ia3", model="./encoder", task="text-classification", data={"max_length": 64})
    for entry, labels in zip(tree["adapters"], ("ab", "ab", "abc"), strict=True):
        entry["data"] = [f"{labels}.jsonl"]
    ended = run(tree, "heads", quiet=True)
    for i, (entry, labels) in enumerate(zip(tree["adapters"], ("ab", "ab", "abc"), strict=True)):
        one = alone(i, entry["name"])
        one |= {"model": "./encoder", "task": "text-classification"}
        one["data"] = {"train": f"{labels}.jsonl", "max_length": 64}
        same(run_alone(one, f"head-{i}", quiet=True).folder, ended.folder / entry["name"])


def test_one_that_is_not_finite_stops_and_the_others_end(place: Path) -> None:
    tree = recipe("lora", "wider", "ia3")
    tree["adapters"][1]["train"]["learning_rate"] = 1e30
    tree["adapters"][1]["budget"] = {"steps": 4}
    with pytest.raises(NonFiniteError, match="the adapter 'wider' stopped: .*finished beside it: lora, ia3"):
        run(tree, "bad", quiet=True)
    for i, name in ((0, "lora"), (2, "ia3")):
        agrees(run_alone(alone(i, name), f"good-{name}", quiet=True).folder, place / "bad" / name)
    said = json.loads((place / "bad" / "adapters.json").read_text())["adapters"]
    assert [line["error"] is None for line in said] == [True, False, True] and not (
        place / "bad/wider/report.json"
    ).exists()


def agrees(a: Path, b: Path) -> None:
    """Two runs ended in the same values to the tolerance, on the same way."""
    left, right = tensors(a), tensors(b)
    assert left and left.keys() == right.keys()
    for n in left:
        torch.testing.assert_close(right[n], left[n], rtol=TOLERANCE, atol=TOLERANCE)
    assert losses(b) == pytest.approx(losses(a), rel=TOLERANCE)


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "stages": ({"stages": [{"name": "a", "methods": ["lora"]}]}, RecipeError, "an adapter has one stage"),
    "new tokens": ({"new_tokens": ["<x>"]}, RecipeError, "weights of the base"),
    "no entries": ({"adapters": []}, RecipeError, "lists what is trained"),
    "a fresh model": ({"model": {"config": {"model_type": "llama"}}}, RecipeError, "fresh model"),
    "offloaded": ({"train": {"offload_param": "disk"}}, RecipeError, "offload_param"),
    "a key": ({"adapters": [{"name": "a", "method": ["lora"]}]}, RecipeError, "write methods:"),
    "a name twice": ({"adapters": [{"name": "a", "methods": ["lora"]}] * 2}, RecipeError, "two adapters are named 'a'"),
    "a name in another case": (
        {"adapters": [{"name": "fee", "methods": ["lora"]}, {"name": "Fee", "methods": ["lora"]}]},
        RecipeError,
        r"two adapters are named 'Fee' \(the other: 'fee'\)",
    ),
    "a name of the run's own files": ({"adapters": [{"name": "report.html"}]}, RecipeError, "'name'"),
    "no mapping": ({"adapters": ["lora"]}, RecipeError, "an adapter is a mapping .*, got 'lora'"),
    "a seed twice": (
        {"adapters": [{"name": "a", "methods": ["lora"], "seed": 1, "train": {"seed": 1}}]},
        RecipeError,
        "written twice",
    ),
    "two devices": (
        {"adapters": [{"name": "a", "methods": ["lora"]}, {"name": "b", "methods": ["ia3"], "train": {"threads": 3}}]},
        RecipeError,
        "'a' and 'b' share one base, and ask for another train.threads: 1 and 3",
    ),
    "the base trains": (
        {"adapters": [{"name": "a", "methods": ["lora"]}, {"name": "b", "methods": ["bitfit"]}]},
        MethodError,
        "the adapter 'b' trains weights of the base",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_refused_by_run_check_and_plan(place: Path, fault: str) -> None:
    changes, kind, says = REFUSED[fault]
    tree = {**recipe("lora"), **changes}
    before = {p.name for p in place.iterdir()}
    for verb in (run, plan_adapters):
        with pytest.raises(kind, match=says):
            verb(tree, quiet=True)
    if kind is RecipeError:
        with pytest.raises(kind, match=says):
            check_adapters(tree)
    else:
        checked = check_adapters(tree)
        assert checked.checks["a"].ok and not checked.ok and checked.code == MethodError.code
        assert says in checked.checks["b"].report.refusals[-1]
    assert {p.name for p in place.iterdir()} == before


def test_a_recipe_of_several_is_refused_where_one_is_asked_for(place: Path) -> None:
    with pytest.raises(RecipeError, match="lists several adapters"):
        run_alone(recipe("lora"), "no", quiet=True)


@pytest.mark.slow
def test_killed_and_stopped_runs_go_on_to_the_same_bits(place: Path) -> None:
    """Killed within a round, then stopped by a signal: each goes on from its own checkpoint, or is begun."""
    names = ("lora", "bottle", "ia3")
    tree = recipe(*names)
    tree["train"]["save_steps"] = 1
    for entry in tree["adapters"]:
        entry["budget"] = {"steps": 4}
    (place / "stopped.yaml").write_text(yaml.safe_dump(tree))
    whole = run("stopped.yaml", "unstopped", quiet=True)
    commands = Commands()
    step = "tunewright.runs.stages:TrainingCallback.__call__"
    try:
        done = commands(place, ["run", "stopped.yaml", "--out", "stopped"], {"at": step, "call": 5, "do": "kill"})
        assert done.code == -9
        done = commands(place, ["resume", "stopped"], {"at": step, "call": 4, "do": "term"})
        assert done.code == 75 and "tunewright resume stopped" in done.stderr, done.stderr
        done = commands(place, ["resume", "stopped"])
        assert done.code == 0, done.stderr
    finally:
        commands.close()
    for name in names:
        same(whole.folder / name, place / "stopped" / name)


def test_a_changed_recipe_does_not_go_on(together: AdaptersResult) -> None:
    file = together.folder / "recipe.yaml"
    text = file.read_text()
    file.write_text(text.replace("seed: 1", "seed: 7"))
    try:
        with pytest.raises(CheckpointError, match="was changed since"):
            resume(together.folder)
    finally:
        file.write_text(text)


@pytest.mark.slow
def test_one_of_them_is_fused_by_its_run(together: AdaptersResult, place: Path, tmp_path: Path) -> None:
    name = next(n for n in ("lora", "wider") if (together.folder / n / "adapter").is_dir())
    fused = fuse(str(place / "base"), str(together.folder / name), tmp_path / "fused")
    assert (fused.folder / "config.json").is_file() and fused.changed


def test_the_base_is_loaded_and_measured_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunewright.runs import shared

    calls: list[str] = []
    load = shared.load_model
    monkeypatch.setattr(shared, "load_model", lambda *given: calls.append("load") or load(*given))
    ended = run(recipe("lora", "ia3", "wider"), "once", quiet=True, sets=["measurement.rows=3"])
    cached = [r.report.cost.cached for r in ended.results.values()]
    assert calls == ["load"] and cached == [[], ["base measured"], ["base measured"]]


@pytest.mark.slow
def test_the_command_line(place: Path) -> None:
    (place / "cli.yaml").write_text(yaml.safe_dump(recipe("lora", "ia3")))
    call = CliRunner().invoke
    for arguments in (["check", "cli.yaml"], ["plan", "cli.yaml"]):
        done = call(cli.app, arguments)
        assert done.exit_code == 0 and "lora" in done.stdout and "ia3" in done.stdout, done.output
    done = call(cli.app, ["run", "cli.yaml", "--out", "cli", "--set", "adapters.0.budget.steps=1", "--json"])
    *steps, last = map(json.loads, done.stdout.splitlines())
    assert done.exit_code == 0 and sorted(s["adapter"] for s in steps) == ["ia3", "ia3", "ia3", "lora"]
    assert [line["steps"] for line in last["adapters"]] == [1, 3]
    jsonschema.validate(last, json_types.schema_of("run"))
    assert "ia3" in call(cli.app, ["resume", "cli"]).stdout
    done = call(cli.app, ["resume", "cli", "--verify"])
    said = done.stderr
    assert done.exit_code == 0 and "lora: verified" in said and "computed together with those of ia3" in said, said
    for verb in ("check", "plan"):
        jsonschema.validate(json.loads(call(cli.app, [verb, "cli.yaml", "--json"]).stdout), json_types.schema_of(verb))


@pytest.mark.slow
def test_apart_on_the_command_line(place: Path) -> None:
    (place / "apart.yaml").write_text(yaml.safe_dump(recipe("lora", "ia3")))
    call = CliRunner().invoke
    assert call(cli.app, ["run", "apart.yaml", "--out", "on-its-own", "--apart", "--quiet"]).exit_code == 0
    same(run_alone(alone(1, "ia3"), "ia3-alone", quiet=True).folder, place / "on-its-own" / "ia3")
    assert "are equal in every bit" in call(cli.app, ["resume", "on-its-own", "--verify"]).stderr
    (place / "one.yaml").write_text(yaml.safe_dump(alone(0, "lora")))
    done = call(cli.app, ["run", "one.yaml", "--apart"])
    assert done.exit_code == RecipeError.code and "for a recipe that lists adapters" in done.stderr


def test_models_that_differ_share_what_is_equal(place: Path) -> None:
    """Heads over other labels: the models are loaded apart, and their common weights lie in one place."""
    from tunewright.recipe import Recipe
    from tunewright.runs.assemble import assemble

    base = SharedBase()

    def of(labels: list[str]) -> Session:
        one = alone(0, "lora")
        rows = [{"text": "card", "label": x} for x in labels]
        (place / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
        one |= {"task": "text-classification", "data": {"train": str(place / "labels.jsonl")}}
        one["model"] = str(place / "base")
        return assemble(Recipe(**one), base=base)

    two, three = of(["a", "b"]).adapted.base_parameters(), of(["a", "b", "c"]).adapted.base_parameters()
    apart = {n for n in two if two[n].data_ptr() != three[n].data_ptr()}
    assert apart == {"score.weight"}
