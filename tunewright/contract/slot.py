"""The places in the life of a model where methods plug in, as data: what each offers and wants back.

`docs/contract.md` and `tunewright methods --slots` are made from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Several = Literal["one", "in order", "weighted sum", "sum", "product", "one per site, else a stack", "one per group"]

ARGUMENTS: dict[str, str] = {
    "adapted": "Adapted: the model under adaptation, with its structure, deltas and way back to the base",
    "base": "Tensor, float32: the base's value of the tensor",
    "batch": "Batch: rows side by side; `labels`, `weights` and `rows` [S], `row_ids` [R], `inputs` of the model",
    "candidates": "Candidates: every parameter that could train, by name, kind and block",
    "forward": "Callable[..., Outputs]: runs the model again: `forward(batch, base=, start=, weights=, grad=)`",
    "depth": "float | None: depth of the tensor's block, 0 (first) to 1 (last); None outside blocks",
    "model": "nn.Module: the model as transformers loaded it",
    "name": "str: the tensor's name in the model's state",
    "needs": "Needs: what `needs()` asked for, by attribute: `needs.base_logits`",
    "parameters": "dict[str, Tensor]: trained tensors by name",
    "plan": "Plan: the stage's steps, tokens, learning rate, warm-up and sources",
    "record": "Record: a row's columns in one of the canonical shapes, with `id`, `where` and `source`",
    "records": "Sequence[Record]: the rows that would be trained on",
    "rng": "random.Random: the method's own generator for draws about weights, saved with a checkpoint",
    "row_rng": "Callable[[int], random.Random]: of the batch's i-th row, the same however rows are packed",
    "samples": "Sequence[Sample]: what the model wrote, with prompt, ids, log-probabilities and text",
    "site": "Site: a layer that may carry a delta, or a whole block: `name`, `kind`, `weight` [out, in], `block`",
    "stage": "str: the stage's name",
    "state": "State: what `setup()` returned: parameters, buffers and `data` (JSON), saved with a checkpoint",
    "step": "int: the optimizer step, from 0",
    "structure": "Structure: the model's blocks and sites",
    "tokenizer": "the model's tokenizer; None where the task has none",
    "validation": "Validation: rows that choices are made on: `gradients()`, `losses()`, `next_batch()`",
}
"""Types and shapes of arguments that mean the same in every slot. S labels, R rows, V vocabulary or classes."""


@dataclass(frozen=True)
class Slot:
    """A place where methods plug in.

    `offers`: names of the arguments that a method's function may ask for. `own`: type and shape of those that mean
    something in this slot alone. `gives`: what the function returns. `when`: when it is called. `several`: how methods
    on one slot combine; "one": two methods are refused before anything is loaded. `training`: the loop drives it.
    A method in a few lines for each slot stands in `tunewright/conformance/examples/`.
    """

    name: str
    does: str
    offers: tuple[str, ...]
    several: Several
    gives: str
    when: str
    own: Mapping[str, str] = field(default_factory=dict)
    training: bool = True

    def argument(self, name: str) -> str:
        """Type and shape of one of the arguments that it offers."""
        return self.own.get(name) or ARGUMENTS[name]


_TRAINING = (
    Slot(
        "prepare",
        "edits model and tokenizer before training, or changes the model's shape",
        ("model", "tokenizer", "structure", "needs", "rng"),
        "in order",
        "None: the model is edited in place. Or a Surgery, or several in order, of a method that declares `reshapes`: "
        "they are done, recorded, and done again from files",
        "once per stage, before `setup`, edits before surgeries; the structure is looked at again afterwards",
        own={
            "needs": 'Needs: those of `when = "prepare"`, of the weights before the edit; for a Surgery alone',
            "structure": "Structure: the model's blocks and sites before the edit",
        },
    ),
    Slot(
        "attach",
        "gives a site its delta, initialised; None passes",
        ("site", "needs", "state", "rng"),
        "one per site, else a stack",
        "Delta | None: what hangs on the site from then on",
        "once per stage for every site and then for every block (kind `block`), after `setup`",
    ),
    Slot(
        "wrap",
        "replaces the model's forward by one of its own",
        ("model", "structure", "needs", "state", "rng"),
        "one",
        "nn.Module: called with the model's own keywords, gives the model's own output type",
        "once per stage, after `attach`, and again when a finished stage is read",
    ),
    Slot(
        "choose",
        "names what trains until the next drawing",
        ("candidates", "step", "plan", "needs", "state", "rng"),
        "one",
        "Choice: parameter names, or sorted flat indices of some of their entries; and when to draw again",
        "before the first step, and at every step that `Choice.redraw_every` names",
    ),
    Slot(
        "example",
        "changes a record before it is encoded",
        ("record", "rng"),
        "in order",
        "Record | None: a changed copy (`record.replace(...)`); None leaves it as it is",
        "once per stage for every record that the stage trains on, before encoding",
        own={"rng": "random.Random: the record's own generator, keyed by (seed, method, record id)"},
    ),
    Slot(
        "row",
        "changes an encoded row before rows are laid side by side",
        ("row", "step", "plan", "state", "row_rng"),
        "in order",
        "Row | None: a changed copy (`row.replace(input_ids=..., weights=...)`) of the same id and of any length; None "
        "leaves it as it is",
        "every time a row is trained on, anew in each epoch; budgets count the row as it was",
        own={
            "row": "Row: `input_ids` and the loss `weights` of predicting each; what an objective reads in `fields`",
            "row_rng": "random.Random: the row's own generator, keyed by (seed, method, epoch, row id)",
        },
    ),
    Slot(
        "batch",
        "changes a batch after packing",
        ("batch", "step", "plan", "needs", "state", "row_rng"),
        "in order",
        "Batch | None: a changed copy (`batch.replace(...)`); None leaves it as it is",
        "every micro-batch, before it goes to the device",
    ),
    Slot(
        "rollout",
        "turns prompts into rows to train on",
        ("prompts", "generate", "score", "token_rewards", "read", "step", "needs", "state", "row_rng"),
        "one",
        "Rollout: rows to train on, each with the place of its prompt, and for how many steps",
        "every optimizer step that has no rows left from an earlier rollout",
        own={
            "prompts": "Sequence[Row]: the step's rows; `fields['prompt_ids']` holds each one's prompt",
            "generate": "Callable[[count, max_new_tokens, temperature], list[list[Sample]]]: samples of each prompt",
            "score": "Callable[[Sequence[Sample]], list[float]]: the weighted sum of the stage's rewards",
            "token_rewards": "Callable[[Sequence[Sample]], list[list[float]]]: the same for each token; what is given "
            "for a whole sample lies at its last one",
            "read": "Callable[..., list[list[float]]]: runs the model over rows without gradient: `read(rows, of, at=, "
            "hidden=)`, where `of(outputs, batch)` gives [S] and `at` is now, start or base",
            "row_rng": "Callable[[int], random.Random]: the generator of the i-th prompt",
        },
    ),
    Slot(
        "reward",
        "scores samples, one number each, or one a token",
        ("samples", "needs", "state"),
        "weighted sum",
        "Sequence[float] | Tensor [N]: a finite number per sample; or Sequence[Sequence[float]], one per sampled token",
        "when the stage's `rollout` method, or a `synthesize` method beside it, asks for scores; once for each sample",
    ),
    Slot(
        "objective",
        "what is minimised, per token or per row",
        ("outputs", "batch", "forward", "needs", "step", "plan", "state"),
        "weighted sum",
        "Loss: `value` [N] per target, per row (`couples = 'row'`), or of the whole batch (`couples = 'batch'`)",
        "every micro-batch, after the forward; a field `weight` scales it in the sum",
        own={"outputs": "Outputs: `log_probs()` [S], `logits` [S, V], `hidden` and `features` where asked for"},
    ),
    Slot(
        "penalty",
        "what is held back, a scalar once per optimizer step",
        ("weights", "needs", "step", "plan", "state"),
        "sum",
        "Tensor []: added to the step's loss; its gradient is formed once per step",
        "once per optimizer step, after the micro-batches",
        own={
            "weights": "dict[str, TrainedWeight]: of sites that train; `change()` [out, in] since the stage began "
            "where it is `foldable`, and all trained `parameters` of its deltas"
        },
    ),
    Slot(
        "gradient",
        "changes gradients before clipping",
        ("gradients", "parameters", "step", "plan", "needs", "state"),
        "in order",
        "dict[str, Tensor]: gradients by name; a name that is left out does not move; None keeps all",
        "once per optimizer step, before clipping",
        own={
            "gradients": "dict[str, Tensor]: gradients by parameter name, shaped as what trains",
            "parameters": "dict[str, Tensor]: present values by name, shaped as what trains",
        },
    ),
    Slot(
        "optimizer",
        "makes the optimizer of a parameter group",
        ("parameters", "learning_rate", "weight_decay", "structure", "plan", "state"),
        "one per group",
        "torch.optim.Optimizer, or a list of them, over exactly these parameters; its groups' `lr` is the rate",
        "when a stage begins, and after every drawing; a field `group` (base, delta, owned) claims one group",
        own={
            "parameters": "dict[str, nn.Parameter]: the group's leaves by name; [k] where k entries of one train",
            "learning_rate": "float: of the recipe",
            "weight_decay": "float: of the recipe",
        },
    ),
    Slot(
        "rates",
        "gives factors of the learning rate by parameter",
        ("parameters", "structure", "plan", "needs", "state"),
        "product",
        "dict[str, float]: a factor of 0 or more by parameter name; a name that is left out keeps its rate",
        "when a stage begins, and after every drawing; beside any optimizer and schedule",
    ),
    Slot(
        "update",
        "changes the optimizer's proposed step",
        ("changes", "parameters", "validation", "step", "plan", "needs", "state"),
        "in order",
        "dict[str, Tensor]: changes by name, added to the parameters; None keeps them",
        "once per optimizer step, after the optimizer",
        own={
            "changes": "dict[str, Tensor]: what the optimizer added, by name",
            "parameters": "dict[str, Tensor]: values before the step, by name",
        },
    ),
    Slot(
        "schedule",
        "gives the learning rate's factor at a step",
        ("step", "plan", "state"),
        "one",
        'float | dict[str, float]: the factor for all, or by parameter name (others by the entry "")',
        "once per optimizer step, in the place of `train.lr_scheduler_type`",
    ),
    Slot(
        "mixture",
        "gives the next weights of the sources",
        ("weights", "progress", "validation", "step", "plan", "needs", "state"),
        "one",
        "dict[str, float] | None: a share per source (they need not sum to 1); None keeps them",
        "before the first batch and after every optimizer step",
        own={
            "weights": "dict[str, float]: present shares by source",
            "progress": "dict[str, float]: what the last step logged; empty before the first",
        },
    ),
    Slot(
        "average",
        "gives the weights that are kept",
        ("averaged", "parameters", "step", "plan", "state"),
        "one",
        "dict[str, Tensor]: the average by name; it takes the weights' place when the stage ends",
        "once per optimizer step",
        own={"averaged": "dict[str, Tensor]: the weights that are kept so far, by parameter name"},
    ),
    Slot(
        "step",
        "owns the whole inner step",
        ("inner", "adapted", "validation", "step", "plan", "needs", "state"),
        "one",
        "None: the last `inner.gradients()` or `inner.leave` leaves the gradients with which the optimizer steps",
        "once per optimizer step, in the place of one forward and backward",
        own={"inner": "Inner: `gradients(also=)`, `gradients_of(rows)`, `leave`, `moved()`; or `reading()` and `tell`"},
    ),
    Slot(
        "begin_task",
        "is told that a task or stage begins",
        ("stage", "adapted", "needs", "state", "rng"),
        "in order",
        "None",
        "once per stage, after everything is set up and before the first step",
    ),
    Slot(
        "end_task",
        "is told that a task or stage ends",
        ("stage", "adapted", "needs", "state", "rng"),
        "in order",
        "None",
        "once per stage, after the last step and before the stage is saved",
    ),
    Slot(
        "after_step",
        "is told that an optimizer step is done",
        ("step", "plan", "adapted", "parameters", "state"),
        "in order",
        "None",
        "once per optimizer step, after everything else",
        own={"step": "int: optimizer steps that are done, from 1"},
    ),
)

_BESIDE = (
    Slot(
        "synthesize",
        "makes the records that a stage trains on",
        ("records", "writers", "readers", "score", "labels", "round", "rng"),
        "in order",
        "Sequence[Made]: what is trained on and what was thrown away, with the record that each was made from; a "
        "record of the stage that is to stay is made as well: `Made(dict(record), of=record)`",
        "once per stage, when it begins, before selectors; a method after another is given what that one made",
        own={
            "records": "Sequence[Record]: the rows of `data.train`; they need no answer and no label where the method "
            "has a `stand_in`",
            "writers": "dict[str, Writer]: of each model that `speakers()` names: `generate(prompts, count=, "
            "max_new_tokens=, temperature=)` gives the answers to each prompt",
            "readers": "dict[str, Reader]: of each model that `speakers()` names, as a selector has them",
            "score": "Callable[[Sequence[tuple[Record, str]]], list[float]]: the weighted sum of what the judges (the "
            "rewards beside it) give answers to records",
            "labels": "tuple[str, ...] | None: the classes' names in the order of their ids; None where there are none",
            "round": "int: which of the stage's rounds it is, from 1",
            "rng": "random.Random: drawn from the seed, the stage and the method's name",
        },
        training=False,
    ),
    Slot(
        "select",
        "scores records, or orders a subset of them",
        ("records", "target", "readers", "rng"),
        "in order",
        "Sequence[int]: indices of the records to keep, in order; or (indices, weights), each weight above 0; or "
        "Selected: with scores and reasons, which are kept on disk",
        "once per stage, on what the selector before it left: when the recipe is read or, from the first selector on "
        "that asks for `readers`, when the stage begins",
        own={
            "target": "Sequence[Record]: what is to be learnt; never the rows that the run is measured on",
            "readers": "dict[str, Reader]: a reader of records for each model that `speakers()` names ('start', or "
            "one of the recipe's `models`): `losses(records)`, `embeddings(records)`, `read(records, reading)`",
            "rng": "random.Random: drawn from the seed, the stage and the selector's name",
        },
        training=False,
    ),
    Slot(
        "merge",
        "tensors of several models -> one tensor",
        ("name", "base", "tensors", "each", "depth", "needs", "rng"),
        "in order",
        "Tensor, float32, of the tensors' shape; the inputs must not be changed",
        "for every tensor, in any order and in several threads",
        own={
            "base": "Tensor | None, float32: the base's value of the tensor",
            "tensors": "Sequence[Tensor], float32: the models' values, in the order they were named",
            "each": "Sequence[Mapping[str, Any]]: per model the parameters that may differ from model to model",
            "rng": "random.Random: drawn from the seed and the tensor's name",
        },
        training=False,
    ),
    Slot(
        "edit",
        "a model's change -> another change, tensor by tensor",
        ("name", "base", "change", "depth"),
        "in order",
        "Tensor of the change's shape and type",
        "for every tensor that training changed, after training",
        own={"base": "Tensor: the base's value of the tensor", "change": "Tensor: tuned minus base"},
        training=False,
    ),
    Slot(
        "predict",
        "logits while decoding: those of its speakers, {name: [.., V]} -> [.., V]",
        ("logits", "state"),
        "in order",
        "Tensor [.., V]: the logits that are decoded from",
        "at every token; `speakers()` names the models that are asked: tuned, base, or one of the recipe's `models`",
        own={"logits": "Mapping[str, Tensor [.., V]]: each speaker's logits by its name"},
        training=False,
    ),
    Slot(
        "adapt",
        "answers rows that have no labels, and may learn from them",
        ("batch", "forward", "weights", "model", "structure", "step", "state", "row_rng", "rng"),
        "one",
        "Tensor [R, V]: the logits (or log-probabilities) by which the batch's rows are judged, in their order",
        "at every batch of the test-time stream, in its order; `adapts(candidates)` names what it may change",
        own={
            "batch": "Unlabelled: the batch's inputs, ids and sources; asking for its labels is an error",
            "forward": "Callable[..., Outputs]: runs the model: `forward(batch, grad=, source=, weights=, "
            "batch_statistics=, path=, hidden=)`",
            "weights": "Moving: what may change, by name: `parameters`, their `source` values, `descend(loss, make)`",
            "step": "int: the batch of the stream, from 0",
        },
        training=False,
    ),
    Slot(
        "probe",
        "measures base and tuned weights or answers",
        ("base", "tuned", "structure"),
        "in order",
        "ProbeResult: single values and one table, with what they mean",
        "once per run, after the tuned model was measured",
        own={
            "base": "Side: `weights` (by name), `answers`, a classifier's `features`; each made when asked for",
            "tuned": "Side: the tuned model's",
        },
        training=False,
    ),
)

SLOTS: dict[str, Slot] = {s.name: s for s in (*_TRAINING, *_BESIDE)}
"""The slots by name. A new one needs three methods waiting for it."""

TRAINING_SLOTS = tuple(n for n, s in SLOTS.items() if s.training)
