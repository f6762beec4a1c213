"""Checks of a task's outputs: a row's do not hang on its neighbours, they fit one another, and metrics count them."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.conformance.case import Check, global_randomness_unchanged
from tunewright.conformance.task_case import TaskCase
from tunewright.conformance.training import close
from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.task import REGRESSION, Task
from tunewright.measure.generate import stop_ids
from tunewright.measure.target import answer_length, check_metric, evaluate, get_metric, metric_names, summary
from tunewright.models.arguments import takes
from tunewright.tasks import as_problem, get_task, own_names
from tunewright.tasks._features import features

FLAGS = ("generates", "labelled", "per_token", "scores", "reads_files")


def declarations_are_whole(case: TaskCase) -> None:
    """Docstrings, a class of transformers, a kind that there is, and a headline metric that the rows can have."""
    task = case.task
    library = importlib.import_module("diffusers" if task.draws else "transformers")
    assert inspect.getdoc(type(task)) and inspect.getdoc(type(task)) != inspect.getdoc(Task), "the class says nothing"
    assert hasattr(library, task.auto_class), f"{library.__name__} has no {task.auto_class}"
    assert not task.kind or task.kind in own_names(), f"there is no built-in task '{task.kind}' to be like"
    assert task.default_metric(case.rows) in metric_names(), "the headline is no metric"
    check_metric(task.default_metric(case.rows), task)
    assert task.unit.strip(), "the loss has no unit"


def it_is_what_its_kind_says(case: TaskCase) -> None:
    """Rows, batches and outputs have what those of the task have whose kind it is: methods read them alike."""
    like = _of_its_kind(case.task)
    for flag in FLAGS:
        own, other = getattr(case.task, flag), getattr(like.task, flag)
        assert own == other, f"{flag} is {own}, and of the kind {case.task.kind} it is {other}"
    (batch, out), (other_batch, other_out) = (c.outputs(c.rows[:3]) for c in (case, like))
    assert (case.rows[0].label is None) == (like.rows[0].label is None), "rows have a label, or have none"
    lacks = like.rows[0].fields.keys() - case.rows[0].fields.keys() - {"reference"}
    assert not lacks, f"rows lack the fields {sorted(lacks)}"
    assert batch.inputs.keys() == other_batch.inputs.keys(), f"inputs are not {sorted(other_batch.inputs)}"
    lacks = other_batch.fields.keys() - batch.fields.keys()
    assert not lacks, f"batches lack the fields {sorted(lacks)}"
    assert (batch.positions is None) == (other_batch.positions is None), "batches have positions, or have none"
    for name in ("features", "head", "scores", "present"):
        has, wanted = (getattr(o, name) is not None for o in (out, other_out))
        assert has or not wanted, f"outputs have no {name}"


def _of_its_kind(task: Task) -> TaskCase:
    """The built-in task that another is like, on its example; of a number a row with numbers in the labels' place."""
    from tunewright.conformance.task_examples import example_of

    example, like = example_of(task.kind), get_task(task.kind)
    if task.problem_type == REGRESSION != like.problem_type:
        like = as_problem(like, REGRESSION)
        rows = [{**row, "label": i + 0.5} for i, row in enumerate(example.rows)]
        example = replace(example, rows=rows, labels=None)
    return TaskCase(task.kind, example, like)


def alone_as_beside_others(case: TaskCase) -> None:
    """A row's targets are as likely, and cost as much, alone as padded beside longer rows and packed behind others;
    where a row's loss reads the others, its vectors are the same.
    """
    alone = [case.outputs([row]) for row in case.rows]
    for packed in (False, True) if case.task.packs and case.session.packed else (False,):
        batch, together = case.outputs(case.rows, packed)
        where = "packed behind others" if packed else "padded beside others"
        if together.embeddings is not None:
            vectors = torch.cat([o.embeddings for _, o in alone if o.embeddings is not None])
            close(together.embeddings, vectors, f"vectors {where} and alone")
        values = case.task.loss(together, batch).value
        for k, (own, out) in enumerate(alone) if case.task.couples == "token" else ():
            here = batch.rows == k
            close(values[here], case.task.loss(out, own).value, f"{case.rows[k].id}: the loss {where} and alone")
            close(_logits(together)[here], _logits(out), f"{case.rows[k].id}: outputs {where} and alone")
        if together.features is not None:
            close(together.features, torch.cat([o.features for _, o in alone]), f"features {where} and alone")


def _logits(outputs: Outputs) -> Tensor:
    return outputs.logits.float() if outputs.scores is None else outputs.scores[:, None]


def rows_differ_in_length(case: TaskCase) -> None:
    """The example's rows are of several lengths, or nothing would be padded."""
    assert len({len(r.input_ids) for r in case.rows}) > 1, "all rows of the example are of one length"


def outputs_fit_one_another(case: TaskCase) -> None:
    """log_probs are those of the logits, logits are the head's of the features, hidden states one a layer and one."""
    with global_randomness_unchanged():
        batch, out = case.outputs(case.rows)
    assert torch.equal(out.labels, batch.labels), "outputs have other labels than the batch"
    if case.task.embeds:
        count = sum(len(t) for n, t in batch.inputs.items() if n in ("input_ids", "pixel_values"))
        assert out.embeddings is not None and len(out.embeddings) == count, "a vector a text, and a picture"
    if case.task.likelihoods:
        chosen = torch.log_softmax(_again(case, batch).logits.float(), -1).gather(-1, batch.labels[:, None])[:, 0]
        close(out.log_probs(), chosen, "log_probs and those of the logits")
        close(case.task.loss(out, batch).value.mean(), case.task.loss(_again(case, batch), batch).value.mean(), "loss")
    if case.task.pools:
        assert out.features is not None and out.head is not None, "pooled features and their head are missing"
        assert out.features.shape[0] == len(case.rows), "features are one vector a row"
        if out.scores is None:
            close(out.head(out.features), out.logits, "the head's logits of the features and the logits")
    with torch.no_grad():
        hidden = case.task.forward(case.model, batch, hidden=True).hidden
    assert hidden is not None and len(hidden) > 1, "with hidden, there are no hidden states"
    assert out.hidden is None, "hidden states are kept that nobody asked for"


def _again(case: TaskCase, batch: Batch) -> Outputs:
    with torch.no_grad():
        return case.task.forward(case.model, batch)


def a_gradient_reaches_the_model(case: TaskCase) -> None:
    """The loss of a batch has a gradient in the model's first and last weights."""
    model, batch = case.model, case.task.collate(case.rows)
    wanted = [p for p in model.parameters() if p.requires_grad] or list(model.parameters())
    before = [p.requires_grad for p in wanted]
    try:
        for p in wanted:
            p.requires_grad_(True)
        with torch.enable_grad():
            value = case.task.loss(case.task.forward(model, batch), batch).value
            grads = torch.autograd.grad((value * batch.weights).sum(), wanted, allow_unused=True)
    finally:
        for p, was in zip(wanted, before, strict=True):
            p.requires_grad_(was)
    reached = [g is not None and bool(g.abs().sum() > 0) for g in grads]
    assert sum(reached) > len(reached) / 2, f"the loss reaches {sum(reached)} of {len(reached)} weights"


def measuring_keeps_the_order(case: TaskCase) -> None:
    """A result a row, in the rows' order, the same for every size of batches."""
    metric = case.task.default_metric(case.rows)
    for name in dict.fromkeys([metric, "loss"]):
        few, many = (_measured(case, name, size) for size in (1, 4096))
        assert [r.id for r in many] == [r.id for r in case.rows], f"{name}: results stand in another order than rows"
        for one, other in zip(few, many, strict=True):
            assert _same(one.answer, other.answer), f"{name}: batches change the answers"
        close(torch.tensor([r.score for r in few]), torch.tensor([r.score for r in many]), f"{name}: one by one")


_NUMBER = re.compile(r"-?\d+\.\d+(?:e[-+]?\d+)?")


def _same(one: str, other: str) -> bool:
    """Whether two answers are the same text, but for the last digits of the numbers in it: batches round otherwise."""
    if one == other:
        return True
    words, others = _NUMBER.split(one), _NUMBER.split(other)
    said, told = (torch.tensor([float(x) for x in _NUMBER.findall(text)]) for text in (one, other))
    return words == others and torch.allclose(said, told, rtol=1e-4, atol=1e-5)


def _measured(case: TaskCase, metric: str, size: int = 2048, task: Task | None = None) -> Any:
    return evaluate(case.model, case.reader, task or case.task, case.rows, metric, batch_tokens=size)


def what_is_right_is_shown_as_right(case: TaskCase) -> None:
    """Each result's reference is what the example says is right of its row."""
    assert case.example.right is not None
    found = [r.reference for r in _measured(case, case.task.default_metric(case.rows))]
    rows = [*case.example.rows[:-3], *case.example.rows[-3:]]
    wanted = [case.example.right(row) for row in rows]
    assert found == wanted, f"rows' references are {found[:2]}, and {wanted[:2]} is right"


def the_metric_counts_answers(case: TaskCase) -> None:
    """The headline over all rows is what the example counts of the answers."""
    assert case.example.figure is not None
    metric = case.task.default_metric(case.rows)
    results = _measured(case, metric)
    counted = case.example.figure([(r.answer, r.reference) for r in results])
    value = summary(results, metric).value
    assert abs(value - counted) < 1e-6, f"{metric} is {value:.6f}, and counted otherwise {counted:.6f}"


def certain_outputs_score_in_full(case: TaskCase) -> None:
    """Outputs that are sure of the labels answer right and score 1; sure of another class, they score less."""
    metric = case.task.default_metric(case.rows)
    for shift, full in ((0, True), (1, False)):
        results = _measured(case, metric, task=_sure(case.task, shift))
        value = summary(results, metric).value
        assert (value == 1.0) == full, f"sure of {'another class' if shift else 'the labels'}, {metric} is {value:g}"
        assert all(r.answer == r.reference for r in results) == full, "answers and references do not tell it"


def _sure(task: Task, shift: int) -> Task:
    """The task with outputs that put all on the label, or on the class behind it."""

    class Sure(type(task)):  # type: ignore[misc]
        def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
            out = task.forward(model, batch, hidden=hidden)
            classes = out.logits.shape[-1]
            return Outputs(
                20.0 * nn.functional.one_hot((batch.labels + shift) % classes, classes).float(), batch.labels
            )

    return Sure()


def answers_are_the_models_own(case: TaskCase) -> None:
    """Answers written in batches are those of the library's own generation, row by row."""
    metric = case.task.default_metric(case.rows)
    assert get_metric(metric).kind == "generated", "the example's rows have no answers: give it some that have"
    results, model = _measured(case, metric), case.model
    most = answer_length(case.rows)
    for row, result in zip(case.rows, results, strict=True):
        ends = list(stop_ids(model, case.reader))
        if case.task.reads_audio:
            said = _heard(model, row, most, ends, case.reader)
        elif "shown" in row.fields:
            said = _seen(model, case.task.collate([row]).inputs, row, most, ends, case.reader)
        else:
            said = _generated(model, torch.tensor([list(row.fields["prompt_ids"])]), most, ends, case.reader)
        assert result.answer == said, f"{row.id}: the answer is {result.answer!r}, and generate writes {said!r}"


def _generated(model: Any, ids: Tensor, most: int, ends: Sequence[int], reader: Any) -> str:
    with torch.no_grad():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=most,
            do_sample=False,
            eos_token_id=list(ends),
            pad_token_id=reader.pad_token_id,
        )[0]
    new = out if model.config.is_encoder_decoder else out[ids.shape[1] :]
    return str(reader.decode(new, skip_special_tokens=True))


def _seen(model: Any, inputs: Mapping[str, Tensor], row: Row, most: int, ends: Sequence[int], reader: Any) -> str:
    """What generate writes behind a row's prompt, whose pictures are those that its processor made."""
    length = len(row.fields["prompt_ids"])
    given = {n: x[:, :length] if x.shape[1:] == inputs["input_ids"].shape[1:] else x for n, x in inputs.items()}
    given = {n: x for n, x in given.items() if takes(model, n)}
    how: dict[str, Any] = {"do_sample": False, "eos_token_id": list(ends), "pad_token_id": reader.pad_token_id}
    out = model.generate(**given, max_new_tokens=most, **how)[0]
    return str(reader.decode(out[length:], skip_special_tokens=True))


def _heard(model: Any, row: Row, most: int, ends: Sequence[int], reader: Any) -> str:
    heard = features([row.fields["audio"]], row.fields["extractor"])
    out = model.generate(**heard, max_new_tokens=most, do_sample=False)[0].tolist()
    before = list(row.fields["prompt_ids"])
    out = out[len(before) :] if out[: len(before)] == before else out
    return str(
        reader.decode(out[: next((i for i, t in enumerate(out) if t in ends), len(out))], skip_special_tokens=True)
    )


def _always(case: TaskCase) -> bool:
    return True


def _has_kind(case: TaskCase) -> bool:
    return bool(case.task.kind)


def _reads_tokens(case: TaskCase) -> bool:
    return not case.task.reads_files and len(case.rows[0].input_ids) > 0


def _says_right(case: TaskCase) -> bool:
    return case.example.right is not None


def _counts(case: TaskCase) -> bool:
    return case.example.figure is not None


def _of_classes(case: TaskCase) -> bool:
    return case.task.labelled and not case.task.multi_label and case.task.likelihoods


def _writes(case: TaskCase) -> bool:
    return case.task.generates


CHECKS = [
    Check("declarations are whole", _always, declarations_are_whole),
    Check("it is what its kind says", _has_kind, it_is_what_its_kind_says),
    Check("rows differ in length", _reads_tokens, rows_differ_in_length),
    Check("alone as beside others", _always, alone_as_beside_others),
    Check("outputs fit one another", _always, outputs_fit_one_another),
    Check("a gradient reaches the model", _always, a_gradient_reaches_the_model),
    Check("measuring keeps the order", _always, measuring_keeps_the_order),
    Check("what is right is shown as right", _says_right, what_is_right_is_shown_as_right),
    Check("the metric counts answers", _counts, the_metric_counts_answers),
    Check("certain outputs score in full", _of_classes, certain_outputs_score_in_full),
    Check("answers are the model's own", _writes, answers_are_the_models_own),
]
