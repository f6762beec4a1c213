"""HPrompt-CPT: prompts and both losses as by hand, what is held and pushed apart, domains one after the other."""

from __future__ import annotations

import json
import random
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests import tiny
from tests.methods.driving import Run, assert_resumes
from tunewright.contract.batch import Row
from tunewright.contract.left import Earlier, left_of
from tunewright.contract.method import torch_generator
from tunewright.errors import MethodError, TunewrightError
from tunewright.finished.export import export
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.continual.hprompt_cpt import HPromptCPT
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.pieces.network_prompts import NOTE, agreement, behind, disagreement
from tunewright.report.schema import Report
from tunewright.runs.run import run as run_recipe
from tunewright.tasks import get_task
from tunewright.training import carry
from tunewright.training.train import Loop

TASK, NAME, N = get_task("fill-mask"), "hprompt-cpt", 3


def rows(source: str = "a", count: int = 12) -> list[Row]:
    """Texts of unlike lengths; a domain has words of its own."""
    rng, low = random.Random(source), 20 + 60 * (source != "a")
    made = []
    for i in range(count):
        ids = [tiny.CLS, *(rng.randrange(low, low + 60) for _ in range(rng.randint(4, 9))), tiny.SEP]
        weights = [0.0, *[1.0] * (len(ids) - 2), 0.0]
        made.append(Row(f"{source}:{i}", source, ids, weights, fields={"mask_id": tiny.MASK, "vocabulary": 320}))
    return made


def make(listen=None, *, source: str = "a", model: Any = None, earlier=None, beside=(), steps: int = 4, **fields: Any):
    given = {"length": N, "hidden": 8, **fields}
    return Run(
        {NAME: HPromptCPT(**given), **dict(beside)},
        model=model or tiny.bert(),
        task="fill-mask",
        sources={source: rows(source)},
        steps=steps,
        listen=listen,
        earlier=earlier,
        eps=1e-3,
    )


def left(run: Run, stage: str = "one") -> Earlier:
    state = run.state(NAME)
    one = left_of(stage, NAME, HPromptCPT.leaves, state, state.data)
    assert one is not None
    return Earlier((one,))


def second(tmp_path: Path, **fields: Any) -> Run:
    """The second domain, from the first one's files."""
    first = make()
    first.train()
    carry.save_stage(tmp_path / "stages" / "one", first.adapted, {})
    adapted = Adapted(tiny.bert())
    carry.begin(adapted, "stages.one", "frozen", tmp_path, "recipe.yaml")
    return make(model=adapted, source="b", earlier=left(first), **fields)


def made(network: Any, model: Any, ids: Tensor) -> Tensor:
    """[n, D]: the prompt of one row, by its formula."""
    e = model.get_input_embeddings()(ids).mean(0)
    e = e / e.square().mean().sqrt()
    inner = (network.first.weight @ e + network.first.bias).clamp(min=0)
    return (network.last.weight @ inner + network.last.bias).view(-1, len(e))


def read(model: Any, prompt: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """(states [L, D] behind the last block, logits [L, V]) of one row whose prompt stands before its tokens."""
    states = torch.cat([prompt, model.bert.embeddings(ids[None])[0]])[None]
    for block in model.bert.encoder.layer:
        out = block(states)
        states = out if isinstance(out, Tensor) else out[0]
    return states[0, len(prompt) :], model.cls(states)[0, len(prompt) :]


def each_row(batch: Any) -> list[Tensor]:
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"].bool()
    return [row[m] for row, m in zip(ids, mask, strict=True)]


def test_each_row_is_read_behind_the_prompt_that_the_network_makes_of_it():
    run, plain = make(), tiny.bert()
    network: Any = run.state(NAME).network
    network.last.weight.data.normal_(generator=torch.Generator().manual_seed(0)).mul_(0.1)
    batch = TASK.collate(rows()[:5])
    with run.adapted.evaluating(), torch.no_grad():
        got = TASK.forward(run.adapted.outer, batch)
        (states,) = got.present.notes[NOTE]
        logits = []
        prompts = [made(network, plain, ids) for ids in each_row(batch)]
        for i, (ids, prompt) in enumerate(zip(each_row(batch), prompts, strict=True)):
            h, z = read(plain, prompt, ids)
            torch.testing.assert_close(states[i, : len(ids)], h, atol=1e-5, rtol=1e-4)
            logits.append(z)
        flat = torch.cat([F.pad(z, (0, 0, 0, batch.inputs["input_ids"].shape[1] - len(z))) for z in logits])
        torch.testing.assert_close(got.logits, flat[batch.positions], atol=1e-5, rtol=1e-4)
        assert (prompts[0] - prompts[1]).abs().max() > 1e-3, "rows have prompts of their own"
        with behind(prompts[0]):
            drawn = TASK.forward(run.adapted.outer, batch)
        h, _ = read(plain, prompts[0], each_row(batch)[1])
        torch.testing.assert_close(drawn.present.notes[NOTE][0][1, : len(h)], h, atol=1e-5, rtol=1e-4)


def test_the_start_is_a_prompt_of_the_vocabulary_for_every_row():
    run = make()
    network, table = run.state(NAME).network, tiny.bert().get_input_embeddings().weight
    start = network.last.bias.view(N, -1)
    assert all(any(torch.equal(v, w) for w in table) for v in start) and not network.last.weight.any()


def test_the_losses_are_those_by_hand_in_the_first_domain_and_in_the_next(tmp_path: Path):
    for run in (make(agreement=3.0, disagreement=2.0), second(tmp_path, agreement=3.0, disagreement=2.0)):
        later = run.state(NAME).data["domains"] > 1
        loop = Loop(run.stage)
        then, network = deepcopy(run.adapted.model).eval(), deepcopy(run.state(NAME).network)
        g = torch.Generator().manual_seed(1)
        for p in [*run.adapted.base_parameters().values(), *run.state(NAME).network.parameters()]:
            p.data += 0.05 * torch.randn(p.shape, generator=g)
        taken, _ = loop.take()
        batch = TASK.collate([r for r, _ in taken], epochs=[e for _, e in taken])
        now, fresh = deepcopy(run.adapted.model).eval(), run.state(NAME).network
        rng = random.Random(f"{run.state(NAME).data['seed']}/0")
        deviation = float((then if later else tiny.bert()).get_input_embeddings().weight.detach().std())
        prompt = torch.randn(N, 32, generator=torch_generator(rng)) * deviation
        same, apart, own = [], [], torch.zeros(0)
        with torch.no_grad():
            flat = []
            for ids in each_row(batch):
                a, b = read(now, prompt, ids)[0], read(then, prompt, ids)[0]
                same.append(((a - b) ** 2).mean())
                (h, z), (k, _) = read(now, made(fresh, now, ids), ids), read(then, made(network, then, ids), ids)
                m, q = h.mean(0), k.mean(0)
                apart.append((m @ q / (m.norm() * q.norm())) ** 2)
                flat.append(F.pad(z, (0, 0, 0, batch.inputs["input_ids"].shape[1] - len(z))))
            own = F.cross_entropy(torch.cat(flat)[batch.positions], batch.labels, reduction="none")
            each = own + 3.0 * torch.stack(same)[batch.rows]
            if later:
                each = each + 2.0 * torch.stack(apart)[batch.rows]
        record = loop.gradients(taken)
        assert record["loss"] == pytest.approx(float(each.mean()), rel=1e-3)
        assert record["agreement/hprompt-cpt"] == pytest.approx(float(torch.stack(same)[batch.rows].mean()), rel=1e-2)
        assert ("disagreement/hprompt-cpt" in record) == later and float(torch.stack(same).min()) > 1e-4


def test_terms_on_bare_tensors():
    g = torch.Generator().manual_seed(0)
    a, mask = torch.randn(2, 3, 4, generator=g), torch.tensor([[1.0, 1, 1], [1, 0, 0]])
    b = a.clone()
    b[1, 1:] = 9.0
    assert torch.equal(agreement(a, b, mask), torch.zeros(2)), "padding is not read"
    torch.testing.assert_close(agreement(a, a + 2, mask), torch.full((2,), 4.0))
    torch.testing.assert_close(disagreement(a, -3 * a, mask), torch.ones(2))
    one, other = torch.tensor([[[1.0, 0]]]), torch.tensor([[[0.0, 5]]])
    assert float(disagreement(one, other, torch.ones(1, 1))) == 0.0


def test_weights_hold_the_model_and_part_the_domains(tmp_path: Path):
    def last(**fields: Any) -> dict[str, float]:
        run = second(tmp_path / str(len(list(tmp_path.iterdir()))), steps=12, **fields)
        run.train()
        return run.records[-1]

    (tmp_path / "x").mkdir()
    assert last(agreement=50.0)["agreement/hprompt-cpt"] < last(agreement=1e-6)["agreement/hprompt-cpt"] / 2
    assert last(disagreement=50.0)["disagreement/hprompt-cpt"] < last(disagreement=1e-6)["disagreement/hprompt-cpt"]


def test_model_and_network_train_or_deltas_beside_it_and_the_network_is_left_to_the_next_domain(tmp_path: Path):
    run = make()
    before = {n: p.detach().clone() for n, p in run.state(NAME).named_parameters()}
    loop = run.train()
    assert any(n.startswith("bert.") for n in loop.trained.leaves)
    assert all(not torch.equal(p, before[n]) for n, p in run.state(NAME).named_parameters() if "last" in n)
    beside = make(beside={"lora": LoRA(rank=2)}.items()).train()
    assert all(n.startswith(NAME) or ".delta.lora." in n for n in beside.trained.leaves)
    later = second(tmp_path)
    assert later.state(NAME).data["domains"] == 2
    kept = dict(run.state(NAME).named_parameters())
    assert all(torch.equal(p, kept[n]) for n, p in later.state(NAME).named_parameters())
    with pytest.raises(MethodError, match="another shape"):
        make(length=5, earlier=left(run))


def test_every_field_changes_what_is_learnt(tmp_path: Path):
    def after(**fields: Any) -> dict[str, Tensor]:
        run = second(tmp_path / str(len(list(tmp_path.iterdir()))), **fields)
        run.train()
        return {n: p.detach().clone() for n, p in run.adapted.base_parameters().items()}

    (tmp_path / "x").mkdir()
    first = after()
    for other in ({"agreement": 30.0}, {"disagreement": 30.0}, {"network_rate": 0.5}, {"agreement": 0.0}):
        assert any(not torch.allclose(t, first[n], atol=1e-6) for n, t in after(**other).items()), other
    assert make(length=5).state(NAME).network.last.bias.shape == (5 * 32,)
    assert make(hidden=6).state(NAME).network.first.bias.shape == (6,)
    plain = HPromptCPT()
    assert (plain.length, plain.agreement, plain.disagreement, plain.network_rate) == (10, 1.0, 1.0, 1e-3)


def test_a_step_is_the_same_however_it_is_split_and_a_stage_goes_on_to_the_same_bits(tmp_path: Path):
    found = []
    for micro in (None, 12):
        run = second(tmp_path / str(micro))
        run.stage.spec.micro_tokens = micro
        loop = Loop(run.stage)
        taken, _ = loop.take()
        assert (len(loop.micro_batches(taken)) > 1) == (micro is not None)
        found.append((loop.gradients(taken)["loss"], {n: g.clone() for n, g in loop.trained.gradients().items()}))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for n, g in found[0][1].items():
        torch.testing.assert_close(found[1][1][n], g, rtol=1e-3, atol=1e-5, msg=n)
    assert_resumes(make, 2)


def test_it_comes_back_from_its_files_and_the_base_too(tmp_path: Path):
    run = second(tmp_path)
    run.train()
    batch = TASK.collate(rows("b")[:4])
    with run.adapted.evaluating(), torch.no_grad():
        wanted = TASK.forward(run.adapted.outer, batch).logits
    carry.save_stage(tmp_path / "stages" / "two", run.adapted, {})
    again = Adapted(tiny.bert())
    carry.load_stage(tmp_path / "stages" / "two", again)
    with torch.no_grad():
        assert agrees(TASK.forward(again.outer.eval(), batch).logits, wanted)
    with run.adapted.base() as net, torch.no_grad():
        assert agrees(TASK.forward(net, batch).logits, TASK.forward(tiny.bert(), batch).logits)


def test_two_domains_in_a_whole_run_are_measured_and_not_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    tiny.bert().save_pretrained(tmp_path / "base")
    tiny.tokenizer(encoder=True).save_pretrained(tmp_path / "base")
    for name, text in (("a", "The card was declined"), ("b", "In 1999 the river rose")):
        (tmp_path / f"{name}.jsonl").write_text("".join(f'{{"text": "{text} {i}"}}\n' for i in range(12)))
    stage = {"methods": [{NAME: {"length": 3, "hidden": 8}}], "budget": {"steps": 3}}
    tree = {
        "model": "./base",
        "task": "fill-mask",
        "data": {"train": "a.jsonl", "eval": "b.jsonl"},
        "keep": ["a.jsonl"],
        "train": {"learning_rate": 0.01, "batch_tokens": 64, "precision": "float32", "threads": 1, "device": "cpu"},
        "stages": [
            {"name": "one", **stage},
            {"name": "two", **stage, "start": "stages.one", "carry": "frozen", "data": {"train": "b.jsonl"}},
        ],
        "measurement": {"strengths": [1]},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(tree))
    run_recipe(tmp_path / "recipe.yaml", tmp_path / "out", quiet=True)
    report = Report.load(tmp_path / "out")
    assert report.target is not None and report.drift is not None and report.target.after.value > 0
    with pytest.raises(TunewrightError):
        export(tmp_path / "out", tmp_path / "model")


def test_decoders_are_refused():
    with pytest.raises(MethodError, match="decoder"):
        Run({NAME: HPromptCPT()}, model=tiny.llama(), task="fill-mask", sources={"a": rows()})
