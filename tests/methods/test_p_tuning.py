"""P-tuning: virtual tokens made by PEFT's networks, read as prompt tuning reads its own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, text_rows
from tests.methods.test_prefix_tuning import three_steps
from tunewright.catalogue import load_method
from tunewright.errors import MethodError
from tunewright.measure.generate import greedy
from tunewright.methods.adapters.p_tuning import PTuning
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.tasks import get_task
from tunewright.training import carry

TASK = get_task("text-generation")
N, M = 3, 6


def make_run(listen=None, kind: str = "MLP", make=tiny.llama, **fields) -> Run:
    method = PTuning(num_virtual_tokens=N, encoder_reparameterization_type=kind, encoder_hidden_size=M, **fields)
    return Run({"p-tuning": method}, model=make(), listen=listen, steps=6)


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["MLP", "LSTM"])
@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
def test_peft_says_the_same_and_its_gradients_of_three_steps_are_ours(make, kind):
    peft = pytest.importorskip("peft", reason="needs the extra `peers`")
    config = peft.PromptEncoderConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=N, encoder_reparameterization_type=kind, encoder_hidden_size=M
    )
    theirs, run = peft.get_peft_model(make(), config).eval(), make_run(kind=kind, make=make)
    mine = dict(run.state("p-tuning").encoder.named_parameters())
    named = dict(theirs.prompt_encoder["default"].named_parameters())
    assert {n: p.shape for n, p in mine.items()} == {n: p.shape for n, p in named.items()}, "layers and their names"
    for n, p in mine.items():
        p.requires_grad_(True).data.copy_(named[n])
    inputs = TASK.collate(text_rows(4)).inputs
    real = inputs["attention_mask"].bool()
    whole = {k: inputs[k] for k in ("input_ids", "attention_mask")}

    def ours():
        return run.adapted.wrapper(**inputs).logits[real]

    def said():
        return theirs(**whole).logits[:, N:][real]

    run.adapted.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(), said(), atol=1e-5, rtol=1e-4)
    for a, b in zip(three_steps(ours, list(mine.values())), three_steps(said, [named[n] for n in mine]), strict=True):
        for g, h in zip(a, b, strict=True):
            torch.testing.assert_close(g, h, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["MLP", "LSTM"])
def test_only_the_network_trains_it_resumes_and_a_stage_gives_it_back(kind, tmp_path):
    run = make_run(kind=kind)
    loop = run.train()
    encoder = run.state("p-tuning").encoder
    assert loop.trained.count() == sum(p.numel() for p in encoder.parameters())
    assert all(p.grad is None for p in run.adapted.base_parameters().values())
    assert run.records[-1]["loss"] < run.records[0]["loss"]
    assert_resumes(lambda listen: make_run(listen, kind), 3)
    batch = TASK.collate(text_rows(3))
    with torch.no_grad(), run.adapted.evaluating():
        tuned = TASK.forward(run.adapted.wrapper, batch).logits
    carry.save_stage(tmp_path / "stages" / "first", run.adapted, {})
    again = Adapted(tiny.llama())
    carry.begin(again, "stages.first", "frozen", tmp_path, "recipe.yaml")
    with torch.no_grad():
        assert agrees(TASK.forward(again.wrapper, batch).logits, tuned)


def test_dropout_of_the_lstm_acts_while_training_alone():
    run = make_run(kind="LSTM", encoder_dropout=0.5)
    inputs = TASK.collate(text_rows(2)).inputs
    with torch.no_grad():
        run.adapted.model.train()
        a, b = (run.adapted.wrapper(**inputs).logits for _ in range(2))
        assert not torch.equal(a, b)
        run.adapted.model.eval()
        a, b = (run.adapted.wrapper(**inputs).logits for _ in range(2))
        assert torch.equal(a, b)


def test_starts_are_torchs_and_every_token_is_another():
    encoder = make_run().state("p-tuning").encoder
    assert 0.8 < float(encoder.embedding.weight.detach().std()) < 1.2
    assert all(float(m.weight.detach().abs().max()) <= m.in_features**-0.5 for m in encoder.mlp_head[::2])
    assert len(encoder().unique(dim=0)) == N
    state = Run({"p-tuning": PTuning(num_virtual_tokens=2)}).state("p-tuning")
    assert [tuple(m.weight.shape) for m in state.encoder.mlp_head[::2]] == [(32, 32)] * 3, "hidden width D by default"


@pytest.mark.parametrize("kind", ["MLP", "LSTM"])
def test_the_runs_folder_gets_pefts_adapter(kind, tmp_path):
    from tunewright.runs import artefacts

    run = make_run(kind=kind)
    run.train()
    session = SimpleNamespace(adapted=run.adapted, loaded=SimpleNamespace(name="tiny", reference="tiny"))
    artefacts.save(tmp_path, session)
    peft = pytest.importorskip("peft", reason="needs the extra `peers`")
    theirs = peft.PeftModel.from_pretrained(tiny.llama(), tmp_path / "adapter").eval()
    inputs = TASK.collate(text_rows(4)).inputs
    real = inputs["attention_mask"].bool()
    with torch.no_grad(), run.adapted.evaluating():
        ours = run.adapted.wrapper(**inputs).logits[real]
        said = theirs(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, N:][real]
    torch.testing.assert_close(ours, said, atol=1e-5, rtol=1e-4)


def test_answers_are_read_behind_the_tokens():
    run = make_run()
    prompts = [list(r.input_ids) for r in text_rows(3)]
    with torch.no_grad(), run.adapted.evaluating():
        for p, answer in zip(prompts, greedy(run.adapted.wrapper, None, prompts, 3, ()), strict=True):
            for i, token in enumerate(answer):
                whole = run.adapted.wrapper(torch.tensor([[*p, *answer[:i]]])).logits[0, -1]
                assert int(whole.argmax()) == token


@pytest.mark.parametrize(
    ("name", "field"),
    [("p-tuning", "num_virtual_tokens"), ("prefix-tuning", "num_virtual_tokens"), ("prompt-tuning", "length"),
     ("mam-adapter", "prefix_length")],
)  # fmt: skip
def test_virtual_tokens_that_leave_a_row_no_place_are_refused(name, field):
    known = tiny.llama().config.max_position_embeddings
    method = load_method(name, "methods.0")
    with pytest.raises(MethodError, match=f"leave no place for a row: the model knows {known} positions") as refused:
        Run({name: method(**{field: known})}, model=tiny.llama(), steps=1)
    assert refused.value.where == field
    Run({name: method(**{field: 4})}, model=tiny.llama(), steps=1)
