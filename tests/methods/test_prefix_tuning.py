"""Prefix tuning: every way of running the model finds the prefix first, and PEFT's own implementation says the same."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, text_rows
from tests.methods.reading import class_rows
from tunewright.errors import MethodError
from tunewright.measure.drift import kl_drift, sequence_rows, take_reference
from tunewright.measure.generate import greedy
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.adapters.prefix_tuning import PrefixTuning
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.models.attention import prepare_attention
from tunewright.models.prefix import prefixed, save_prefix, sizes
from tunewright.tasks import get_task
from tunewright.training import carry

TASK = get_task("text-generation")
N = 3


def drawn(model, seed: int = 1) -> torch.Tensor:
    layers, heads, size = sizes(model)
    return torch.randn(N, layers, 2, heads, size, generator=torch.Generator().manual_seed(seed))


def twin_of(model, seed: int = 1):
    prefix = drawn(model, seed)
    return prefixed(model, N, lambda: prefix)


def mixed_by_hand(q, k, v, prefix_k, prefix_v):
    """(1 - l) attention(q, K, V) + l attention(q, P_K, P_V) of one head, causal: q, k, v [T, d], P [n, d]."""
    out = []
    for t in range(len(q)):
        own, theirs = q[t] @ k[: t + 1].T / q.shape[1] ** 0.5, q[t] @ prefix_k.T / q.shape[1] ** 0.5
        share = torch.sigmoid(theirs.logsumexp(0) - own.logsumexp(0))
        out.append((1 - share) * own.softmax(0) @ v[: t + 1] + share * theirs.softmax(0) @ prefix_v)
    return torch.stack(out)


def test_an_attention_is_the_papers_mixture_of_its_own_and_the_prefixs():
    """GPT-2's first attention, head by head, with positions that begin behind the prefix."""
    model = tiny.gpt2(layers=1)
    prefix, ids = drawn(model), torch.arange(20, 27)
    seen = []
    model.transformer.h[0].attn.c_proj.register_forward_pre_hook(lambda _, x: seen.append(x[0][0]))
    with torch.no_grad():
        twin_of(model)(ids[None])
        body = model.transformer
        states = body.wte(ids) + body.wpe(torch.arange(N, N + len(ids)))
        q, k, v = body.h[0].attn.c_attn(body.h[0].ln_1(states)).split(32, -1)
        for h in range(4):
            at = slice(8 * h, 8 * h + 8)
            expected = mixed_by_hand(q[:, at], k[:, at], v[:, at], prefix[:, 0, 0, h], prefix[:, 0, 1, h])
            torch.testing.assert_close(seen[0][:, at], expected, atol=1e-5, rtol=1e-4)


def test_an_encoders_attention_is_the_same_mixture_over_all_tokens():
    model, classify = tiny.bert_classifier(layers=1), get_task("text-classification")
    prefix, rows, seen = drawn(model), class_rows(3), []
    twin, body = prefixed(model, N, lambda: prefix), model.bert
    model.bert.encoder.layer[0].attention.output.dense.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    with torch.no_grad():
        said = classify.forward(twin, classify.collate(rows)).logits
        for i, row in enumerate(rows):
            length = len(row.input_ids)
            states = body.embeddings(torch.tensor([row.input_ids]), position_ids=torch.arange(N, N + length)[None])[0]
            layer = body.encoder.layer[0].attention.self
            q, k, v = layer.query(states), layer.key(states), layer.value(states)
            for h in range(4):
                at = slice(8 * h, 8 * h + 8)
                keys = torch.cat([prefix[:, 0, 0, h], k[:, at]])
                values = torch.cat([prefix[:, 0, 1, h], v[:, at]])
                expected = (q[:, at] @ keys.T / 8**0.5).softmax(-1) @ values
                torch.testing.assert_close(seen[0][i, :length, at], expected, atol=1e-5, rtol=1e-4)
        alone = torch.cat([classify.forward(twin, classify.collate([r])).logits for r in rows])
        torch.testing.assert_close(said, alone, atol=1e-5, rtol=1e-4)
    run = Run(
        {"p": PrefixTuning(num_virtual_tokens=N)},
        model=tiny.bert_classifier(),
        task="text-classification",
        sources={"new": class_rows()},
        steps=3,
    )
    start = run.state("p").encoder().detach().clone()
    assert not torch.equal(run.train() and run.state("p").encoder(), start)


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2, tiny.qwen3])
def test_packed_padded_and_alone_are_the_same(make):
    model, rows = make(), text_rows(5)
    packs = prepare_attention(model)
    twin = twin_of(model)
    with torch.no_grad():
        padded = TASK.forward(twin, TASK.collate(rows)).logits
        alone = torch.cat([TASK.forward(twin, TASK.collate([r])).logits for r in rows])
        torch.testing.assert_close(padded, alone, atol=2e-5, rtol=1e-4)
        assert packs
        torch.testing.assert_close(TASK.forward(twin, TASK.collate(rows, True)).logits, alone, atol=2e-5, rtol=1e-4)
        assert not torch.allclose(alone, TASK.forward(model, TASK.collate(rows)).logits, atol=1e-2)


def test_answers_are_those_of_whole_forwards_and_hidden_states_have_the_callers_length():
    model = tiny.llama()
    twin, prompts = twin_of(model), [list(r.input_ids) for r in text_rows(5)]
    for common in ([], [9, 10]):
        answers = greedy(twin, None, [common + p for p in prompts], 5, ())
        for p, answer in zip(prompts, answers, strict=True):
            ids = common + p
            with torch.no_grad():
                for token in answer:
                    assert int(twin(torch.tensor([ids])).logits[0, -1].argmax()) == token
                    ids = [*ids, token]
    assert answers != greedy(model, None, [common + p for p in prompts], 5, ())
    rows = sequence_rows([list(r.input_ids) for r in text_rows(4)], 1)
    batch = TASK.collate(rows)
    with torch.no_grad():
        hidden = TASK.forward(twin, batch, hidden=True).hidden
    assert all(h.shape[:2] == batch.inputs["input_ids"].shape for h in hidden)
    assert kl_drift(take_reference(model, TASK, rows), twin).interval.value > 1e-4


def make_run(listen=None, **fields) -> Run:
    return Run({"prefix-tuning": PrefixTuning(num_virtual_tokens=N, **fields)}, listen=listen, steps=6)


@pytest.mark.parametrize("projected", [False, True])
def test_only_the_prefix_trains_and_it_resumes(projected):
    run = make_run(prefix_projection=projected)
    before = {n: p.clone() for n, p in run.adapted.base_parameters().items()}
    loop = run.train()
    width, layers = 16, 2  # two key/value heads of eight
    table, hidden = 2 * layers * width, width
    expected = N * width + width * hidden + hidden + hidden * table + table if projected else N * table
    assert loop.trained.count() == expected
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in run.adapted.base_parameters().items())
    assert run.records[-1]["loss"] < run.records[0]["loss"]
    assert_resumes(lambda listen: make_run(listen, prefix_projection=projected), 3)


def test_a_stage_gives_it_back_and_another_adapter_trains_under_it(tmp_path):
    run = make_run(prefix_projection=True)
    run.train()
    batch = TASK.collate(text_rows(3))
    with torch.no_grad():
        tuned = TASK.forward(run.adapted.wrapper, batch).logits
    carry.save_stage(tmp_path / "stages" / "first", run.adapted, {})
    again = Adapted(tiny.llama())
    carry.begin(again, "stages.first", "frozen", tmp_path, "recipe.yaml")
    with torch.no_grad():
        assert agrees(TASK.forward(again.wrapper, batch).logits, tuned)
    Run({"lora": LoRA(rank=2)}, model=again, steps=3).train()


def peft_of(make, task_type: str, projected: bool, zero: bool = False):
    peft = pytest.importorskip("peft", reason="needs the extra `peers`")
    config = peft.PrefixTuningConfig(
        task_type=task_type,
        num_virtual_tokens=N,
        prefix_projection=projected,
        init_weights="zero" if zero else None,
    )
    return peft.get_peft_model(make(), config)


def three_steps(forward, parameters) -> list[list[torch.Tensor]]:
    """Gradients of three steps of plain gradient descent."""
    found = []
    for _ in range(3):
        for p in parameters:
            p.grad = None
        forward().logsumexp(-1).sum().backward()
        found.append([p.grad.clone() for p in parameters])
        with torch.no_grad():
            for p in parameters:
                p -= 1e-3 * p.grad
    return found


@pytest.mark.parity
@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
def test_peft_says_the_same_and_its_gradients_of_three_steps_are_ours(make, projected):
    theirs = peft_of(make, "CAUSAL_LM", projected).eval()
    run = Run({"p": PrefixTuning(num_virtual_tokens=N, prefix_projection=projected)}, model=make())
    ours, encoder = run.adapted.wrapper, run.state("p").encoder
    named = dict(theirs.prompt_encoder["default"].named_parameters())
    mine = dict(encoder.named_parameters())
    assert {n: p.shape for n, p in mine.items()} == {n: p.shape for n, p in named.items()}, "layers and their names"
    for n, p in mine.items():
        p.requires_grad_(True).data.copy_(named[n])
    inputs = {k: v for k, v in TASK.collate(text_rows(4)).inputs.items() if k in ("input_ids", "attention_mask")}
    real = inputs["attention_mask"].bool()

    def said(model):
        return model(**inputs).logits[real]

    with torch.no_grad():
        torch.testing.assert_close(said(ours), said(theirs), atol=1e-5, rtol=1e-4)
    ordered = [named[n] for n in mine]
    for a, b in zip(
        three_steps(lambda: said(ours), list(mine.values())), three_steps(lambda: said(theirs), ordered), strict=True
    ):
        for g, h in zip(a, b, strict=True):
            assert bool(h.any())
            torch.testing.assert_close(g, h, atol=1e-4, rtol=1e-3)


@pytest.mark.parity
@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
def test_peft_loads_what_is_saved_and_says_the_same(make, tmp_path):
    peft = pytest.importorskip("peft", reason="needs the extra `peers`")
    model = make()
    save_prefix(drawn(model), model.config, tmp_path, "tiny", "CAUSAL_LM")
    theirs, inputs = peft.PeftModel.from_pretrained(make(), tmp_path).eval(), TASK.collate(text_rows(4)).inputs
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        torch.testing.assert_close(
            twin_of(model)(**inputs).logits[real], theirs(**inputs).logits[real], atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("projected", [False, True])
def test_starts_are_pefts(projected):
    plain, zero = (make_run(prefix_projection=projected, init_weights=w).state("prefix-tuning") for w in (None, "zero"))
    table = plain.encoder.embedding.weight
    assert 0.8 < float(table.detach().std()) < 1.2
    assert not zero.encoder().any() and (projected == bool(zero.encoder.embedding.weight.any()))
    if projected:
        assert all(float(m.weight.detach().abs().max()) <= m.in_features**-0.5 for m in plain.encoder.transform[::2])


def test_the_runs_folder_gets_pefts_adapter(tmp_path):
    from tunewright.runs import artefacts

    run = make_run(prefix_projection=True)
    run.train()
    session = SimpleNamespace(adapted=run.adapted, loaded=SimpleNamespace(name="tiny", reference="tiny"))
    artefacts.save(tmp_path, session)
    peft = pytest.importorskip("peft", reason="needs the extra `peers`")
    theirs = peft.PeftModel.from_pretrained(tiny.llama(), tmp_path / "adapter").eval()
    inputs = TASK.collate(text_rows(4)).inputs
    real = inputs["attention_mask"].bool()
    with torch.no_grad(), run.adapted.evaluating():
        ours = run.adapted.wrapper(**inputs).logits[real]
        torch.testing.assert_close(ours, theirs(**inputs).logits[real], atol=1e-5, rtol=1e-4)


def test_what_takes_no_prefix_is_refused_by_name():
    for make in (tiny.vit, tiny.efficientnet):
        with pytest.raises(MethodError, match=r"takes no keys and values|no body"):
            sizes(make())
    with pytest.raises(MethodError, match="serve|image-classification"):
        from tunewright.contract.combining import check_conflicts

        check_conflicts([("prefix-tuning", PrefixTuning())], stage="s", task=get_task("image-classification"))
    long = torch.arange(10, 200)[None].repeat(1, 2)[:, :254]
    with pytest.raises(MethodError, match="256 positions"), torch.no_grad():
        twin_of(tiny.gpt2())(long)
    twin_of(tiny.llama())(long)
    from tunewright.models.recompute import recomputing

    model = tiny.llama().train()
    with recomputing(model, True), pytest.raises(MethodError, match="activation_checkpointing"):
        twin_of(model)(torch.arange(10, 15)[None])
