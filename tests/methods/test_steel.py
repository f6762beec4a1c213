"""STEEL: draws are made before rows are read, the likeliest is picked by every row once, and its error is certified."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests import classifying, small, tiny
from tests.methods.driving import Run, assert_resumes, text_rows
from tunewright import catalogue
from tunewright.conformance.upstream import upstream
from tunewright.contract.batch import Row
from tunewright.contract.change import Change
from tunewright.contract.combining import check_conflicts
from tunewright.errors import MethodError, NonFiniteError, RecipeError, TunewrightError
from tunewright.finished.export import export
from tunewright.finished.finished import open_run
from tunewright.methods.adapters.steel import STEEL, directions
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import LowRank
from tunewright.models.peft_format import obstacle
from tunewright.pieces import certificates
from tunewright.pieces.diffusion import Diffusion
from tunewright.planning.check import check_recipe
from tunewright.runs.run import resume, run
from tunewright.tasks import get_task

TASK = get_task("text-classification")
SMALL = {"samples": 6, "fit_steps": 20, "timesteps": 8, "hidden": 16}


def rows(count: int = 14, source: str = "new", seed: int = 0) -> list[Row]:
    made = text_rows(count, source, seed)
    return [Row(r.id, source, r.input_ids, [1.0], i % 3, {"reference": f"{i % 3}"}) for i, r in enumerate(made)]


def model() -> Adapted:
    adapted = Adapted(tiny.bert_classifier())
    adapted.new = ("classifier.weight", "classifier.bias")
    return adapted


def changes(adapted: Adapted, names: Sequence[str] = ("zoo",), head: bool = True, tasks: int = 4) -> list[Change]:
    """Changes of tasks drawn from the names, the head's too."""
    found = upstream(adapted, names, tasks)
    own = adapted.base_parameters()
    heads = [torch.Generator().manual_seed(i) for i in range(len(found))] if head else []
    values = [{n: torch.randn(own[n].shape, generator=g) for n in adapted.new} for g in heads]
    return [replace(c, values=v) for c, v in zip(found, values, strict=True)] if head else found


def make(listen=None, steps: int = 12, data: list[Row] | None = None, given=None, plan=None, **fields) -> Run:
    adapted = model()
    method = STEEL(**{"upstream": ["./zoo"], **SMALL, **fields})
    kind = {"sources": {"new": data if data is not None else rows()}, "task": "text-classification", "steps": steps}
    read = given or (lambda names: changes(adapted, names))
    return Run({"steel": method}, model=adapted, changes=read, listen=listen, plan=plan, **kind)


def by_hand(run: Run, k: int, some: Sequence[Row]) -> tuple[float, int]:
    """(-log-likelihood, errors) of the k-th draw: W + U R V of every layer in a fresh model, by plain operations."""
    state, fresh = run.state("steel"), tiny.bert_classifier()
    u = state.get("mean") + state.get("draws")[k] @ state.get("entries")
    place, weights = 0, dict(fresh.named_parameters())
    with torch.no_grad():
        for site, by_name in run.adapted.deltas().items():
            U, V = state.get(f"left.{site}"), by_name["steel"].lora_A
            R = u[place : place + U.shape[1] * len(V)].view(U.shape[1], len(V))
            weights[f"{site}.weight"] += U @ R @ V
            place += R.numel()
        for name in ("classifier.bias", "classifier.weight"):
            weights[name].copy_(u[place : place + weights[name].numel()].view_as(weights[name]))
            place += weights[name].numel()
        assert place == len(u)
        nll = wrong = 0.0
        for row in some:
            logits = fresh.eval()(input_ids=torch.tensor([list(row.input_ids)])).logits[0]
            nll -= float(logits.log_softmax(-1)[row.label])
            wrong += int(logits.argmax()) != row.label
    return nll, int(wrong)


def said(adapted: Adapted, some: Sequence[Row]) -> torch.Tensor:
    with torch.no_grad():
        return TASK.forward(adapted.model.eval(), TASK.collate(list(some))).logits


def test_the_likeliest_draw_of_all_rows_is_picked_and_its_errors_are_counted_once():
    run = make()
    run.train()
    state, data = run.state("steel"), rows()
    each = [by_hand(run, k, data) for k in range(6)]
    torch.testing.assert_close(state.get("nll"), torch.tensor([n for n, _ in each]).double(), atol=1e-3, rtol=1e-4)
    assert state.get("wrong").tolist() == [w for _, w in each]
    best = min(range(6), key=lambda k: each[k][0])
    assert state.data["best"] == best and len({n for n, _ in each}) == 6
    assert sorted(state.data["seen"]) == sorted(r.id for r in data), "12 steps of 4 rows go over 14 rows three times"
    found = STEEL(**{"upstream": ["./zoo"], **SMALL}).found(state)
    assert found is not None
    errors = each[best][1]
    assert found.values["error on the stage's rows"] == errors / 14
    assert found.values["certified error (binomial)"] == certificates.binomial(errors, 14, 6, 1 - 0.95)
    assert found.values["certified error (Hoeffding, the paper's)"] == certificates.hoeffding(errors, 14, 6, 1 - 0.95)
    assert found.values["error of guessing"] == pytest.approx(2 / 3)
    first = changes(model())[0]
    numbers = sum(A.numel() + B.numel() for A, B in first.pairs.values()) + 3 * 32 + 3
    assert found.values["numbers of an upstream change"] == numbers
    assert any("4 upstream tasks are few" in note for note in found.notes)


def test_the_model_is_the_picked_draw_which_folds_and_nothing_of_it_trained():
    run = make()
    loop = run.train()
    assert not loop.trained.leaves and loop.trained.count() == 0
    state, data = run.state("steel"), rows()
    logits = said(run.adapted, data)
    nll = -float(logits.log_softmax(-1).gather(1, torch.tensor([[r.label] for r in data])).sum())
    assert nll == pytest.approx(float(state.get("nll")[state.data["best"]]), abs=1e-3)
    assert all(type(d["steel"]) is LowRank for d in run.adapted.deltas().values()) and obstacle(run.adapted) is None
    with run.adapted.at_strength(1.0):
        torch.testing.assert_close(said(run.adapted, data), logits, atol=1e-4, rtol=1e-4)
    with run.adapted.base():
        torch.testing.assert_close(said(run.adapted, data), said(model(), data), atol=1e-5, rtol=1e-5)


def test_draws_are_made_before_the_rows_are_read_and_without_them():
    one, other = make(data=rows()), make(data=rows(20, "other", 3))
    one.train()
    other.train()
    assert torch.equal(one.state("steel").get("draws"), other.state("steel").get("draws"))
    assert not torch.equal(one.state("steel").get("nll"), other.state("steel").get("nll"))


def test_rows_are_read_once_however_they_come_and_replayed_ones_never():
    first, again = make(steps=4), make(steps=12)
    first.train()
    again.train()
    assert len(first.state("steel").data["seen"]) == 14
    assert torch.equal(first.state("steel").get("nll"), again.state("steel").get("nll"))
    assert again.records[-1]["certificate"] == first.records[-1]["certificate"]
    none = make(steps=3, plan={"replay": ("new",)})
    none.train()
    assert not none.state("steel").data["seen"] and none.records[-1]["certificate"] == 1.0


def test_it_resumes_in_the_middle_of_its_rows():
    assert_resumes(lambda listen: make(listen, steps=4), 2)


def test_all_draws_are_of_the_upstream_changes_own_directions():
    adapted = model()
    given = changes(adapted)
    site = next(iter(given[0].pairs))
    pairs = [c.pairs[site] for c in given]
    U, V = directions(pairs, 16)
    eye = torch.eye(8, dtype=torch.float64)
    torch.testing.assert_close(U.T @ U, eye, atol=1e-9, rtol=0)
    torch.testing.assert_close(V @ V.T, eye, atol=1e-9, rtol=0)
    for A, B in pairs:
        D = B.double() @ A.double()
        torch.testing.assert_close(U @ (U.T @ D @ V.T) @ V, D, atol=1e-9, rtol=0)
    few = directions(pairs, 3)[0]
    stacked = torch.cat([B.double() @ A.double() for A, B in pairs], 1)
    leading = torch.linalg.svd(stacked)[0][:, :3]
    torch.testing.assert_close((few.T @ leading).abs().diag(), torch.ones(3).double(), atol=1e-6, rtol=0)


def test_factors_that_are_turned_give_the_same_draws():
    """B A = (B Q) (Q^T A): an adapter's factors are known up to a rotation only, and that must not matter."""
    Q = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(9))).Q

    def turned(names):
        return [
            replace(c, pairs={n: (Q.T @ A, B @ Q) for n, (A, B) in c.pairs.items()}) for c in changes(model(), names)
        ]

    plain, other = make(), make(given=turned)
    for r in (plain, other):
        r.train()
    torch.testing.assert_close(said(plain.adapted, rows()), said(other.adapted, rows()), atol=2e-2, rtol=2e-2)


def test_two_tasks_and_one_component_lie_on_the_line_between_them():
    run = make(given=lambda names: changes(model(), names, tasks=2), samples=200, fit_steps=300, steps=1)
    run.train()
    state = run.state("steel")
    draws = state.get("draws")
    assert draws.shape == (200, 1)
    assert float(draws.abs().max()) < 1 + 1e-5, "a task is at 1 or -1"
    assert float(draws.std()) > 0.4
    # both ends are the tasks' own changes, whole
    u = state.get("mean") + torch.tensor([[1.0], [-1.0]]) @ state.get("entries")
    site = next(iter(run.adapted.deltas()))
    U, V = state.get(f"left.{site}"), run.adapted.deltas()[site]["steel"].lora_A
    ends = [U @ x[: U.shape[1] * len(V)].view(U.shape[1], len(V)) @ V for x in u]
    given = [B @ A for A, B in (c.pairs[site] for c in changes(model(), ["./zoo"], tasks=2))]
    gaps = sorted(float((e - g).abs().max()) for e in ends for g in given)
    assert gaps[1] < 1e-4 < gaps[2]


def test_draws_that_overflow_are_never_picked_and_all_of_them_are_refused(monkeypatch: pytest.MonkeyPatch):
    plain = make(steps=4)
    plain.train()
    best, draw = plain.state("steel").data["best"], Diffusion.draw

    def one_of_them(self, count):
        drawn = draw(self, count)
        drawn[best] *= 1e36
        return drawn

    with monkeypatch.context() as patched:
        patched.setattr(Diffusion, "draw", one_of_them)
        other = make(steps=4)
        other.train()
    state = other.state("steel")
    assert not math.isfinite(float(state.get("nll")[best])) and float(state.get("wrong")[best]) == 14
    assert state.data["best"] == int(plain.state("steel").get("nll").argsort()[1])

    def large(names):
        told = changes(model(), names)
        return [replace(c, pairs={n: (A * 1e18, B * 1e18) for n, (A, B) in c.pairs.items()}) for c in told]

    with pytest.raises(NonFiniteError, match="none of 6 draws"):
        make(given=large).train()


def wrong(change: Change, kind: str) -> Change:
    site, (A, B) = next(iter(change.pairs.items()))
    rest = {n: p for n, p in change.pairs.items() if n != site}
    return {
        "layers": replace(change, pairs=rest),
        "another": replace(change, pairs={**change.pairs, "elsewhere": (A, B)}),
        "shape": replace(change, pairs={**change.pairs, site: (A[:, 1:], B)}),
        "finite": replace(change, pairs={**change.pairs, site: (A * math.nan, B)}),
        "classes": replace(change, values={**change.values, "classifier.bias": torch.zeros(5)}),
        "headless": replace(change, values={}),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("layers", "change other layers: .* is in './zoo/0' alone"),
        ("another", "changes 'elsewhere', which this model lacks"),
        ("shape", "does not fit: its change of"),
        ("finite", "that are not finite"),
        ("classes", r"its 'classifier.bias' is \[5\], \[3\] here"),
        ("headless", "holds no 'classifier.bias'"),
    ],
)
def test_changes_that_do_not_belong_together_are_refused_by_name(kind: str, words: str):
    def given(names):
        first, second, *rest = changes(model(), names)
        return [first, wrong(second, kind), *rest]

    with pytest.raises(MethodError, match=words) as refused:
        make(given=given)
    assert "'./zoo/1'" in str(refused.value) and "upstream" in str(refused.value)


def test_too_few_and_useless_upstream_tasks_are_refused():
    with pytest.raises(MethodError, match="1 upstream task say nothing"):
        make(given=lambda names: changes(model(), names, tasks=1))
    with pytest.raises(MethodError, match="one and the same"):
        make(given=lambda names: [*changes(model(), names, tasks=1), *changes(model(), names, tasks=1)]).train()
    zero = [Change(f"{i}", {"a": (torch.zeros(1, 3), torch.zeros(3, 1))}) for i in range(2)]
    with pytest.raises(MethodError, match="all zero"):
        directions([c.pairs["a"] for c in zero], 4)
    with pytest.raises(ValueError, match="greater than or equal to 0.5"):
        STEEL(upstream=["stages"], confidence=0.05)


def test_it_has_its_stage_to_itself_but_for_an_optimizer_which_does_nothing_there():
    steel, named = ("steel", STEEL(upstream=["stages"])), lambda name: (name, catalogue.load_method(name)())
    check_conflicts([steel, named("lion")], stage="s", task=get_task("text-classification"))
    for other in ("lora", "core-tuning", "infinite-lr", "layerwise-decay"):
        with pytest.raises(MethodError, match=f"'steel' has its stage to itself, and '{other}' stands beside it"):
            check_conflicts([named(other), steel], stage="s", task=get_task("text-classification"))


# -- whole runs ---------------------------------------------------------------------------------------------------

STAGES = [
    {"name": f"t{i}", "start": "base", "methods": [{"lora": {"rank": 2}}], "budget": {"steps": 6}} for i in range(3)
]
PICK = {"name": "pick", "start": "base", "methods": [{"steel": {"upstream": ["stages"], **SMALL}}]}


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    classifying.write_inputs(tmp_path, train=40, test=8)
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    for i in range(3):
        (tmp_path / f"t{i}.jsonl").write_text("\n".join(lines[8 * i : 8 * i + 8]))
    (tmp_path / "new.jsonl").write_text("\n".join(lines[24:]))
    return tmp_path


def recipe(folder: Path, name: str, stages: list[dict], **changes) -> Path:
    stages = [{"data": {"train": f"{s['name']}.jsonl"}, **s} if s["name"][0] == "t" else s for s in stages]
    quick = {"drift_sequences": 2, "drift_tokens": 4, "strengths": [1.0], "rows": 8}
    train = {"precision": "float32", "threads": 1, "learning_rate": 1e-2}
    more = classifying.recipe(measurement=quick, train=train, data__train="new.jsonl")
    more = {k: v for k, v in more.items() if k not in ("train__learning_rate", "train__batch_tokens")}
    more.pop("measurement__strengths")
    return small.write_recipe(folder, name, stages=stages, **{**more, **changes})


def test_a_run_trains_upstream_picks_certifies_and_a_later_stage_goes_on(inputs: Path):
    after = {"name": "more", "carry": "fold", "methods": [{"lora": {"rank": 2}}], "budget": {"steps": 2}}
    done = run(recipe(inputs, "whole", [*STAGES, PICK, after]), out=inputs / "out", quiet=True)
    probe = done.report.probes["pick: steel"]
    state = json.loads((done.folder / "stages" / "pick" / "state.json").read_text())
    assert probe.values["rows"] == 16 and probe.values["upstream tasks"] == 3
    assert probe.values == state["result"]["found"]["steel"]["values"]
    bound = probe.values["certified error (binomial)"]
    assert isinstance(bound, float) and 0 < bound <= 1
    assert any(f"at most {100 * bound:.1f} % of new rows" in note for note in done.report.notes)
    picked = next(s for s in done.report.stages if s.name == "pick")
    assert (picked.steps, picked.ended_by) == (1, "epochs"), "each row is read once, all of them together"
    assert not any("stage pick: only" in note for note in done.report.notes)
    assert not any("pick" in note and "linear probe" in note for note in done.report.notes)
    assert "Certified error on new rows" in (done.folder / "report.html").read_text()


@pytest.mark.slow
def test_adapters_of_other_runs_are_drawn_from_and_the_result_is_one(inputs: Path):
    for i in range(3):
        stage = [{**STAGES[i], "name": f"t{i}"}]
        run(recipe(inputs, f"up{i}", stage, train__seed=i), out=inputs / "zoo" / f"t{i}", quiet=True)
    stage = {**PICK, "methods": [{"steel": {"upstream": ["./zoo"], **SMALL}}], "budget": {"epochs": 1}}
    file = recipe(inputs, "pick", [stage], train__batch_tokens=64, train__save_steps=1)
    done = run(file, out=inputs / "out", quiet=True)
    assert done.report.probes["steel"].values["upstream tasks"] == 3
    assert (done.folder / "adapter" / "adapter_config.json").exists()
    picked = open_run(done.folder).adapted
    assert all(isinstance(d, LowRank) for by_name in picked.deltas().values() for d in by_name.values())
    assert export(done.folder).folder.exists()
    # an adapter is upstream as its run is
    named = [f"./zoo/t{i}/{'adapter' if i else 'stages/t0'}" for i in range(3)]
    stage = {**stage, "methods": [{"steel": {"upstream": named, **SMALL}}]}
    again = run(recipe(inputs, "again", [stage], train__batch_tokens=64), out=inputs / "again", quiet=True)
    assert again.report.probes["steel"].values == done.report.probes["steel"].values
    resume(done.folder, verify=True, quiet=True)


def test_a_resumed_run_meets_the_changes_that_it_began_with_or_is_refused(inputs: Path):
    for i in range(2):
        run(recipe(inputs, f"up{i}", [STAGES[i]], train__seed=i), out=inputs / "zoo" / f"t{i}", quiet=True)
    stage = {**PICK, "methods": [{"steel": {"upstream": ["./zoo"], **SMALL}}]}
    done = run(recipe(inputs, "pick", [stage]), out=inputs / "out", quiet=True)
    (done.folder / "report.json").unlink()
    (inputs / "zoo" / "t0" / "stages" / "t0" / "state.json").write_text("{}")
    with pytest.raises(TunewrightError, match="is not what the run began with"):
        resume(done.folder, quiet=True)


REFUSED = [
    ({"start": None}, "changes of the base"),
    ({"methods": ["lora", *PICK["methods"]]}, "'steel' has its stage to itself, and 'lora' stands beside it"),
    ({"methods": [{"steel": {"upstream": ["stages.none"]}}]}, "no earlier stage is 'stages.none'"),
    ({"methods": [{"steel": {"upstream": ["zoo"]}}]}, "neither a stage nor a folder"),
    ({"methods": [{"steel": {"upstream": ["./base"]}}]}, "is no run, finished stage or adapter"),
    ({"methods": [{"steel": {"upstream": ["./none"]}}]}, "there is no folder"),
    ({"methods": [{"steel": {"upstream": ["stages.t0"]}}]}, "1 upstream task say nothing"),
    ({"data": {"train": "t1.jsonl"}}, "8 of 8 rows of this stage were trained on by 'stages.t1'"),
    ({"data": {"replay": {"stages.t0": 0.5}}}, "each once"),
]


@pytest.mark.parametrize(("change", "words"), REFUSED)
def test_a_check_and_a_run_refuse_the_same_in_the_same_words(inputs: Path, change: dict, words: str):
    pick = {k: v for k, v in {**PICK, **change}.items() if v is not None}
    file = recipe(inputs, "bad", [*STAGES, pick])
    with pytest.raises((MethodError, RecipeError), match=words) as refused:
        run(file, out=inputs / "bad", quiet=True)
    try:
        told = [str(error) for error in check_recipe(file).report.errors]
    except TunewrightError as error:
        told = [str(error)]
    assert str(refused.value).replace(str(inputs), ".") in told


def test_upstream_stages_that_cannot_be_read_together_are_refused_before_they_train(inputs: Path):
    other = {**STAGES[1], "methods": [{"lora": {"rank": 2, "target_modules": ["query"]}}]}
    chained = {k: v for k, v in STAGES[1].items() if k != "start"}
    full = {**STAGES[1], "methods": ["full"]}
    for stage, words in (
        (other, "change other layers"),
        (chained, "starts from stages.t0"),
        (full, "no low-rank change"),
    ):
        with pytest.raises(MethodError, match=words):
            run(recipe(inputs, "bad", [STAGES[0], stage, STAGES[2], PICK]), out=inputs / "bad", quiet=True)
        assert not (inputs / "bad" / "stages").exists()
