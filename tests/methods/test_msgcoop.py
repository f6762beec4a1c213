"""MSGCoOp: contexts read as words are, logits that are averaged, three losses as by hand, files and refusals."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from tests.loop import Loop
from tests.methods.driving import Run, assert_resumes
from tests.tasks.test_zero_shot_image_classification import TASK, model, place, recipe_in, rows_of
from tests.tasks.test_zero_shot_image_classification import encoded as encoded
from tunewright.conformance.task_examples import tokenizer
from tunewright.contract.batch import Row
from tunewright.errors import MethodError, TunewrightError
from tunewright.finished.export import export
from tunewright.finished.finished import open_run
from tunewright.methods.adapters.msgcoop import MSGCoOp, alike, away
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.models.text_contexts import as_read, side_by_side, text_features
from tunewright.report.schema import Report
from tunewright.runs.run import run as run_recipe
from tunewright.training import carry

assert place  # a fixture
NAMES = ("red.", "a teal fox.", "green.")
WORDS = "a red"
N = len(tokenizer(end=True)(WORDS, add_special_tokens=False)["input_ids"])
FREE = [3, 4, 5, 6]
"""Tokens that no text has: their rows of the table stand for a context in the plain model."""


def rows(count: int = 12, names=NAMES) -> list[Row]:
    return rows_of(*((i, names[i % len(names)]) for i in range(count)))


def make(listen=None, *, some=None, net: Any = None, steps: int = 4, **fields: Any) -> Run:
    given = {"words": WORDS, "noise": 0.3, **fields}
    run = Run(
        {"msgcoop": MSGCoOp(**given)},
        model=Adapted(net or model(), tokenizer(end=True)),
        task=TASK.name,
        sources={"s": rows() if some is None else some},
        steps=steps,
        listen=listen,
    )
    run.methods.event("begin_task", stage="x", adapted=run.adapted)
    return run


def by_the_table(context: Tensor, texts: list[list[int]]) -> Tensor:
    """[N, D] of texts behind a context that stands in the table of a plain model as rows of its own."""
    net, n = deepcopy(model()), len(context)
    assert n <= len(FREE)
    with torch.no_grad():
        net.text_model.embeddings.token_embedding.weight[FREE[:n]] = context
        return torch.cat([net.get_text_features(torch.tensor([[*FREE[:n], *t]])).pooler_output for t in texts])


def pictures_of(some: list[Row]) -> Tensor:
    net = model()
    with torch.no_grad():
        return net.get_image_features(pixel_values=TASK.collate(some).inputs["pixel_values"]).pooler_output


def said(run: Run, some: list[Row]) -> Tensor:
    """[R, N] what pictures and texts of the rows have in common, the model's scale in it."""
    with run.adapted.evaluating(), torch.no_grad():
        out = TASK.forward(run.adapted.outer, TASK.collate(some)).embeddings
    assert out is not None
    return out[::2] @ out[1::2].T


def test_a_context_is_read_as_words_of_the_table_are_whatever_stands_beside_a_text():
    run = make()
    contexts = run.state("msgcoop").get_parameter("contexts").detach()
    assert contexts.shape == (4, N, 32) and N == 4
    texts = [list(r.input_ids) for r in rows(3)]
    assert len({len(t) for t in texts}) > 1, "rows are padded"
    wanted = torch.stack([by_the_table(c, texts) for c in contexts])
    batch = TASK.collate(rows(3))
    table = as_read(model().config, batch.inputs["input_ids"], batch.inputs["attention_mask"])
    with torch.no_grad():
        got = torch.stack([text_features(run.adapted.model, table, c) for c in contexts])
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        plain = text_features(run.adapted.model, table)
    own = [by_the_table(contexts[0, :0], [t]) for t in texts]
    torch.testing.assert_close(plain, torch.cat(own), atol=1e-5, rtol=1e-4)


def test_logits_are_the_mean_over_contexts_and_other_classes_are_read_behind_them_too():
    run = make()
    contexts = run.state("msgcoop").get_parameter("contexts").detach()
    for some in (rows(6), rows(5, ("blue fox.", "orange."))):
        texts = torch.stack([by_the_table(c, [list(r.input_ids) for r in some]) for c in contexts])
        seen = normalize(pictures_of(some), dim=-1)
        each = [model().logit_scale.exp() * seen @ normalize(t, dim=-1).T for t in texts]
        torch.testing.assert_close(said(run, some), torch.stack(each).mean(0), atol=1e-4, rtol=1e-4)
    names = {p for p, _ in run.adapted.outer.named_parameters()}
    assert all(p.startswith("model.") for p in names), "the scale is the model's, and no parameter twice"


def by_hand(contexts: Tensor, some: list[Row], targets: Tensor, texts: list[list[int]]) -> dict[str, Tensor]:
    """The losses [R], [], [] by loops over classes, contexts and pairs."""
    features = [by_the_table(c, texts) for c in contexts]
    seen, scale = normalize(pictures_of(some), dim=-1), model().logit_scale.exp()
    logits = sum(scale * seen @ normalize(f, dim=-1).T for f in features) / len(features)
    labels = torch.tensor([texts.index(list(r.input_ids)) for r in some])
    distances, likenesses = [], []
    for c in range(len(texts)):
        mean = torch.stack([f[c] for f in features]).mean(0)
        distances.append(1 - (mean @ targets[c]) / (mean.norm() * targets[c].norm()))
        for p in range(len(features)):
            for q in range(p):
                a, b = features[p][c], features[q][c]
                likenesses.append(((a @ b) / (a.norm() * b.norm())) ** 2)
    return {
        "own": cross_entropy(logits, labels, reduction="none"),
        "semantic": torch.stack(distances).mean(),
        "diversity": torch.stack(likenesses).mean(),
    }


@pytest.mark.parametrize("described", [False, True])
def test_the_loss_is_cross_entropy_among_all_texts_and_the_two_terms_as_by_hand(described):
    known = {"red": ("warm", "like blood"), "a teal fox": ("cold",), "green": ("no", "other", "thing")}
    run = make(semantic=3.0, diversity=0.5, descriptions=known if described else None)
    state, tok = run.state("msgcoop"), tokenizer(end=True)
    contexts, texts = state.get_parameter("contexts").detach(), [list(tok(n)["input_ids"]) for n in NAMES]
    targets = []
    for name in NAMES:
        plain = name.rstrip(".")
        sentences = [f"a photo of {plain}, {d}" for d in known[plain]] if described else [f"{WORDS} {name}"]
        vectors = by_the_table(contexts[0, :0], [list(tok(s)["input_ids"]) for s in sentences])
        targets.append(normalize(vectors, dim=-1).mean(0))
    torch.testing.assert_close(state.get_buffer("targets"), torch.stack(targets), atol=1e-5, rtol=1e-4)
    loop = Loop(run.stage)
    taken, _ = loop.take()
    wanted = by_hand(contexts, [r for r, _ in taken], torch.stack(targets), texts)
    record = loop.gradients(taken)
    assert record["semantic/msgcoop"] == pytest.approx(float(wanted["semantic"]), rel=1e-4)
    assert record["diversity/msgcoop"] == pytest.approx(float(wanted["diversity"]), rel=1e-4)
    whole = wanted["own"].mean() + 3.0 * wanted["semantic"] + 0.5 * wanted["diversity"]
    assert record["loss"] == pytest.approx(float(whole.detach()), rel=1e-4)
    assert len({r.fields["reference"] for r, _ in taken}) < 4, "the texts of all rows, not those of the step"


def test_only_contexts_train_and_a_step_is_the_same_however_it_is_split():
    found = []
    for micro in (None, 5):
        run = make(steps=1)
        run.stage.spec.micro_tokens = micro
        loop = Loop(run.stage)
        taken, _ = loop.take()
        assert (len(loop.micro_batches(taken)) > 1) == (micro is not None)
        found.append((loop.gradients(taken)["loss"], loop.trained.gradients()))
    (loss, wanted), (other, got) = found
    assert list(wanted) == ["msgcoop.contexts"] and other == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(got["msgcoop.contexts"], wanted["msgcoop.contexts"], rtol=1e-3, atol=1e-5)


def test_contexts_that_begin_alike_stay_alike_and_noise_lets_diversity_part_them():
    def after(noise: float, **fields: Any) -> Tensor:
        run = make(noise=noise, steps=12, **fields)
        run.train()
        return run.state("msgcoop").get_parameter("contexts").detach()

    copies = after(1e-30)
    assert (copies - copies[0]).abs().max() < 1e-4 < (copies - after(0.3)).abs().max()

    def last(**fields: Any) -> dict[str, float]:
        run = make(steps=12, **fields)
        run.train()
        return run.records[-1]

    assert last(diversity=20.0)["diversity/msgcoop"] < last(diversity=0.0)["diversity/msgcoop"] / 3
    assert last(semantic=30.0)["semantic/msgcoop"] < last(semantic=0.0)["semantic/msgcoop"]


def test_terms_on_bare_tensors():
    g = torch.Generator().manual_seed(0)
    one = torch.randn(1, 3, 4, generator=g)
    assert float(alike(one)) == 0.0 and float(alike(one.expand(3, -1, -1))) == pytest.approx(1.0)
    assert float(away(torch.cat([one, 2 * one]), 5 * one[0])) == pytest.approx(0.0, abs=1e-6)
    a, b = torch.tensor([[1.0, 0]]), torch.tensor([[1.0, 1]])
    assert float(alike(torch.stack([a, b]))) == pytest.approx(0.5)
    unequal = torch.stack([a, 9 * torch.tensor([[0.0, 1]])])  # means are taken before lengths are
    assert float(away(unequal, a)) == pytest.approx(1 - 1 / 82**0.5)
    assert torch.allclose(side_by_side(unequal).norm(dim=1), torch.ones(1))


def test_every_field_changes_what_is_learnt_and_the_defaults_are_the_papers():
    def after(**fields: Any) -> Tensor:
        run = make(**fields)
        run.train()
        return run.state("msgcoop").get_parameter("contexts").detach()

    first = after()
    known = {n.rstrip("."): ("warm",) for n in NAMES}
    for other in ({"noise": 0.5}, {"semantic": 0.0}, {"diversity": 0.0}, {"words": "a teal"}, {"descriptions": known}):
        got = after(**other)
        assert got.shape != first.shape or not torch.allclose(got, first, atol=1e-4), other
    assert after(contexts=2).shape == (2, N, 32)
    plain = MSGCoOp()
    assert (plain.contexts, plain.words, plain.semantic, plain.diversity) == (4, "a photo of a", 8.0, 1.0)
    start = make(noise=1e-30).state("msgcoop").get_parameter("contexts")[0]
    table = model().text_model.embeddings.token_embedding.weight
    ids = tokenizer(end=True)(WORDS, add_special_tokens=False)["input_ids"]
    torch.testing.assert_close(start, table[ids], atol=1e-6, rtol=0)


def test_behind_a_beginning_token_and_for_siglip_which_reads_its_padding():
    from transformers import SiglipConfig, SiglipModel

    from tunewright.conformance.bench import seeded

    net, context = deepcopy(model()), torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([[1, 20, 21, 2]])
    with torch.no_grad():
        got = text_features(net, (ids, torch.ones_like(ids)), context, after=1)
        net.text_model.embeddings.token_embedding.weight[[3, 4]] = context
        torch.testing.assert_close(got, net.get_text_features(torch.tensor([[1, 3, 4, 20, 21, 2]])).pooler_output)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = {**sizes, "vocab_size": 61, "max_position_embeddings": 16, "pad_token_id": 0, "projection_size": 32}
    config = SiglipConfig(text_config=text, vision_config={**sizes, "image_size": 8, "patch_size": 4})
    siglip = seeded(lambda: SiglipModel(config), 0).eval()
    run = make(net=siglip)
    run.train()
    assert run.records[-1]["loss"] < run.records[0]["loss"]
    batch = TASK.collate(rows(3))
    table = as_read(config, batch.inputs["input_ids"], batch.inputs["attention_mask"])
    with torch.no_grad():
        got = text_features(siglip, table, context)
        siglip.text_model.embeddings.token_embedding.weight[[3, 4]] = context
        longer = torch.cat([torch.tensor([[3, 4]]).expand(3, -1), table[0][:, :14]], 1)
        torch.testing.assert_close(got, siglip.get_text_features(longer).pooler_output)


def test_texts_that_leave_a_context_no_place_are_cut_before_their_end():
    net, context = deepcopy(model()), torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    g = torch.Generator().manual_seed(2)
    long, short = [*torch.randint(7, 60, (63,), generator=g).tolist(), 2], [7, 8, 2]
    ids = torch.tensor([long, short + [0] * 61])
    mask = (torch.arange(64)[None] < torch.tensor([[64], [3]])).long()
    with torch.no_grad():
        got = text_features(net, (ids, mask), context)
        net.text_model.embeddings.token_embedding.weight[[3, 4]] = context
        for i, text in enumerate(([*long[:61], 2], short)):
            wanted = net.get_text_features(torch.tensor([[3, 4, *text]])).pooler_output
            torch.testing.assert_close(got[i : i + 1], wanted, atol=1e-5, rtol=1e-4)


def test_it_resumes_leaves_the_base_and_comes_back_from_its_files(tmp_path: Path):
    assert_resumes(make, 2)
    run = make()
    run.train()
    base = model()
    with run.adapted.base() as net, torch.no_grad():
        got = TASK.forward(net, TASK.collate(rows(4))).embeddings
        wanted = TASK.forward(base, TASK.collate(rows(4))).embeddings
    assert got is not None and wanted is not None and agrees(got, wanted)
    assert not run.adapted.originals
    carry.save_stage(tmp_path / "one", run.adapted, {})
    again = Adapted(model(), tokenizer(end=True))
    carry.load_stage(tmp_path / "one", again)
    with torch.no_grad():
        fresh = TASK.forward(again.outer.eval(), TASK.collate(rows(4))).embeddings
    assert fresh is not None and torch.allclose(fresh[::2] @ fresh[1::2].T, said(run, rows(4)), atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "some", "says"),
    [
        ({"words": ""}, None, "no token"),
        ({"words": "red " * 40}, None, "leave no place"),
        ({}, rows(4, ("red.",)), "all rows have one text"),
        ({}, rows(4, ("a red fox.", "a red dog.")), "begins with 'a red'"),
        ({"descriptions": {"red": ("warm",), "gren": ("cold",)}}, rows(4, ("red.", "green.")), "no description"),
        ({"descriptions": {"red": ("warm",), "green": ()}}, rows(4, ("red.", "green.")), "'green' has no description"),
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


def test_a_whole_run_learns_classes_reports_and_is_not_exported(place: Path):
    folder = place / "out"
    recipe = recipe_in(place, template="{label}.")
    text = recipe.read_text().replace('{"lora": {"rank": 4}}', '{"msgcoop": {"words": "a very", "semantic": 0.5}}')
    recipe.write_text(text)
    run_recipe(recipe, folder, quiet=True)
    report = Report.load(folder)
    assert report.target is not None and report.target.after.value > report.target.before.value + 0.2
    finished = open_run(folder)
    assert finished.adapted.wrapper is not None
    with pytest.raises(TunewrightError):
        export(folder, place / "model")
