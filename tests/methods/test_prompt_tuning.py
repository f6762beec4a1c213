"""Prompt tuning: every way of running the model reads the prompt first; PEFT reads what is saved; stages carry it."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests import tiny
from tests.methods.driving import Run, assert_resumes, text_rows
from tunewright.errors import MethodError
from tunewright.measure.drift import kl_drift, sequence_rows, take_reference
from tunewright.measure.generate import greedy
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.adapters.prompt_tuning import PromptTuning
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.models.attention import prepare_attention
from tunewright.models.prompt import prompted, save_prompt
from tunewright.pieces.prompts import start_prompt
from tunewright.tasks import get_task
from tunewright.training import carry

TASK = get_task("text-generation")
N = 3


def twin_of(model) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    return prompted(model, nn.Parameter(torch.randn(N, model.config.hidden_size, generator=generator) * 0.3))


def by_hand(model, prompt, ids) -> torch.Tensor:
    """Logits [T, V] of the tokens of one row, read after the prompt by the plain model."""
    embeds = torch.cat([prompt, model.get_input_embeddings()(torch.tensor(ids))])
    return model(inputs_embeds=embeds[None]).logits[0, len(prompt) :]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2, tiny.qwen3])
def test_each_row_reads_the_prompt_first_packed_and_padded(make, packed):
    model = make()
    if packed:
        assert prepare_attention(model)
    twin, rows = twin_of(model), text_rows(5)
    batch = TASK.collate(rows, packed)
    with torch.no_grad():
        got = TASK.forward(twin, batch).logits
        plain = make()
        wanted = [
            by_hand(plain, twin.base_model.tunewright_prompt, r.input_ids)[1:-1] for r in rows
        ]  # the first two tokens have no loss
        torch.testing.assert_close(got, torch.cat(wanted), atol=2e-5, rtol=1e-4)
        log_probs = TASK.forward(twin, batch).log_probs()
    torch.testing.assert_close(
        log_probs, torch.log_softmax(got, -1).gather(-1, batch.labels[:, None])[:, 0], atol=2e-5, rtol=1e-4
    )
    assert type(model.base_model) is type(plain.base_model) and not hasattr(model.base_model, "tunewright_prompt")


def test_answers_are_those_of_the_prompt_read_by_hand():
    model = tiny.llama()
    twin = twin_of(model)
    prompts = [list(r.input_ids) for r in text_rows(5)]
    for shared in ([], [9, 10]):  # with a common start, read once, and without
        answers = greedy(twin, None, [shared + p for p in prompts], 5, ())
        for p, answer in zip(prompts, answers, strict=True):
            ids = shared + p
            with torch.no_grad():
                for token in answer:
                    assert int(by_hand(model, twin.base_model.tunewright_prompt, ids)[-1].argmax()) == token
                    ids = [*ids, token]
    assert answers != greedy(model, None, [shared + p for p in prompts], 5, ())


def test_hidden_states_have_the_callers_length_and_drift_sees_the_prompt():
    model = tiny.llama()
    rows = sequence_rows([list(r.input_ids) for r in text_rows(4)], 1)
    batch = TASK.collate(rows)
    with torch.no_grad():
        hidden = TASK.forward(twin_of(model), batch, hidden=True).hidden
    assert all(h.shape[:2] == batch.inputs["input_ids"].shape for h in hidden)
    reference = take_reference(model, TASK, rows)
    assert kl_drift(reference, twin_of(model)).interval.value > 1e-4
    assert kl_drift(reference, model).interval.value < 1e-9


def make_run(listen=None, **fields) -> Run:
    return Run({"prompt-tuning": PromptTuning(length=N, **fields)}, listen=listen, steps=6, learning_rate=0.1)


def test_only_the_prompt_trains_and_the_loss_falls():
    run = make_run()
    before = {n: p.clone() for n, p in run.adapted.base_parameters().items()}
    start = run.state("prompt-tuning").get_parameter("prompt").detach().clone()
    loop = run.train()
    assert bool((run.state("prompt-tuning").get_parameter("prompt") != start).all())
    assert list(loop.trained.leaves) == ["prompt-tuning.prompt"] and loop.trained.count() == N * 32
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in run.adapted.base_parameters().items())
    assert run.records[-1]["loss"] < run.records[0]["loss"]


def test_resumes_bit_for_bit():
    assert_resumes(make_run, 3)


def test_starts_are_tokens_or_uniform():
    weight = tiny.llama().get_input_embeddings().weight
    drawn = start_prompt(weight, 5, random.Random(0))
    assert all(any(torch.equal(v, w) for w in weight) for v in drawn)
    assert float(start_prompt(weight, 200, random.Random(0), "random").abs().max()) <= 0.5


def test_a_run_starts_from_embeddings_of_tokens_unless_told_otherwise():
    table = tiny.llama().get_input_embeddings().weight
    for start, drawn in (("vocabulary", True), ("random", False)):
        run = Run({"prompt": PromptTuning(length=6, start=start)})
        prompt = run.state("prompt").get_parameter("prompt").detach()
        among = (prompt[:, None] == table[None]).all(-1).any(1)
        assert bool(among.all()) == drawn and len(prompt.unique(dim=0)) > 1
        assert float(prompt.abs().max()) > (0.1 if drawn else 0.45)
    assert float(prompt.abs().max()) <= 0.5


def test_a_stage_gives_it_back_and_says_what_it_cannot_carry(tmp_path):
    run = make_run()
    run.train()
    batch = TASK.collate(text_rows(3))
    with torch.no_grad():
        tuned = TASK.forward(run.adapted.wrapper, batch).logits
    carry.save_stage(tmp_path / "stages" / "first", run.adapted, {})
    again = Adapted(tiny.llama())
    carry.begin(again, "stages.first", "frozen", tmp_path, "recipe.yaml")
    with torch.no_grad():
        assert agrees(TASK.forward(again.wrapper, batch).logits, tuned)
    with pytest.raises(MethodError, match="'prompt-tuning' .* wraps a model|cannot wrap"):
        Run({"prompt-tuning": PromptTuning(length=2)}, model=again)
    later = Run({"lora": LoRA(rank=2)}, model=again, steps=3)  # an adapter trained under the frozen prompt
    later.train()
    assert torch.equal(again.wrapped_by.state.prompt, run.state("prompt-tuning").prompt)
    for way in ("fold", "training"):
        with pytest.raises(MethodError, match="carry: frozen"):
            carry.begin(Adapted(tiny.llama()), "stages.first", way, tmp_path, "recipe.yaml")
    carry.begin(again, "stages.first", "drop", tmp_path, "recipe.yaml")
    assert again.wrapper is None and again.foldable


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
def test_peft_loads_what_is_saved_and_says_the_same(make, tmp_path):
    peft = pytest.importorskip("peft", reason="needs the extra `peers`")
    model = make()
    twin, batch = twin_of(model), TASK.collate(text_rows(4))
    save_prompt(twin.base_model.tunewright_prompt, model.config, tmp_path, "tiny")
    theirs = peft.PeftModel.from_pretrained(make(), tmp_path)
    with torch.no_grad():
        said = theirs(input_ids=batch.inputs["input_ids"], attention_mask=batch.inputs["attention_mask"]).logits[:, N:]
        ours = twin(**batch.inputs).logits
    real = batch.inputs["attention_mask"].bool()
    torch.testing.assert_close(ours[real], said[real], atol=1e-5, rtol=1e-4)


def test_the_runs_folder_gets_the_adapter(tmp_path):
    from tunewright.runs import artefacts

    run = make_run()
    run.train()
    session = SimpleNamespace(adapted=run.adapted, loaded=SimpleNamespace(name="tiny", reference="tiny"))
    assert artefacts.save(tmp_path, session)[0] == N * 32
    assert {p.name for p in (tmp_path / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


def test_a_model_without_a_body_of_its_own_is_refused():
    with pytest.raises(MethodError, match="no body"):
        prompted(nn.Linear(2, 2), nn.Parameter(torch.zeros(1, 2)))
