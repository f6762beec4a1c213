"""Weights divided among processes: what one that holds them all would give, saved whole, with a part of the memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests import tiny
from tests.resuming import STEP, Bench, at, bench, commands, recipe
from tests.tasks.test_text2text import READS, bart, t5
from tests.test_processes import _numbers, run_two, spawn
from tunewright import catalogue, errors
from tunewright.catalogue import entries
from tunewright.conformance.case import Case
from tunewright.machine.group import Group
from tunewright.models.shards import own, share, whole
from tunewright.recipe import Recipe
from tunewright.runs import launching
from tunewright.runs.divided import check_divided, divider
from tunewright.training import divided

__all__ = ["bench", "commands"]
NAMES = sorted(n for n in entries() if getattr(catalogue.load_method(n), "divides", False))
LORA = [{"lora": {"rank": 2}}]


def run_in(bench: Bench, count: int, arguments: list[str]) -> list[int]:
    """A command in so many processes, each in a folder of its own; their exit codes."""
    started = []
    with launching.held_port() as port:
        for rank in range(count):
            cwd = bench.folder / f"rank-{rank}" if rank else bench.folder
            cwd.mkdir(exist_ok=True)
            env = launching._names(rank, count, port)
            started.append((cwd, bench.commands.start(cwd, arguments, env=env)))
        return [bench.commands.wait(cwd, process).code for cwd, process in started]


def both(bench: Bench, name: str, body: dict[str, Any], count: int = 2) -> list[Path]:
    """A recipe run by one process, and with its weights divided among some."""
    outs = []
    for fsdp, out in ((None, f"{name}-whole"), ("full_shard", f"{name}-divided")):
        tree = {**body, "train": {**body["train"], "fsdp": fsdp}}
        file = bench.folder / bench.write(out, tree)
        codes = run_in(bench, 1 if fsdp is None else count, ["run", str(file), "--out", str(bench.folder / out)])
        assert not any(codes), (out, codes)
        outs.append(bench.folder / out)
    return outs


def steps(folder: Path) -> list[float]:
    """The losses of a run's steps."""
    logged = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in logged if "loss" in line]


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def alike(a: Path, b: Path, file: str, most: float) -> None:
    """Two runs' files hold the same tensors, as far as rounding lets them."""
    one, other = load_file(a / file), load_file(b / file)
    assert one.keys() == other.keys() and one
    for name, t in one.items():
        assert t.shape == other[name].shape and torch.allclose(t, other[name], rtol=0, atol=most), name


@pytest.mark.slow
def test_every_method_that_says_that_it_divides_trains_dials_and_saves_what_one_process_does(tmp_path):
    assert {"full", "lora", "dora", "ia3", "bitfit", "lora-plus"} <= set(NAMES)
    file = tmp_path / "found.json"
    with spawn(["-m", "tests.divided", str(file), *NAMES], 2) as processes:
        for process in processes:
            said = process.communicate(timeout=1800)
            assert process.returncode == 0, said
    found = json.loads(file.read_text())
    assert list(found) == NAMES
    for name, by in found.items():
        assert isinstance(by["alone"], list) and isinstance(by["divided"], list), (name, by)
        assert by["parted"] == 20, name  # all that the model had; what hangs on it is whole
        assert by["alone"] == pytest.approx(by["divided"], rel=1e-4), name
        assert len(by["apart"]) > 4 and max(by["apart"].values()) < 1e-3, (name, by["apart"])


@pytest.mark.parametrize("name", NAMES)
def test_a_method_that_divides_asks_for_no_statistics(name):
    # these are kept on disk by each machine, and where one has them and another not, they would not read alike
    assert not Case.of(name).method.needs()


@pytest.fixture(scope="module")
def full(bench) -> list[Path]:
    """Full fine-tuning with all that reads its weights beside the steps, in three processes: nothing divides evenly."""
    body = recipe(["full"], eval_steps=2, keep_best="loss", max_grad_norm=0.5, micro_tokens=64)
    body["measurement"] = {**body["measurement"], "strengths": [0, 0.5, 1], "dial_rows": 4}
    body["data"] = {**body["data"], "validation": 0.1}
    body["keep"] = [*body["keep"], "pack:facts"]
    return both(bench, "full", body, 3)


def test_full_fine_tuning_gives_the_losses_and_the_measurements_of_one_process(full):
    logged = [[json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()] for out in full]
    assert len(logged[0]) == len(logged[1])
    for one, other in zip(*logged, strict=True):
        assert one.keys() == other.keys()
        for key in one.keys() & {"loss", "eval_loss", "grad_norm", "learning_rate", "num_tokens", "step"}:
            assert one[key] == pytest.approx(other[key], rel=1e-4), (one["step"], key)
    assert max(line.get("grad_norm", 0.0) for line in logged[0]) > 0.5  # so that clipping is seen
    one, other = map(report, full)
    for name in ("target", "kept", "packs", "drift", "trade"):
        assert _numbers(one[name]) and _numbers(one[name]) == pytest.approx(_numbers(other[name]), rel=1e-3, abs=1e-4)
    for name in ("trainable_parameters", "stored_parameters", "steps", "tokens"):
        assert one["cost"][name] == other["cost"][name]
    assert one["cost"]["flops_by_phase"]["train"] == pytest.approx(other["cost"]["flops_by_phase"]["train"], rel=0.02)
    assert one["trained"] == other["trained"] and one["stages"][0]["best_step"] == other["stages"][0]["best_step"]


def test_the_report_says_that_weights_were_divided_and_nothing_else_beside(full):
    plain, parted = ([n for n in report(out)["notes"] if "divided among" not in n] for out in full)
    assert plain == parted  # rows are packed either way
    said = [[n for n in report(out)["notes"] if "divided among" in n] for out in full]
    assert not said[0] and len(said[1]) == 1 and "among 3 processes (train.fsdp)" in said[1][0]


def test_what_full_fine_tuning_saves_is_whole_and_stands_beside_the_base_anywhere(full, bench):
    for file in ("delta.safetensors", "stages/main/trained.safetensors"):
        alike(*full, file, 1e-4)
    exported = bench.commands(bench.folder, ["export", str(full[1]), "--out", str(bench.folder / "exported")])
    assert exported.code == 0, exported.stderr


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_checkpoint_goes_on_in_any_number_of_processes_divided_or_not(bench, method):
    body = recipe(LORA if method == "lora" else ["full"], eval_steps=3, keep_best="loss")
    whole_run, _ = both(bench, f"{method}-again", body)
    file = bench.folder / f"{method}-again-divided.yaml"
    out = bench.folder / f"{method}-killed"
    first, second = run_two(bench, ["run", str(file), "--out", str(out)], at(STEP, 8))
    assert second.code == -9 and first.code == errors.PartedError.code
    assert first.stderr.count("error:") == 1 and "Traceback" not in first.stderr, first.stderr
    assert "another of the 2 processes" in first.stderr and str(out) in first.stderr
    assert "tunewright resume" in first.stderr and len(list(out.glob("checkpoint-*"))) == 2
    for count in (1, 2, 3):
        copy = bench.folder / f"{method}-goes-on-in-{count}"
        _copy(out, copy)
        assert not any(run_in(bench, count, ["resume", str(copy)]))
        assert steps(copy) == pytest.approx(steps(whole_run), rel=1e-4) and len(steps(copy)) == len(steps(whole_run))
        alike(whole_run, copy, "stages/main/trained.safetensors", 1e-4)


@pytest.mark.slow
def test_what_was_trained_is_measured_by_others_where_a_process_ends_thereafter(bench):
    whole_run, _ = both(bench, "full-measured", recipe(["full"]))
    file, out = bench.folder / "full-measured-divided.yaml", bench.folder / "full-measured-killed"
    save = {"at": "tunewright.runs.artefacts:save", "call": 1, "do": "kill"}
    first, second = run_two(bench, ["run", str(file), "--out", str(out)], save)
    assert second.code == -9 and first.code == errors.PartedError.code and first.stderr.count("error:") == 1
    assert not any(run_in(bench, 2, ["resume", str(out)]))
    alike(whole_run, out, "delta.safetensors", 1e-4)
    assert _numbers(report(whole_run)["kept"]) == pytest.approx(_numbers(report(out)["kept"]), rel=1e-3)


@pytest.mark.slow
def test_a_run_that_was_not_divided_goes_on_divided(bench):
    body = recipe(["full"])
    file = bench.folder / bench.write("undivided", body)
    whole_run, out = bench.folder / "undivided-whole", bench.folder / "undivided-killed"
    assert bench.commands(bench.folder, ["run", str(file), "--out", str(whole_run)]).code == 0
    assert bench.commands(bench.folder, ["run", str(file), "--out", str(out)], at(STEP, 8)).code == -9
    own_recipe = yaml.safe_load((out / "recipe.yaml").read_text())
    own_recipe["train"]["fsdp"] = "full_shard"
    (out / "recipe.yaml").write_text(yaml.safe_dump(own_recipe))
    assert not any(run_in(bench, 2, ["resume", str(out)]))
    assert steps(out) == pytest.approx(steps(whole_run), rel=1e-4)
    alike(whole_run, out, "delta.safetensors", 1e-4)
    assert "fsdp: full_shard" in (out / "recipe.yaml").read_text()


def _copy(run: Path, to: Path) -> None:
    shutil.copytree(run, to)
    (to / "lock").unlink(missing_ok=True)


@pytest.mark.slow
def test_stages_of_added_weights_go_on_from_one_another(bench):
    stages = [
        {"name": "first", "methods": LORA, "budget": {"steps": 3}},
        {"name": "second", "start": "stages.first", "carry": "frozen", "methods": LORA, "budget": {"steps": 3}},
        {"name": "third", "start": "stages.second", "carry": "training", "methods": LORA, "budget": {"steps": 3}},
    ]
    outs = both(bench, "stages", recipe(stages=stages))
    assert steps(outs[0]) == pytest.approx(steps(outs[1]), rel=1e-4)
    assert _numbers(report(outs[0])["target"]) == pytest.approx(_numbers(report(outs[1])["target"]), rel=1e-3, abs=1e-4)


OTHERS: dict[str, tuple[str, Any]] = {
    "gpt2": ("text-generation", lambda: tiny.gpt2()),
    "qwen3": ("text-generation", lambda: tiny.qwen3()),
    "t5": ("text2text-generation", lambda: t5()),
    "bart": ("text2text-generation", lambda: bart()),
    "bert": ("fill-mask", lambda: tiny.bert()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures_and_tasks_divide_too(bench, name):
    task, make = OTHERS[name]
    make().save_pretrained(bench.folder / name)
    reads = tiny.tokenizer() if task == "text-generation" else tiny.tokenizer(encoder=True, chat=False)
    (reads if task != "text2text-generation" else READS).save_pretrained(bench.folder / name)
    stages = [
        {"name": "first", "methods": LORA, "budget": {"steps": 3}},
        {"name": "second", "start": "base", "methods": ["full"], "budget": {"steps": 3}},
    ]
    # not Adam, which makes steps of the rounding of gradients that are nought, as those of a key's bias
    body = {**recipe(stages=stages, optimizer="sgd", learning_rate=0.1), "model": f"./{name}", "task": task}
    if task == "fill-mask":
        texts = "\n".join(json.dumps({"text": f"lost card {w} top up"}) for w in ("fee", "pin", "cash", "rate"))
        (bench.folder / "texts.jsonl").write_text(texts)
        body["data"] = {"train": "texts.jsonl", "max_length": 64}
    if task == "text2text-generation":
        body["keep"] = []
    outs = both(bench, name, body)
    assert steps(outs[0]) == pytest.approx(steps(outs[1]), rel=1e-4) and len(steps(outs[0])) == 6
    for measured in ("target", "kept", "drift"):
        one, other = (_numbers(report(out)[measured]) for out in outs)
        # changes of losses are told too, which are small beside these
        assert one == pytest.approx(other, rel=1e-3, abs=2e-3 if measured == "kept" else 1e-4), measured
    alike(*outs, "stages/second/trained.safetensors", 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"precision": "bfloat16"}, {"activation_checkpointing": True}])
def test_half_precision_and_recomputed_activations_train_alike(bench, changes):
    outs = both(bench, f"full-{next(iter(changes))}", recipe(["full"], **changes))
    rel = 2e-2 if "precision" in changes else 1e-4
    assert steps(outs[0]) == pytest.approx(steps(outs[1]), rel=rel)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_value_that_is_not_finite_is_one_message(bench, method):
    body = recipe(LORA if method == "lora" else ["full"], learning_rate=1e30, lr_scheduler_type="constant")
    body["train"] |= {"fsdp": "full_shard", "max_grad_norm": None, "warmup_steps": 0}
    file = bench.folder / bench.write(f"infinite-{method}", body)
    first, second = run_two(bench, ["run", str(file), "--out", str(bench.folder / f"infinite-{method}")])
    assert first.code == second.code == errors.NonFiniteError.code
    assert (first.stderr + second.stderr).count("error:") == 1 and "step 2" in first.stderr, first.stderr


HELD = """
import sys
from tunewright.conformance.bench import llama
from tunewright.machine.group import present
from tunewright.models.divided import divide, divided
group = present()
group.join()
model = llama()
whole = sum(p.numel() * p.element_size() for p in model.parameters())
divide(model, group, "cpu")
held = divided(model).held()
import torch
from tunewright.models.adapted import Adapted
adapted = Adapted(model)
with torch.no_grad():
    for step in range(2):
        model(input_ids=torch.zeros(1, 4, dtype=torch.long))
# between two forwards nothing is left together: torch frees the storage of what it brought together
from torch.distributed.fsdp import FSDPModule
left = 0
for unit in model.modules():
    if isinstance(unit, FSDPModule):
        for p in unit._get_fsdp_state()._fsdp_param_group.fsdp_params:
            left += sum(t.untyped_storage().size() for t in p.all_gather_outputs)
print(whole, held, left)
group.leave()
"""


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_a_process_holds_its_share_of_the_weights_and_nothing_between_two_forwards(count):
    with spawn(["-c", HELD], count) as processes:
        said = [p.communicate(timeout=600) for p in processes]
    figures = [[int(n) for n in out.split()] for out, _ in said]
    assert all(len(f) == 3 for f in figures), said
    whole_size = figures[0][0]
    assert sum(held for _, held, _ in figures) == whole_size
    assert all(left == 0 and held < whole_size / count * 1.1 for _, held, left in figures), figures


def test_the_docs_name_every_method_that_divides():
    text = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text(encoding="utf-8")
    named = text.partition("methods that declare `divides`")[2].partition("All others are refused")[0]
    assert sorted(part for i, part in enumerate(named.split("`")) if i % 2) == NAMES


# -- refusals ----------------------------------------------------------------------------------------------------------

TWO = [
    {"name": "first", "methods": LORA, "budget": {"steps": 1}},
    {"name": "second", "start": "stages.first", "methods": LORA, "budget": {"steps": 1}},
]
REFUSED = {
    "a method that was not tried": ({"methods": ["hft"]}, "'hft' is not known to work"),
    "an optimizer that was not tried": ({"train": {"optimizer": "muon"}}, "'muon' is not known to work"),
    "a task that was not tried": ({"task": "text-classification"}, "text-classification is not known to work"),
    "blocks on disk": ({"train": {"offload_param": "disk"}}, "`train.offload_param` leaves the weights on disk"),
    "new tokens": ({"new_tokens": ["<a>"]}, "`new_tokens` changes"),
    "after": ({"after": ["lines"]}, "`after` reads or changes whole weights"),
    "probes": ({"probes": ["intruder-dimensions"]}, "`probes` reads whole weights"),
    "along": (
        {"measurement": {"along": ["drift"]}, "train": {"eval_steps": 2}},
        "`measurement.along` is read by one process",
    ),
    "selectors": ({"data": {"select": ["less"]}}, "`data.select` is not known to work beside"),
    "a fold": ({"stages": TWO}, "carry: fold puts what a stage learnt into the weights"),
    "a start from what no process has whole": (
        {"stages": [TWO[0] | {"methods": ["full"]}, TWO[1] | {"carry": "frozen"}]},
        "'stages.first' trains the base's own weights",
    ),
    "a start from a folder": (
        {"stages": [TWO[1] | {"start": "elsewhere", "carry": "frozen"}]},
        "a stage that starts from a folder",
    ),
}


def refused(changes: dict[str, Any], fsdp: str | None) -> Recipe:
    tree: dict[str, Any] = {
        **recipe(LORA),
        **{k: v for k, v in changes.items() if k in ("task", "methods", "new_tokens")},
    }
    for key in ("train", "data", "measurement"):
        tree[key] = {**tree[key], **changes.get(key, {})}
    tree |= {k: changes[k] for k in ("after", "probes") if k in changes}
    if "stages" in changes:
        tree = {k: v for k, v in tree.items() if k not in ("methods", "budget")} | {"stages": changes["stages"]}
    tree["train"]["fsdp"] = fsdp
    return Recipe.model_validate(tree)


@pytest.mark.parametrize("name", REFUSED)
def test_what_was_not_proved_on_parts_is_refused_before_anything_loads(name):
    changes, said = REFUSED[name]
    with pytest.raises(errors.MethodError, match="remove train.fsdp") as caught:
        check_divided(refused(changes, "full_shard"))
    assert said in str(caught.value)
    check_divided(refused(changes, None))


def test_a_process_that_is_alone_divides_nothing():
    assert divider(refused({}, "full_shard")) is None and divider(refused({}, None)) is None


# -- parts -------------------------------------------------------------------------------------------------------------


def test_what_is_not_divided_is_as_it_was():
    p = torch.ones(3, 2)
    assert own(p) is p and whole(p) is p and share(p, p) is p


class Pair(Group):
    """The first of two processes; the other one's part of each exchanged number is `theirs`."""

    def __init__(self, theirs: float, bad: str = "?"):
        super().__init__(0, 2)
        self.theirs, self.bad = theirs, bad

    def sum(self, tensors):
        for tensor in tensors:
            tensor.add_(self.theirs)

    def told(self, values):
        return [values, {"bad": self.bad}]


def loop_of(group: Group, parts: bool, **gradients: Any) -> Any:
    leaves = {}
    for name, (gradient, is_part) in gradients.items():
        p = torch.nn.Parameter(torch.zeros(len(gradient)))
        p.grad = torch.tensor(gradient)
        leaves[name] = SimpleNamespace(leaf=p, divided=is_part)
    trained = SimpleNamespace(leaves=leaves, gradients=lambda: {n: leaf.leaf.grad for n, leaf in leaves.items()})
    return SimpleNamespace(trained=trained, group=group, adapted=SimpleNamespace(divided=object() if parts else None))


def test_a_gradient_is_clipped_by_its_length_over_all_processes():
    loop = loop_of(Pair(16.0), True, part=([3.0, 0.0], True), alike=([0.0, 12.0], False))
    assert divided.clip(loop, 6.5) == pytest.approx(13.0)  # 9 here, 16 there, 144 in both alike
    assert loop.trained.leaves["alike"].leaf.grad.tolist() == pytest.approx([0.0, 6.0], rel=1e-4)
    loop = loop_of(Pair(16.0), False, alike=([3.0, 4.0], False))
    assert divided.clip(loop, 10.0) == pytest.approx(5.0)


def test_a_gradient_that_another_process_alone_sees_is_named():
    finite = {"part": ([1.0], True)}
    assert divided.not_finite(loop_of(Pair(0.0, "theirs"), True, **finite)) == "theirs"
    assert divided.not_finite(loop_of(Pair(0.0), True, mine=([float("nan")], True))) == "mine"
    assert divided.not_finite(loop_of(Group(), False, mine=([float("inf")], False))) == "mine"


def test_where_weights_are_divided_all_run_the_model_equally_often():
    loop = loop_of(Pair(0.0), True)
    assert divided.turns(loop, ["a", "b", "c"]) == [(0, "a", 1.0), (2, "c", 1.0)]
    loop.group.rank = 1
    assert divided.turns(loop, ["a", "b", "c"]) == [(1, "b", 1.0), (4, "a", 0.0)]
    loop.adapted.divided = None
    assert divided.turns(loop, ["a", "b", "c"]) == [(1, "b", 1.0)]
