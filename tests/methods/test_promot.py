"""ProMoT: a prompt, then the model behind it, each step as by hand; other rows never see the prompt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests import tiny
from tests.methods.driving import Cursor, Run, assert_resumes, logits, text_rows
from tests.methods.selecting import EPS
from tunewright.contract.batch import Row
from tunewright.contract.left import Earlier, left_of
from tunewright.errors import MethodError
from tunewright.measure.generate import greedy
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.adapters.promot import ProMoT, _prompt
from tunewright.models.adapted import Adapted
from tunewright.models.attention import prepare_attention
from tunewright.models.context import following, rows_of_prompts
from tunewright.models.prompt import prompted
from tunewright.tasks import get_task
from tunewright.training import carry

TASK = get_task("text-generation")
N = 3
MAKERS = [tiny.llama, tiny.gpt2]


def run_of(listen=None, *, model=None, earlier=None, steps: int = 4, beside=(), plan=None, **fields) -> Run:
    methods = {"promot": ProMoT(**{"length": N, "prompt_rate": 0.1, **fields}), **dict(beside)}
    return Run(methods, model=model, earlier=earlier, steps=steps, listen=listen, plan=plan, eps=EPS)


def first_stage(make=tiny.llama, **fields) -> tuple[Run, Earlier]:
    run = run_of(model=make(), **fields)
    run.train()
    state = run.state("promot")
    return run, Earlier((left_of("prompt", "promot", ProMoT.leaves, state, state.data),))


def by_hand(model, prompt, ids) -> torch.Tensor:
    """Logits [T, V] of one row's tokens, read after the prompt by the plain model."""
    embeds = torch.cat([prompt, model.get_input_embeddings()(torch.tensor(ids))])
    return model(inputs_embeds=embeds[None]).logits[0, len(prompt) :]


def step_by_step(model, prompt, trained, rate: float, steps: int = 4) -> None:
    """AdamW over what is given, on the rows that `Run` takes, each read alone behind the prompt."""
    optimizer = torch.optim.AdamW(trained, lr=rate, eps=EPS, weight_decay=0.0)
    cursor = Cursor({"new": text_rows()})
    for _ in range(steps):
        losses = []
        for row, _ in cursor.next_batch():
            logp = torch.log_softmax(by_hand(model, prompt, row.input_ids)[1:-1], -1)  # two tokens have no loss
            losses.append(-logp.gather(-1, torch.tensor(row.input_ids[2:])[:, None])[:, 0])
        torch.cat(losses).mean().backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("make", MAKERS)
def test_both_stages_steps_are_those_of_a_prompt_and_then_of_a_model_read_behind_it(make):
    run, base = run_of(model=make()), make()
    prompt = run.state("promot").get_parameter("prompt").detach().clone().requires_grad_()
    step_by_step(make().requires_grad_(False), prompt, [prompt], 0.1)
    loop = run.train()
    assert list(loop.trained.leaves) == ["promot.prompt"] and loop.trained.count() == N * 32
    torch.testing.assert_close(run.state("promot").get_parameter("prompt"), prompt, atol=1e-4, rtol=1e-3)
    for name, p in run.adapted.base_parameters().items():
        assert torch.equal(p, dict(base.named_parameters())[name]), name
    assert torch.equal(logits(run.adapted.model), logits(base)), "without the prompt it is the base"
    state = run.state("promot")
    left = Earlier((left_of("prompt", "promot", ProMoT.leaves, state, state.data),))
    kept = left[0].values["prompt"].clone()
    later = run_of(model=make(), earlier=left)
    model = make().requires_grad_(True)
    step_by_step(model, kept, list(model.parameters()), 1e-2)
    loop = later.train()
    assert set(loop.trained.leaves) == set(later.adapted.base_parameters())
    assert torch.equal(_prompt(later.state("promot")), kept), "the prompt stays to the bit"
    for name, p in model.named_parameters():
        if name in later.adapted.base_parameters():
            torch.testing.assert_close(later.adapted.base_parameters()[name], p, atol=2e-4, rtol=1e-3)
    assert (logits(later.adapted.model) - logits(base)).abs().max() > 1e-3


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("make", MAKERS)
def test_rows_without_the_prompt_read_none_beside_rows_that_do(make, packed):
    model, plain = make(), make()
    if packed:
        assert prepare_attention(model)
    prompt = torch.randn(N, 32, generator=torch.Generator().manual_seed(1)) * 0.3
    twin = prompted(model, lambda: prompt, frozenset({"other"}))
    rows = [replace(r, source=s) for r, s in zip(text_rows(5), ("a", "other", "a", "other", "b"), strict=True)]
    some, none = rows, [rows[1], rows[3]]
    for batch in (some, none, [rows[0], rows[2]]):
        with torch.no_grad():
            got = TASK.forward(twin, TASK.collate(batch, packed)).logits
            wanted = [by_hand(plain, prompt[: 0 if r.source == "other" else N], r.input_ids)[1:-1] for r in batch]
        torch.testing.assert_close(got, torch.cat(wanted), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("make", MAKERS)
def test_answers_from_a_cache_are_those_of_rows_read_by_hand(make):
    prompt = torch.randn(N, 32, generator=torch.Generator().manual_seed(1)) * 0.3
    model = make()
    twin = prompted(model, lambda: prompt, frozenset({"other"}))
    ids = torch.tensor([[10, 11, 12, 13, 14], [20, 21, 22, 23, 24]])
    with following(twin, rows_of_prompts([5, 5], ("1", "2"), ("a", "other"))), torch.no_grad():
        out = twin(input_ids=ids[:, :4], use_cache=True)
        last = twin(input_ids=ids[:, 4:], past_key_values=out.past_key_values).logits[:, -1]
        for i, n in enumerate((N, 0)):
            torch.testing.assert_close(last[i], by_hand(model, prompt[:n], ids[i].tolist())[-1], atol=2e-5, rtol=1e-4)
    prompts = [[9, 10, 11, *r.input_ids] for r in text_rows(3)]  # a common start, which is not the same for all
    asked = [Row(f"{i}", s, p, [0.0] * len(p)) for i, (p, s) in enumerate(zip(prompts, "aba", strict=True))]
    free = prompted(model, lambda: prompt, frozenset({"b"}))
    answers = greedy(free, None, prompts, 4, (), rows=asked)
    for p, answer, row in zip(prompts, answers, asked, strict=True):
        ids = list(p)
        for token in answer:
            with torch.no_grad():
                assert int(by_hand(model, prompt[: 0 if row.source == "b" else N], ids)[-1].argmax()) == token
            ids = [*ids, token]


def test_deltas_train_in_the_place_of_the_weights_where_some_hang_beside_it():
    _, left = first_stage()
    run = run_of(earlier=left, beside={"lora": LoRA(rank=2)}.items())
    loop = run.train()
    assert loop.trained.leaves and all(".delta.lora." in n for n in loop.trained.leaves)
    alone = run_of(beside={"lora": LoRA(rank=2)}.items()).train()
    assert list(alone.trained.leaves) == ["promot.prompt"], "a first stage trains the prompt alone"


def test_a_third_stage_begins_with_a_prompt_of_its_own():
    run, left = first_stage()
    second = run_of(earlier=left)
    second.train()
    state = second.state("promot")
    assert state.data["phase"] == "model" and torch.equal(_prompt(state), _prompt(run.state("promot")))
    both = Earlier((*left, left_of("model", "promot", ProMoT.leaves, state, state.data)))
    third = run_of(earlier=both)
    assert third.state("promot").data["phase"] == "prompt" and third.state("promot").get("prompt") is None


def test_starts_and_every_field_change_what_is_learnt():
    table = tiny.llama().get_input_embeddings().weight
    for start, drawn in (("vocabulary", True), ("random", False)):
        prompt = run_of(start=start).state("promot").get_parameter("prompt").detach()
        assert all(any(torch.equal(v, w) for w in table) for v in prompt) is drawn
    assert ProMoT().length == 100

    def after(**fields):
        run, _ = first_stage(**fields)
        return _prompt(run.state("promot"))

    first = after()
    assert after(length=5).shape == (5, 32)
    assert not torch.equal(after(prompt_rate=0.3), first) and not torch.equal(after(start="random"), first)
    assert not torch.equal(after(without=("new",), plan={"sources": {"new": 1}}), first), (
        "rows that read no prompt teach it nothing"
    )


def test_kept_rows_and_drift_are_read_without_it_unless_others_are_named():
    plan = {"kept": ("notes.txt",), "measured": ("test.jsonl",)}
    told = {
        w: run_of(plan=plan, without=w).state("promot").data["without"] for w in (None, (), ("test.jsonl", "drift"))
    }
    assert told == {None: ["notes.txt", "drift"], (): [], ("test.jsonl", "drift"): ["test.jsonl", "drift"]}
    with pytest.raises(MethodError, match="no source that is read here is called 'note.txt'"):
        run_of(plan=plan, without=("note.txt",))


def test_both_stages_resume_and_come_back_from_their_files(tmp_path: Path):
    assert_resumes(run_of, 2)
    run, left = first_stage()
    assert_resumes(lambda listen: run_of(listen, earlier=left), 2)
    rows = TASK.collate(text_rows(4))
    later = run_of(earlier=left)
    later.train()
    for name, stage in (("prompt", run), ("model", later)):
        carry.save_stage(tmp_path / "stages" / name, stage.adapted, {})
        again = Adapted(tiny.llama())
        carry.load_stage(tmp_path / "stages" / name, again)
        with torch.no_grad():
            wanted = TASK.forward(stage.adapted.outer.eval(), rows).logits
            torch.testing.assert_close(TASK.forward(again.outer, rows).logits, wanted)
    ProMoT().save(later.state("promot"), later.adapted.model, tmp_path / "adapter", "tiny")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")["prompt_embeddings"]
    assert torch.equal(saved, left[0].values["prompt"])


def test_a_prompt_that_leaves_no_place_is_refused():
    with pytest.raises(MethodError, match="leave no place"):
        run_of(length=256)
