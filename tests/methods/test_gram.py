"""GRAM: parts of a step, gradients through an inner step as by differences, what a later stage does with them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from tests.methods.driving import Run, assert_resumes
from tests.methods.test_msgcoop import FREE, WORDS, N, by_the_table, pictures_of
from tests.tasks.test_zero_shot_image_classification import TASK, model, place, recipe_in, rows_of
from tunewright.conformance.task_examples import tokenizer
from tunewright.contract.batch import Row
from tunewright.contract.left import Earlier, left_of
from tunewright.errors import MethodError, TunewrightError
from tunewright.finished.export import export
from tunewright.finished.finished import open_run
from tunewright.methods.adapters.gram import GRAM, among, cut
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.pieces.mixtures import clusters
from tunewright.report.schema import Report
from tunewright.runs.run import run as run_recipe
from tunewright.training import carry

assert place  # a fixture
SAID = ("red fox.", "red dog.", "teal frog.", "teal whale.", "green ox.", "amber cat.")
SGD = {"optimizer": SimpleNamespace(name="sgd"), "learning_rate": 0.5, "max_grad_norm": None}
START = "prompt"


def rows(count: int = 12, names=SAID) -> list[Row]:
    return rows_of(*((i, names[i % len(names)]) for i in range(count)))


def make(listen=None, *, some=None, steps: int = 3, earlier=None, batch: int = 12, spec=None, **fields: Any) -> Run:
    run = Run(
        {"gram": GRAM(**{"words": WORDS, "heaps": 3, **fields})},
        model=Adapted(model(), tokenizer(end=True)),
        task=TASK.name,
        sources={"s": rows() if some is None else some},
        steps=steps,
        listen=listen,
        earlier=earlier,
        batch=batch,
        **(spec or {}),
    )
    run.methods.event("begin_task", stage="x", adapted=run.adapted)
    return run


def meta(listen=None, **fields: Any) -> Run:
    return make(listen, **{"meta": True, "inner_rate": 0.5, **fields})


def tensors(run: Run) -> dict[str, Tensor]:
    state = run.state("gram")
    return {n.replace("/", "."): t.detach().clone() for n, t in [*state.named_parameters(), *state.named_buffers()]}


def left(run: Run) -> Earlier:
    run.methods.event("end_task", stage="meta", adapted=run.adapted)
    state = run.state("gram")
    return Earlier((left_of("meta", "gram", GRAM.leaves, state, state.data),))


def test_a_step_is_cut_between_heaps_and_as_evenly_as_they_allow():
    heaps, texts = [0, 0, 1, 1, 2, 2, 2], [1, 2, 3, 4, 5, 6, 6]
    seen = set()
    for seed in range(20):
        first, second = cut(heaps, texts, random.Random(seed))
        assert sorted(first + second) == list(range(7))
        assert not {heaps[i] for i in first} & {heaps[i] for i in second}
        assert {len(first), len(second)} == {3, 4} or {len(first), len(second)} == {2, 5}
        seen.add(tuple(first))
    assert len(seen) > 2
    assert cut([0, 0, 1, 1], [1, 1, 2, 3], random.Random(0)) == ([], []), "a part of one text tells nothing"
    assert cut([0, 0, 0], [1, 2, 3], random.Random(0)) == ([], [])


def test_heaps_are_of_the_nearest_means():
    g = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(20, 3, generator=g) * 0.2 + at for at in (-3.0, 0.0, 3.0)])
    own = clusters(x, 3, random.Random(0))
    assert [len(own[i : i + 20].unique()) for i in (0, 20, 40)] == [1, 1, 1] and len(own.unique()) == 3
    assert len(clusters(x, 1, random.Random(0)).unique()) == 1 and len(clusters(x[:2], 9, random.Random(0))) == 2
    means = torch.stack([x[own == k].double().mean(0) for k in range(3)])
    assert torch.equal(torch.cdist(x.double(), means).argmin(1), own)


def loss_of(net: Any, some: list[Row], prompt: Tensor, pictures: Tensor) -> Tensor:
    """Cross-entropy among the part's texts, which are read behind a prompt that stands in the table."""
    names = list(dict.fromkeys(r.fields["reference"] for r in some))
    ids = [next(list(r.input_ids) for r in some if r.fields["reference"] == n) for n in names]
    table = net.text_model.embeddings.token_embedding.weight

    def one(text: list[int]) -> Tensor:
        with torch.no_grad():
            table[FREE] = prompt
        return net.get_text_features(torch.tensor([[*FREE, *text]])).pooler_output

    said = normalize(torch.cat([one(t) for t in ids]), dim=-1)
    wanted = torch.tensor([names.index(r.fields["reference"]) for r in some])
    return cross_entropy(net.logit_scale.exp() * normalize(pictures, dim=-1) @ said.T, wanted)


def by_differences(run: Run, first: list[Row], second: list[Row], rate: float, inner: int) -> Any:
    """(f(P, G), P, G): the second part's loss behind P after inner steps, in float64, each gradient by the table."""
    net, state = model().double(), run.state("gram")
    net.requires_grad_(False)
    table = net.text_model.embeddings.token_embedding.weight.requires_grad_()
    pictures = [pictures_of(part).double() for part in (first, second)]

    def f(prompt: Tensor, gain: Tensor) -> float:
        for _ in range(inner):
            (gradient,) = torch.autograd.grad(loss_of(net, first, prompt, pictures[0]), table)
            prompt = prompt - rate * gain * gradient[FREE]
        with torch.no_grad():
            return float(loss_of(net, second, prompt, pictures[1]))

    return f, state.get_parameter("prompt").detach().double(), state.get_parameter("gain").detach().double()


@pytest.mark.parametrize("inner", [1, 2])
def test_a_meta_steps_gradients_are_those_of_differences_through_the_inner_step(inner: int):
    run = meta(steps=1, inner_steps=inner, spec=SGD)
    state = run.state("gram")
    with torch.no_grad():
        state.get_parameter("gain").mul_(1.5)
    before = tensors(run)
    by_id = {r.id: r for r in rows()}
    heaps = state.data["heaps"]
    f = None
    run.train()
    taken = [by_id[i] for i in run.cursor.seen]
    keys = [r.fields["keys"][1] for r in taken]
    parts = cut([heaps[str(k)] for k in keys], keys, random.Random(f"{state.data['seed']}/0"))
    first, second = ([taken[i] for i in part] for part in parts)
    after = tensors(run)
    moved = {n: (before[n] - after[n]) / 0.5 for n in (START, "gain")}
    with torch.no_grad():  # back to the start, to take differences there
        state.get_parameter(START).copy_(before[START])
        state.get_parameter("gain").copy_(before["gain"])
    f, prompt, gain = by_differences(run, first, second, 0.5, inner)
    assert run.records[0]["loss"] == pytest.approx(f(prompt, gain), rel=1e-4)
    generator = torch.Generator().manual_seed(0)
    for name, at in ((START, 0), ("gain", 1)):
        assert float(moved[name].abs().max()) > 1e-5
        for _ in range(2):
            way = torch.randn(prompt.shape, generator=generator, dtype=torch.float64)
            way = way / way.norm()
            point, step = [prompt, gain], 1e-4
            high, low = ([p + s * step * way if i == at else p for i, p in enumerate(point)] for s in (1, -1))
            wanted = (f(*high) - f(*low)) / (2 * step)
            assert float((moved[name].double() * way).sum()) == pytest.approx(wanted, rel=2e-2, abs=2e-5), name


def test_without_an_inner_rate_worth_the_name_it_is_the_second_parts_own_gradient():
    run = meta(steps=1, inner_rate=1e-12, spec=SGD)
    before = tensors(run)
    run.train()
    after = tensors(run)
    assert torch.allclose(before["gain"], after["gain"], atol=1e-9) and not torch.equal(before[START], after[START])


def coop_gradient(prompt: Tensor, some: list[Row]) -> Tensor:
    """Of the cross-entropy of pictures among all texts of the stage's rows, in their first order."""
    net = model()
    net.requires_grad_(False)
    table = net.text_model.embeddings.token_embedding.weight.requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(net, some, prompt, pictures_of(some)), table)
    return gradient[FREE]


def test_a_later_stage_starts_where_it_was_left_and_steps_by_the_gain():
    first = meta()
    first.train()
    given = left(first)
    assert torch.equal(given[0].values["start"], first.state("gram").get_parameter(START))
    run = make(steps=1, earlier=given, spec=SGD)
    before = tensors(run)
    torch.testing.assert_close(before[START], given[0].values["start"])
    torch.testing.assert_close(before["gain"], given[0].values["gain"])
    assert float((before["gain"] - 1).abs().max()) > 1e-3
    by_id = {r.id: r for r in rows()}
    loop = run.train()
    assert list(loop.trained.leaves) == ["gram.prompt"], "the gain stays"
    taken = [by_id[i] for i in run.cursor.seen]
    assert len(taken) == 12 and {r.fields["reference"] for r in taken} == set(SAID)
    wanted = before[START] - 0.5 * before["gain"] * coop_gradient(before[START], taken)
    torch.testing.assert_close(tensors(run)[START], wanted, atol=2e-5, rtol=1e-3)
    passed = left(run)[0].values
    assert torch.equal(passed["start"], given[0].values["start"]), "the next task starts there too"
    alone = make(steps=1, spec=SGD)
    own = tensors(alone)
    assert torch.equal(own["gain"], torch.ones_like(own["gain"]))
    alone.train()
    taken = [by_id[i] for i in alone.cursor.seen]
    torch.testing.assert_close(
        tensors(alone)[START], own[START] - 0.5 * coop_gradient(own[START], taken), atol=2e-5, rtol=1e-3
    )


def test_rows_are_answered_behind_the_prompt_and_a_part_among_its_own_texts():
    run, some = make(), rows(4, ("blue ox.", "orange."))
    prompt = run.state("gram").get_parameter(START).detach()
    assert prompt.shape == (N, 32)
    texts = normalize(by_the_table(prompt, [list(r.input_ids) for r in some]), dim=-1)
    seen = normalize(pictures_of(some), dim=-1)
    with run.adapted.evaluating(), torch.no_grad():
        out = TASK.forward(run.adapted.outer, TASK.collate(some)).embeddings
    assert out is not None
    torch.testing.assert_close(out[::2] @ out[1::2].T, model().logit_scale.exp() * seen @ texts.T, atol=1e-4, rtol=1e-4)
    pictures = model().logit_scale.exp() * seen
    got = among(run.adapted.model, pictures, some, prompt, 0)
    wanted = cross_entropy(pictures @ texts[:2].T, torch.tensor([0, 1, 0, 1]))
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def test_a_step_that_cannot_be_cut_moves_nothing_and_says_so():
    run = meta(steps=1, batch=1)
    before = tensors(run)
    run.train()
    assert run.records[0]["skipped"] == 1.0
    assert all(torch.equal(t, before[n]) for n, t in tensors(run).items())


def test_every_field_changes_what_is_learnt():
    def after(**fields: Any) -> Tensor:
        run = meta(steps=2, **fields)
        run.train()
        return tensors(run)[START]

    first = after()
    for other in ({"inner_rate": 5.0}, {"inner_steps": 2}, {"heaps": 2}, {"words": "a teal"}):
        got = after(**other)
        assert got.shape != first.shape or not torch.allclose(got, first, atol=1e-6), other
    plain = make(steps=2)
    plain.train()
    assert not torch.allclose(tensors(plain)[START], first, atol=1e-4), "meta"


def test_both_stages_resume_and_come_back_from_their_files(tmp_path: Path):
    assert_resumes(meta, 2)
    first = meta()
    first.train()
    given = left(first)
    assert_resumes(lambda listen: make(listen, earlier=given), 2)
    run = make(earlier=given)
    run.train()
    base = model()
    with run.adapted.base() as net, torch.no_grad():
        got = TASK.forward(net, TASK.collate(rows(4))).embeddings
        wanted = TASK.forward(base, TASK.collate(rows(4))).embeddings
    assert got is not None and wanted is not None and agrees(got, wanted) and not run.adapted.originals
    carry.save_stage(tmp_path / "one", run.adapted, {})
    again = Adapted(model(), tokenizer(end=True))
    carry.load_stage(tmp_path / "one", again)
    with torch.no_grad():
        fresh = TASK.forward(again.outer.eval(), TASK.collate(rows(4))).embeddings
        own = TASK.forward(run.adapted.outer.eval(), TASK.collate(rows(4))).embeddings
    assert fresh is not None and own is not None and torch.allclose(fresh, own, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "some", "says"),
    [
        ({"words": ""}, None, "no token"),
        ({"words": "red " * 40}, None, "leave no place"),
        ({}, rows(4, ("red.",)), "all rows have one text"),
        ({}, rows(4, ("a red fox.", "a red dog.")), "begins with 'a red'"),
        ({"meta": True, "heaps": 1}, None, "all texts are one heap"),
    ],
)
def test_what_cannot_be_learnt_is_refused_before_a_step(fields, some, says):
    with pytest.raises(MethodError, match=says) as caught:
        make(some=some, **fields)
    assert caught.value.remedy and caught.value.where


def test_a_whole_run_of_both_stages_learns_classes_and_is_not_exported(place: Path):
    captions = [
        {"image": str(place / "train" / n / f"{i}.png"), "text": f"{w} {n}"}
        for n in ("red fox", "green frog", "blue whale")
        for i, w in enumerate(("a", "one", "some", "my"))
    ]
    (place / "captions.jsonl").write_text("".join(json.dumps(c) + "\n" for c in captions))
    tree = json.loads(recipe_in(place, template="{label}.").read_text())
    gram = {"words": "very", "heaps": 4, "inner_rate": 0.1}
    tree["stages"] = [
        {"name": "meta", "methods": [{"gram": {**gram, "meta": True}}], "data": {"train": "captions.jsonl"}},
        {"name": "few", "start": "base", "methods": [{"gram": gram}]},
    ]
    tree["data"].pop("template")
    tree["stages"][1]["data"] = {"train": "train"}
    del tree["methods"]
    for stage in tree["stages"]:
        stage["budget"] = {"steps": 12}
    del tree["budget"]
    (place / "recipe.yaml").write_text(json.dumps(tree))
    run_recipe(place / "recipe.yaml", place / "out", quiet=True)
    report = Report.load(place / "out")
    assert report.target is not None and report.target.after.value > report.target.before.value + 0.2
    finished = open_run(place / "out")
    assert finished.adapted.wrapper is not None
    with pytest.raises(TunewrightError):
        export(place / "out", place / "model")
