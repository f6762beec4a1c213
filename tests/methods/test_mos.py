"""MOS over three tasks: each adapter is merged with those before, classes leave what they were, and a row's own answers
choose its adapter.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import tunewright
from tests import classifying, small, tiny
from tests.methods.driving import Run, changed, image_rows, snapshot
from tunewright.contract.batch import Row
from tunewright.contract.combining import check_conflicts
from tunewright.contract.left import Earlier, left_of
from tunewright.errors import Interrupted, MethodError
from tunewright.files import checkpoint
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.continual.lae import LAE
from tunewright.methods.continual.mos import MOS, Retrieval, merged, named, refined
from tunewright.methods.optimization.lion import Lion
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees, differing
from tunewright.models.deltas import is_frozen
from tunewright.models.experts import expert, speaking
from tunewright.pieces.class_gaussians import class_covariances
from tunewright.pieces.heads import classifier_head
from tunewright.pieces.prototypes import class_means
from tunewright.recipe import Recipe
from tunewright.runs.run import resume as resume_run
from tunewright.runs.run import run as run_recipe
from tunewright.runs.stages import TrainingCallback, end_stage
from tunewright.tasks import get_task
from tunewright.training import carry

STEPS = 4
TEXT, PICTURES = "text-classification", "image-classification"
TASKS = ((0, 1), (2, 3), (4, 5))
SMALL: dict[str, Any] = {"width": 3, "align_epochs": 4, "align_rows": 10}


def rows(classes: tuple[int, ...], task: str, count: int = 8) -> list[Row]:
    if task == PICTURES:
        made = image_rows(count, 2, seed=classes[0])
        return [r.replace(id=f"t{classes[0]}:{i}", label=classes[i % len(classes)]) for i, r in enumerate(made)]
    g = torch.Generator().manual_seed(classes[0])
    out = []
    for i in range(count):
        words = torch.randint(30, 200, (3 + i % 4,), generator=g).tolist()
        out.append(Row(f"t{classes[0]}:{i}", "t", [tiny.CLS, 20 + classes[i % len(classes)], *words], [1.0]))
    return [r.replace(label=classes[i % len(classes)]) for i, r in enumerate(out)]


def model(task: str = TEXT) -> Adapted:
    adapted = Adapted(tiny.bert_classifier(labels=6) if task == TEXT else tiny.vit(labels=6))
    adapted.new = tuple(n for n in adapted.base_parameters() if n.startswith("classifier."))
    return adapted


def stage(adapted: Adapted, classes, earlier=None, listen=None, beside=None, task: str = TEXT, **fields: Any) -> Run:
    methods = {"mos": MOS(**{**SMALL, **fields}), **(beside or {})}
    run = Run(
        methods,
        model=adapted,
        task=task,
        sources={"t": rows(classes, task)},
        steps=STEPS,
        listen=listen,
        earlier=earlier,
    )
    run.methods.event("begin_task", stage="x", adapted=adapted)
    return run


def end(run: Run, folder: Path, name: str) -> None:
    """What a run does when a stage has ended."""
    end_stage(run.stage, name)
    left = [left_of(name, b.name, b.method.leaves, b.state, b.state.data) for b in run.methods]
    carry.save_stage(folder / "stages" / name, run.adapted, {}, [one for one in left if one is not None])


def left_by(folder: Path, start: str | None = None) -> Earlier:
    """What all stages left; of one that starts from `start`."""
    stages = ("one", "two", "three")
    way = None if start is None else stages[: stages.index(start) + 1] if start != "base" else ()
    return replace(carry.earlier_of({n: folder / "stages" / n for n in stages}), way=way)


def follow(folder: Path, start: str, classes, *, listen=None, how: str = "frozen", task: str = TEXT, **more) -> Run:
    adapted = model(task)
    carry.begin(adapted, f"stages.{start}", how, folder, "recipe.yaml")
    return stage(adapted, classes, left_by(folder, start), listen, task=task, **more)


@pytest.fixture(scope="module", params=[TEXT, PICTURES])
def two(request, tmp_path_factory) -> tuple[Path, str]:
    """A run's folder with two tasks done, and the task that it is of."""
    folder = tmp_path_factory.mktemp("run")
    run = stage(model(request.param), TASKS[0], task=request.param)
    run.train()
    end(run, folder, "one")
    run = follow(folder, "one", TASKS[1], task=request.param)
    run.train()
    end(run, folder, "two")
    return folder, request.param


def values(adapted: Adapted, task: int) -> list[Tensor]:
    return [p.detach().clone() for d in expert(adapted.structure, named(task)) for p in d.parameters()]


def same(a, b) -> bool:
    return len(a) == len(b) > 0 and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def logits(run: Run, batch, *, outer: bool = True) -> Tensor:
    with torch.no_grad():
        module = run.adapted.outer.eval() if outer else run.adapted.model.eval()
        return run.task.forward(module, batch).logits


# -- merging -------------------------------------------------------------------------------------------------


def test_merging_is_a_step_to_the_mean_of_the_earlier_ones():
    own, earlier = torch.tensor([1.0, -2.0]), [torch.tensor([3.0, 0.0]), torch.tensor([5.0, 8.0])]
    torch.testing.assert_close(merged(own, earlier, 0.25), torch.tensor([0.75 + 1.0, -1.5 + 1.0]))
    assert merged(own, [], 0.25) is own


def test_each_step_of_a_later_task_ends_with_the_merge(two):
    """By hand: what the optimizer alone makes of the first step; (1 - m) of it and m of the earlier tasks' mean."""
    folder, task = two
    plain: list[list[Tensor]] = []
    follow(
        folder, "two", TASKS[2], listen=lambda loop: plain.append(values(loop.adapted, 2)), task=task, momentum=0.0
    ).train()
    got: list[list[Tensor]] = []
    run = follow(
        folder, "two", TASKS[2], listen=lambda loop: got.append(values(loop.adapted, 2)), task=task, momentum=0.3
    )
    start, zero, one = (values(run.adapted, t) for t in (2, 0, 1))
    assert same(start, one) and not same(zero, one)  # it starts where the last one ended
    run.train()
    for p, q, a, b in zip(got[0], plain[0], zero, one, strict=True):
        torch.testing.assert_close(p, 0.7 * q + 0.3 * (a + b) / 2)
    assert not same(got[0], plain[0]) and not same(got[1], got[0])
    assert same(values(run.adapted, 0), zero) and same(values(run.adapted, 1), one)


def test_the_first_task_is_merged_with_nothing():
    trained = []
    for momentum in (0.0, 0.5):
        run = stage(model(), TASKS[0], momentum=momentum)
        run.train()
        trained.append(values(run.adapted, 0))
    assert same(*trained)


def test_earlier_adapters_are_silent_and_frozen_and_old_rows_of_the_head_wait(two):
    folder, task = two
    run = follow(folder, "two", TASKS[2], task=task, how="training")  # the method knows what is to stay
    for t in (0, 1):
        deltas = expert(run.adapted.structure, named(t))
        assert all(d.strength == 0 and is_frozen(p) for d in deltas for p in d.parameters())
    head = classifier_head(run.adapted.model).weight.clone()
    loop = run.train()
    assert not any(named(t) in n for n in loop.trained.leaves for t in (0, 1))
    assert any(named(2) in n for n in loop.trained.leaves)
    moved = (classifier_head(run.adapted.model).weight != head).any(1)
    assert moved.tolist() == [False] * 4 + [True] * 2


# -- what a task leaves --------------------------------------------------------------------------------------


def test_what_a_task_leaves_arrives_by_name_and_is_of_its_rows(two):
    folder, task = two
    earlier = left_by(folder)
    assert earlier.named("stages.one.classes") == [0, 1] and earlier.named("stages.one.owners") == [0, 0]
    assert earlier.named("stages.two.classes") == [0, 1, 2, 3] and earlier.named("stages.two.owners") == [0, 0, 1, 1]
    run = follow(folder, "two", TASKS[2], task=task)
    adapted, names = run.adapted, [named(t) for t in range(3)]

    def features(classes, t: int) -> tuple[Tensor, Tensor]:
        batch = run.task.collate(rows(classes, task))
        with speaking(adapted.structure, names, names[t]), torch.no_grad():
            return run.task.forward(adapted.model.eval(), batch).features, batch.labels

    for i, classes in enumerate(TASKS[:2]):
        own, first = features(classes, i), features(classes, 0)
        means, spreads, protos = class_means(*own), class_covariances(*own), class_means(*first)
        for c in classes:
            for key, wanted in (("means", means[c]), ("covariances", spreads[c]), ("prototypes", protos[c])):
                got = earlier.named(f"stages.two.{key}")[c]
                torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    for key in ("means", "covariances", "prototypes"):  # a later task takes nothing from what an earlier one left
        assert torch.equal(earlier.named(f"stages.two.{key}")[:2], earlier.named(f"stages.one.{key}"))
    assert torch.equal(run.state("mos").get("prototypes"), earlier.named("stages.two.prototypes"))


def test_alignment_trains_the_seen_rows_of_the_head_and_only_from_the_second_task_on(two):
    folder, task = two
    heads = []
    for epochs in (0, 4, 5):
        run = follow(folder, "one", TASKS[1], task=task, align_epochs=epochs)
        run.train()
        before = classifier_head(run.adapted.model).weight.clone()
        end_stage(run.stage, "two")
        after = classifier_head(run.adapted.model).weight
        moved = (before != after).any(1).tolist()
        assert moved == ([True] * 4 + [False] * 2 if epochs else [False] * 6)
        heads.append(after.clone())
    assert not torch.equal(heads[1], heads[2])
    run = stage(model(task), TASKS[0], task=task)
    run.train()
    before = classifier_head(run.adapted.model).weight.clone()
    end_stage(run.stage, "one")
    assert torch.equal(classifier_head(run.adapted.model).weight, before)


def test_a_class_that_comes_again_belongs_to_its_last_task(two):
    folder, task = two
    run = follow(folder, "two", (1, 4), task=task)
    run.train()
    end_stage(run.stage, "three")
    state = run.state("mos")
    assert state.data["classes"] == [0, 2, 3, 1, 4] and state.data["owners"] == [0, 1, 1, 2, 2]
    assert all(len(state.get(n)) == 5 for n in ("prototypes", "means", "covariances"))


def test_variances_alone_may_be_kept(two):
    folder, task = two
    run = stage(model(task), TASKS[0], task=task, covariance="diagonal")
    run.train()
    end_stage(run.stage, "one")
    full = left_by(folder).named("stages.one.covariances")
    torch.testing.assert_close(run.state("mos").get("covariances"), full.diagonal(dim1=1, dim2=2))


# -- retrieval -----------------------------------------------------------------------------------------------

OWNERS = torch.tensor([0, 0, 1, 1, 2])


def told(table: dict[int, list[int]], asked: list[int]):
    """An adapter's answers: the class that it is surest of for each row."""

    def answer(t: int) -> Tensor:
        asked.append(t)
        return torch.nn.functional.one_hot(torch.tensor(table[t]), 5).float() + t / 100

    return answer


def test_a_row_ends_with_the_adapter_that_names_its_own_task():
    asked: list[int] = []
    table = {0: [1, 2, 4, 2], 1: [0, 3, 0, 4], 2: [0, 0, 4, 4]}
    got, task = refined(torch.tensor([0, 0, 2, 0]), told(table, asked), OWNERS, 4)
    # stays with 0; 0 -> 1 stays; stays with 2; 0 -> 1 -> 2 stays
    assert task.tolist() == [0, 1, 2, 2] and got.argmax(-1).tolist() == [1, 3, 4, 4]
    assert torch.equal(got[3], told(table, [])(2)[3])  # the row's logits are its own adapter's


def test_rounds_end_a_row_that_never_settles_and_no_adapter_is_asked_for_nothing():
    asked: list[int] = []
    table = {0: [2], 1: [0], 2: [0]}  # 0 says a class of 1, and 1 one of 0
    for rounds, ends in ((1, 0), (2, 1), (3, 0), (4, 1)):
        got, task = refined(torch.tensor([0]), told(table, asked), OWNERS, rounds)
        assert task.tolist() == [ends] and got.argmax(-1).tolist() == table[ends]
    assert 2 not in asked


def by_hand(run: Run, row: Row, prototypes: Tensor, rounds: int, ensemble: bool) -> tuple[Tensor, int]:
    """A row alone, as the authors' loop goes: (probabilities of the classes seen, the adapter that it ends with)."""
    adapted, state = run.adapted, run.state("mos")
    classes, owners = state.data["classes"], state.data["owners"]
    tasks = max(owners) + 1
    batch, names = run.task.collate([row]), [named(t) for t in range(tasks)]

    def ask(t: int):
        with speaking(adapted.structure, names, names[t]), torch.no_grad():
            out = run.task.forward(adapted.model.eval(), batch)
        return out.logits[0, classes], out.features[0]

    f = ask(0)[1]
    cosines = torch.stack([f @ p / (f.norm() * p.norm()) for p in prototypes])
    task, loops = owners[int(cosines.argmax())], 0
    while True:
        loops += 1
        said = ask(task)[0]
        now = owners[int(said.argmax())]
        if loops >= rounds or now == task:
            break
        task = now
    p = said.softmax(-1)
    return ((p + (tasks * cosines).softmax(-1)) / 2 if ensemble else p), task


@pytest.mark.parametrize(("rounds", "ensemble"), [(4, True), (4, False), (1, True)])
def test_the_finished_model_answers_each_row_as_by_hand(two, rounds, ensemble):
    folder, task = two
    run = follow(folder, "two", TASKS[2], task=task, rounds=rounds, ensemble=ensemble)
    run.train()
    some = [r for classes in TASKS for r in rows(classes, task, 4)]
    batch = run.task.collate(some)
    torch.testing.assert_close(logits(run, batch), logits(run, batch, outer=False))  # its own adapter, while it trains
    end_stage(run.stage, "three")
    state = run.state("mos")
    # prototypes that lead astray: rows have to find their adapters by the answers
    wrong = state.get("prototypes").roll(2, 0)
    for prototypes in (state.get("prototypes"), wrong):
        state.set_buffer("prototypes", prototypes)
        with torch.no_grad():
            out = run.task.forward(run.adapted.outer.eval(), batch)
        assert torch.isfinite(out.logits).all()
        for i, row in enumerate(some):
            p, own = by_hand(run, row, prototypes, rounds, ensemble)
            torch.testing.assert_close(out.logits[i].exp()[state.data["classes"]], p, atol=1e-5, rtol=1e-4)
            assert int(out.present.notes["retrieved"][0][i]) == own
            alone, names = run.task.collate([row]), [named(t) for t in range(3)]
            with speaking(run.adapted.structure, names, names[own]), torch.no_grad():
                wanted = run.task.forward(run.adapted.model, alone).features[0]
            torch.testing.assert_close(out.features[i], wanted, atol=1e-5, rtol=1e-4)
    strengths = [d.strength for t in range(3) for d in expert(run.adapted.structure, named(t))]
    assert strengths == [0.0] * (2 * len(strengths) // 3) + [1.0] * (len(strengths) // 3)  # as they were


def test_classes_that_were_not_seen_are_never_said(two):
    folder, task = two
    adapted = model(task)
    carry.begin(adapted, "stages.two", "frozen", folder, "recipe.yaml")
    run = stage(model(task), TASKS[0], task=task)
    with torch.no_grad():
        said = run.task.forward(adapted.outer.eval(), run.task.collate(rows(TASKS[2], task))).logits
    assert bool((said.argmax(-1) < 4).all()) and torch.allclose(said[:, 4:].exp(), torch.tensor(1e-8))


def test_a_finished_stage_is_read_back_with_its_retrieval(two):
    folder, task = two
    run = follow(folder, "two", TASKS[2], task=task)
    run.train()
    end(run, folder, "three")
    batch = run.task.collate([r for classes in TASKS for r in rows(classes, task, 4)])
    said = logits(run, batch)
    again = model(task)
    carry.begin(again, "stages.three", "frozen", folder, "recipe.yaml")
    with torch.no_grad():
        assert agrees(run.task.forward(again.outer.eval(), batch).logits, said)
    with again.base() as base, torch.no_grad():
        assert agrees(run.task.forward(base, batch).logits, run.task.forward(model(task).model, batch).logits)


def next_task(run: Run, classes, **fields: Any) -> Run:
    """The task after one that was trained, without files between them."""
    end_stage(run.stage, "one")
    left = [left_of("one", b.name, b.method.leaves, b.state, b.state.data) for b in run.methods]
    carry.apply_carry(run.adapted, "frozen", "one")
    return stage(run.adapted, classes, Earlier(tuple(one for one in left if one is not None)), **fields)


def made(kind: str) -> Adapted:
    """A tiny classifier of six texts' classes of another family, with a head that is new."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    plain = {"vocab_size": tiny.VOCABULARY, "num_labels": 6, "pad_token_id": tiny.PAD, "initializer_range": tiny.STD}
    config = getattr(transformers, f"{kind}Config")(**sizes, **plain)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapted = Adapted(getattr(transformers, f"{kind}ForSequenceClassification")(config).eval())
    adapted.new = tuple(n for n in adapted.base_parameters() if n.startswith(("classifier.", "score.")))
    return adapted


def test_of_a_new_head_the_last_layer_alone_trains():
    moved = []
    run = stage(made("Roberta"), TASKS[0])
    for following in (TASKS[1], None):
        before = {n: p.clone() for n, p in run.adapted.base_parameters().items()}
        run.train()
        moved.append({n for n, p in run.adapted.base_parameters().items() if not torch.equal(p, before[n])})
        run = next_task(run, following) if following else run
    assert moved[0] == moved[1] == {"classifier.out_proj.weight", "classifier.out_proj.bias"}


def test_a_decoder_is_asked_at_the_last_token_of_each_row():
    run = stage(made("Llama"), TASKS[0])
    run.train()
    run = next_task(run, TASKS[1])
    run.train()
    end_stage(run.stage, "two")
    some = rows(TASKS[0], TEXT, 4) + rows(TASKS[1], TEXT, 4)  # of several lengths
    with torch.no_grad():
        out = run.task.forward(run.adapted.outer.eval(), run.task.collate(some))
    for i, row in enumerate(some):
        p, own = by_hand(run, row, run.state("mos").get("prototypes"), 4, True)
        torch.testing.assert_close(out.logits[i, :4].exp(), p, atol=1e-5, rtol=1e-4)
        assert int(out.present.notes["retrieved"][0][i]) == own


# -- resume, composition, refusals ---------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 3])
def test_a_later_task_resumes_bit_for_bit(two, at):
    folder, task = two
    kept: list[Any] = []
    whole = follow(
        folder,
        "one",
        TASKS[1],
        task=task,
        listen=lambda loop: kept.append(snapshot(loop)) if loop.step_number == at else None,
    )
    outcomes = []
    for run, saved in ((whole, None), (follow(folder, "one", TASKS[1], task=task), 0)):
        loop = run.train(None if saved is None else kept[0])
        end_stage(run.stage, "two")
        state = run.state("mos")
        outcomes.append({**changed(loop), **{n: state.get(n) for n in ("prototypes", "means", "covariances")}})
    wanted, got = outcomes
    assert wanted.keys() == got.keys() and all(torch.equal(wanted[n], got[n]) for n in wanted)


def test_beside_lora_and_another_optimizer_all_train(two):
    folder, task = two
    moved = {}
    for name, beside in (("alone", {}), ("lora", {"lora": LoRA(rank=2)}), ("lion", {"lion": Lion()})):
        run = follow(folder, "one", TASKS[1], task=task, beside=beside)
        loop = run.train()
        end_stage(run.stage, "two")
        moved[name] = values(run.adapted, 1)
        assert any(".lora." in n for n in loop.trained.leaves) is (name == "lora")
        assert torch.isfinite(logits(run, run.task.collate(rows(TASKS[0], task)))).all()
    assert not same(moved["alone"], moved["lora"]) and not same(moved["alone"], moved["lion"])


def test_a_sequence_that_begins_at_the_base_takes_nothing_from_another(two):
    folder, task = two
    run = stage(model(task), TASKS[2], left_by(folder), task=task)
    assert run.state("mos").data["task"] == 0 and run.state("mos").data["classes"] == []
    run.train()
    end_stage(run.stage, "again")
    assert run.state("mos").data["classes"] == [4, 5] and len(run.state("mos").get("prototypes")) == 2


def test_what_it_cannot_do_is_refused(two):
    folder, task = two
    with pytest.raises(MethodError, match="does not serve the task text-generation"):
        check_conflicts([("mos", MOS())], stage="main", task=get_task("text-generation"))
    with pytest.raises(MethodError, match="'mos' and 'lae' both"):
        check_conflicts([("mos", MOS()), ("lae", LAE())], stage="main", task=get_task(task))
    with pytest.raises(MethodError, match="this model has none"):
        stage(Adapted(tiny.efficientnet(labels=6)), TASKS[0], task=PICTURES)
    run = follow(folder, "one", TASKS[1], task=task)
    run.cursor.sources["t"][0] = rows(TASKS[0], task)[0]
    with pytest.raises(MethodError, match="not the task's own"):
        run.train()
    with pytest.raises(MethodError, match="cannot be folded"):
        carry.begin(model(task), "stages.one", "fold", folder, "recipe.yaml")
    adapted = model(task)
    carry.begin(adapted, "stages.two", "frozen", folder, "recipe.yaml")
    with pytest.raises(MethodError, match="adapters of 2 tasks, and what 0 of them left"):
        stage(adapted, TASKS[2], Earlier(), task=task)


# -- a whole run -------------------------------------------------------------------------------------------------------

NAMES = ("card", "fee", "rate", "cash")


def write_tasks(folder: Path) -> None:
    """base/ with a head of other classes; first.jsonl, second.jsonl of two classes each, and test.jsonl of all."""
    classifying.write_inputs(folder, TEXT, head=5, train=1, test=1)
    rng = random.Random(0)
    for file, labels, count in (("first", NAMES[:2], 16), ("second", NAMES[2:], 16), ("test", NAMES, 12)):
        made = [labels[i % len(labels)] for i in range(count)]
        lines = [json.dumps({"text": " ".join([*rng.sample(small.WORDS, 3), n, n]), "label": n}) for n in made]
        (folder / f"{file}.jsonl").write_text("\n".join(lines))


def recipe_of(folder: Path, name: str = "r", **changes: Any) -> Path:
    each = {"each": ["first.jsonl", "second.jsonl"], "carry": "frozen", "methods": [{"mos": SMALL}]}
    plain = {"data__train": "first.jsonl", "data__labels": list(NAMES), "train__save_steps": 2}
    made = classifying.recipe(TEXT, **{**plain, "stages": [{**each, "budget": {"steps": 5}}], **changes})
    return small.write_recipe(folder, name, **made)


def test_a_run_over_a_short_list_of_tasks_is_measured_by_its_retrieval_and_resumes_in_the_second(tmp_path, monkeypatch):
    write_tasks(tmp_path)
    plan = tunewright.plan(recipe_of(tmp_path), quiet=True)
    assert [s.name for s in plan.stages] == ["first", "second"]
    run_recipe(Recipe.load(recipe_of(tmp_path), out=tmp_path / "whole"))
    opened = tunewright.open_run(tmp_path / "whole")
    wrapper = opened.model()
    assert isinstance(wrapper, Retrieval)
    words = [json.loads(line)["text"] for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    batch = opened.tokenizer(words, return_tensors="pt", padding=True)
    with torch.no_grad():
        said = wrapper(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.argmax(-1)
    assert [r["tuned"] for r in opened.rows] == [NAMES[i] for i in said]
    left = carry.earlier_of({n: tmp_path / "whole" / "stages" / n for n in ("first", "second")})
    assert left.named("stages.second.owners") == [0, 0, 1, 1] and len(left.named("stages.first.prototypes")) == 2

    go_on = TrainingCallback.__call__

    def stop(self: TrainingCallback, loop: Any, record: dict[str, Any]) -> None:
        self.stop_requested = self.stage == "second" and loop.step_number == 3
        go_on(self, loop, record)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(TrainingCallback, "__call__", stop)
        run_recipe(Recipe.load(recipe_of(tmp_path), out=tmp_path / "half"))
    assert not (tmp_path / "half" / "stages" / "second").exists()
    resume_run(tmp_path / "half")
    for stage_name in ("first", "second"):
        a, b = (checkpoint.read(tmp_path / out / "stages" / stage_name).tensors for out in ("whole", "half"))
        assert a.keys() == b.keys() and {"trained", "wrapper", "left"} <= a.keys()
        assert not [n for part in a for n in differing(a[part], b[part])]
