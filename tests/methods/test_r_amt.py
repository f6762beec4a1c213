"""R-AMT: masks by a straight-through gradient, gradients that are dropped as by hand, files and refusals."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy, normalize
from transformers import AutoModel

from tests.methods.driving import Run, assert_resumes
from tests.tasks.test_zero_shot_image_classification import TASK, model, place, recipe_in, rows_of
from tunewright.conformance.task_examples import tokenizer
from tunewright.contract.batch import Row
from tunewright.contract.method import torch_generator
from tunewright.errors import MethodError
from tunewright.finished.export import export
from tunewright.finished.finished import open_run
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.adapters.msgcoop import MSGCoOp
from tunewright.methods.parameter_selection.r_amt import RAMT, kept_with, regularised
from tunewright.models.adapted import Adapted
from tunewright.pieces.masking_adam import MaskingAdam
from tunewright.report.schema import Report
from tunewright.runs.run import run as run_recipe
from tunewright.training import carry

assert place  # a fixture
NAMES = ("red.", "a teal fox.", "green.")
RATE = 2e-3


def rows(count: int = 12, names=NAMES) -> list[Row]:
    return rows_of(*((i, names[i % len(names)]) for i in range(count)))


def make(listen=None, *, some=None, net: Any = None, steps: int = 4, beside=None, spec=None, **fields: Any) -> Run:
    adapted = Adapted(net or model(), tokenizer(end=True))
    train = {"learning_rate": RATE, "max_grad_norm": None, **(spec or {})}
    run = Run(
        {"r-amt": RAMT(**{"threshold": 0.009, **fields}), **(beside or {})},
        model=adapted,
        task=TASK.name,
        sources={"s": rows() if some is None else some},
        steps=steps,
        listen=listen,
        **train,
    )
    run.methods.event("begin_task", stage="x", adapted=adapted)
    return run


def masked(net: Any) -> list[str]:
    return [n for n, _ in net.named_parameters() if n.startswith("vision_model") and "self_attn" in n and "weight" in n]


def scores(run: Run) -> dict[str, Tensor]:
    held = dict(run.state("r-amt").named_buffers())
    return {n.removeprefix("scores/").replace("/", "."): t for n, t in held.items() if n.startswith("scores/")}


class Oracle:
    """Mask tuning with scores as torch parameters, a model called by hand, and torch's own AdamW."""

    def __init__(self, threshold: float, norm: float, drop: float, seed: int):
        self.net, self.threshold, self.norm, self.drop, self.seed = model(), threshold, norm, drop, seed
        self.weights = dict(self.net.named_parameters())
        self.scores = {n: torch.full_like(self.weights[n], 0.01).requires_grad_() for n in masked(self.net)}
        self.optimizer = torch.optim.AdamW(self.scores.values(), lr=RATE, weight_decay=0.0)
        texts = TASK.collate(rows(3)).inputs
        with torch.no_grad():
            said = self.net.get_text_features(texts["input_ids"], texts["attention_mask"]).pooler_output
        self.texts = normalize(said, dim=-1)

    def logits(self, pixels: Tensor, hard: bool = True) -> Tensor:
        values = {}
        for n, s in self.scores.items():
            mask = (s > self.threshold).float()
            values[n] = self.weights[n].detach() * ((mask - s).detach() + s if hard else 1.0)
        seen = functional_call(self.net, values, kwargs={"pixel_values": pixels, **self._nothing()})
        return self.net.logit_scale.exp().detach() * seen.image_embeds @ self.texts.T

    def _nothing(self) -> dict[str, Tensor]:
        return {"input_ids": torch.tensor([[7, 2]]), "attention_mask": torch.ones(1, 2, dtype=torch.long)}

    def step(self, at: int, some: list[Row]) -> float:
        """The cross-entropy to the answers before any mask, as it was before the step."""
        batch = TASK.collate(some)
        pixels, wanted = batch.inputs["pixel_values"], torch.tensor([NAMES.index(r.fields["reference"]) for r in some])
        zero_shot = self.logits(pixels, hard=False).detach().softmax(-1)
        away = -(zero_shot * self.logits(pixels).log_softmax(-1)).sum(1).mean()
        against = torch.autograd.grad(away, list(self.scores.values()))
        loss = cross_entropy(self.logits(pixels), wanted) + self.norm * sum(s.norm() for s in self.scores.values())
        own = torch.autograd.grad(loss, list(self.scores.values()))
        generator = torch_generator(random.Random(f"{self.seed}/{at}"))
        by_name = dict(zip(self.scores, zip(own, against, strict=True), strict=True))
        for name in sorted(self.scores):
            a, b = by_name[name]
            p = 0.5 * (torch.sign(a) * (a + b) / (a.abs() + b.abs() + 1e-8) + 1)
            kept = (p > torch.rand(a.shape, generator=generator)).float()
            self.scores[name].grad = ((1 - self.drop) + self.drop * kept) * a
        self.optimizer.step()
        return float(away)


@pytest.mark.parametrize("drop", [1.0, 0.3])
def test_steps_are_those_of_masks_as_parameters_with_their_gradients_dropped(drop: float):
    """The formulas are those of wuw2019/R-AMT, code/trainers/masktuning.py, `graddrop_backward_and_update`."""
    run = make(steps=3, norm=0.5, drop=drop)
    run.train()
    by_id, taken = {r.id: r for r in rows()}, run.cursor.seen
    oracle = Oracle(0.009, 0.5, drop, run.state("r-amt").data["seed"])
    for at in range(3):
        away = oracle.step(at, [by_id[i] for i in taken[4 * at : 4 * at + 4]])
        assert run.records[at]["zero_shot"] == pytest.approx(away, rel=5e-3), "another model is held to"
    got = scores(run)
    assert got.keys() == oracle.scores.keys() and len(got) == 8
    flipped = 0
    for name, wanted in oracle.scores.items():
        # an entry whose P is within rounding of its draw may go either way
        close = torch.isclose(got[name], wanted.detach(), atol=1e-6)
        assert float(close.float().mean()) > 0.995, name
        weight = run.adapted.base_parameters()[name]
        expected = torch.where(wanted > 0.009, oracle.weights[name], 0.0)
        assert float((weight == expected).float().mean()) > 0.995
        flipped += int((weight == 0).sum())
    assert flipped > 100


def test_what_is_kept_of_a_gradient():
    a = torch.tensor([1.0, -2.0, 1.0, 1.0, -3.0, 0.0])
    b = torch.tensor([3.0, -0.1, -1.0, -3.0, 1.0, 2.0])
    torch.testing.assert_close(kept_with(a, b), torch.tensor([1.0, 1.0, 0.5, 0.25, 0.75, 0.5]))
    generator = torch.Generator().manual_seed(0)
    many = regularised(a.expand(4000, -1), b.expand(4000, -1), 0.4, generator)
    assert sorted(many[:, 3].unique().tolist()) == pytest.approx([0.6, 1.0])
    shares = (many == a).float().mean(0)
    assert shares[:2].tolist() == [1.0, 1.0]
    assert shares[2:5].tolist() == pytest.approx([0.5, 0.25, 0.75], abs=0.03)
    assert torch.equal(regularised(a, b, 0.0, generator), a)


def test_it_starts_as_the_base_and_ends_with_weights_that_are_the_bases_or_nothing():
    base = dict(model().named_parameters())
    starts: list[dict[str, Tensor]] = []
    run = make()
    starts.append({n: p.detach().clone() for n, p in run.adapted.base_parameters().items()})
    assert all(torch.equal(starts[0][n], p) for n, p in base.items())
    run.train()
    names, gone = masked(run.adapted.model), 0
    for n, p in run.adapted.base_parameters().items():
        if n in names:
            assert bool(((p == base[n]) | (p == 0)).all())
            assert torch.equal(p == 0, scores(run)[n] <= 0.009)
            gone += int((p == 0).sum())
        else:
            assert torch.equal(p, base[n]), n
    assert 0 < gone < sum(base[n].numel() for n in names)
    found = RAMT(threshold=0.009).found(run.state("r-amt"))
    assert found is not None and found.values["masked"] == gone and 0 < float(found.values["share"]) < 1
    with run.adapted.base() as net:
        assert all(torch.equal(p, base[n]) for n, p in net.named_parameters())
    assert all("zero_shot" in r and r["zero_shot"] > 0 for r in run.records)


def test_a_weight_comes_back_when_its_score_does():
    p, s = torch.nn.Parameter(torch.tensor([3.0, 5.0])), torch.tensor([0.9, 1.1])
    other = torch.nn.Parameter(torch.ones(1))
    held, start = {"p": s}, torch.tensor([3.0, 5.0])
    optimizer = MaskingAdam({"p": p, "other": other}, held.get, lambda n: start, 1.0, 0.5, 0.0)
    for gradient, steps, wanted in (([-1.0, 1.0], 1, [3.0, 0.0]), ([9.0, -9.0], 3, [0.0, 5.0])):
        for _ in range(steps):
            p.grad = torch.tensor(gradient)
            optimizer.step()
        assert p.tolist() == wanted
    assert other.item() == 1.0
    other.grad = torch.ones(1)
    optimizer.step()
    assert other.item() == pytest.approx(0.5)


def test_every_field_changes_what_is_learnt_and_the_defaults_are_the_authors():
    def after(**fields: Any) -> dict[str, Tensor]:
        run = make(**fields)
        run.train()
        return {n: p.detach().clone() for n, p in run.adapted.base_parameters().items()}

    first = after()
    for other in ({"start": 0.02}, {"threshold": 0.0099}, {"norm": 10.0}, {"drop": 0.0}):
        assert any(not torch.equal(p, first[n]) for n, p in after(**other).items()), other
    base = dict(model().named_parameters())
    moved = {k: {n for n, p in after(layers=k).items() if not torch.equal(p, base[n])} for k in ("mlp", "all")}
    assert moved["mlp"] and all(".mlp." in n and n.startswith("vision_model") for n in moved["mlp"])
    assert moved["all"] == moved["mlp"] | set(masked(model()))
    decayed = make(spec={"weight_decay": 50.0})
    decayed.train()
    assert all(float(s.max()) < 0.01 * (1 - 50 * RATE) ** 3 + 4 * RATE for s in scores(decayed).values())
    plain = RAMT()
    assert (plain.layers, plain.start, plain.threshold, plain.norm, plain.drop) == ("attention", 0.01, 0.005, 1e-4, 1.0)


def test_it_resumes_and_comes_back_from_its_files(tmp_path: Path):
    assert_resumes(make, 2)
    run = make()
    run.train()
    carry.save_stage(tmp_path / "one", run.adapted, {})
    again = Adapted(model(), tokenizer(end=True))
    carry.load_stage(tmp_path / "one", again)
    for n, p in run.adapted.base_parameters().items():
        assert torch.equal(again.base_parameters()[n], p), n


def test_a_later_stage_masks_what_it_finds():
    net = model()
    with torch.no_grad():
        net.vision_model.encoder.layers[0].self_attn.q_proj.weight.mul_(2.0)
    run = make(net=net)
    doubled = {n: p.detach().clone() for n, p in net.named_parameters()}
    run.train()
    name = "vision_model.encoder.layers.0.self_attn.q_proj.weight"
    p = run.adapted.base_parameters()[name]
    assert bool(((p == doubled[name]) | (p == 0)).all()) and bool((p == 0).any())


@pytest.mark.parametrize(
    ("fields", "some", "says"),
    [
        ({"start": 0.005, "threshold": 0.005}, None, "every weight would be 0"),
        ({}, rows(4, ("red.",)), "all rows have one text"),
        ({"beside": {"lora": LoRA(rank=2)}}, None, "another method's change trains"),
        ({"beside": {"msgcoop": MSGCoOp(words="a red")}}, None, "another method reads pictures"),
    ],
)
def test_what_cannot_be_learnt_is_refused_before_a_step(fields, some, says):
    with pytest.raises(MethodError, match=says) as caught:
        make(some=some, **fields)
    assert caught.value.remedy and caught.value.where


def test_a_row_whose_text_is_not_among_those_of_the_stage_is_refused():
    run = make()
    run.cursor.sources["s"] = rows(4, ("blue.", "teal."))
    with pytest.raises(MethodError, match="none of those"):
        run.train()


def test_a_whole_run_learns_classes_and_is_exported_as_a_plain_model(place: Path):
    folder = place / "out"
    recipe = recipe_in(place)
    use = '{"r-amt": {"threshold": 0.0095, "layers": "all", "drop": 0.3}}'
    text = recipe.read_text().replace('{"lora": {"rank": 4}}', use).replace('"steps": 12', '"steps": 30')
    recipe.write_text(text.replace('"learning_rate": 0.01', '"learning_rate": 0.0002'))
    run_recipe(recipe, folder, quiet=True)
    report = Report.load(folder)
    assert report.target is not None and report.target.after.value > report.target.before.value + 0.2
    export(folder, place / "model")
    plain, finished = AutoModel.from_pretrained(place / "model").eval(), open_run(folder)
    tuned = finished.adapted.model
    assert all(torch.equal(p, dict(tuned.named_parameters())[n]) for n, p in plain.named_parameters())
    zeros = [n for n, p in plain.named_parameters() if n.startswith("vision_model") and p.dim() == 2 and (p == 0).any()]
    assert zeros and all("self_attn" in n or ".mlp." in n for n in zeros)
