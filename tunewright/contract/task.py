"""What a task is: records to rows, rows to a batch, a batch through the model to outputs, outputs to a loss.

Shapes: T tokens of a packed batch, R rows, L longest row, S labels, V vocabulary or classes, D hidden size.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from torch import nn

from tunewright.contract.batch import Batch, Loss, Outputs, Row
from tunewright.contract.metric import Ranking
from tunewright.contract.records import Record
from tunewright.errors import DataError

SINGLE_LABEL, MULTI_LABEL, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
"""The problem types of classification, as transformers' configs name them."""


@dataclass(frozen=True)
class EncodeOptions:
    """How records become rows; part of the cache's key.

    `truncation` says what becomes of rows longer than `max_length`, see `data.truncate.fit_length`. `template` wraps
    the user's text: "Which topic?\\n{text}" (any column may be named). With `{completion}` in it, it is the whole text
    and no chat template is used. `kept`: the rows are kept text, of which nothing is learnt. `system`: None leaves the
    chat template as it is (some insert a default system turn), "" takes that default turn out, other text is a system
    turn for rows that have none. `chat`: whether prompts go through the chat template; None: when the tokenizer has
    one. `labels`: class names in the order of their ids. `image`: size, mean, std and how to resize, see
    `tasks.image_classification.image_options`. `audio`: rate, longest recording and feature extractor, see
    `tasks._features.audio_options`. `series`: what windows of time series are, see `tasks._series.series_options`.
    `trajectories`: what windows of episodes are, see `tasks._policies.options`. `table`: what a table's columns are and
    how cells are written, see `tasks._table`.
    """

    max_length: int = 1024
    truncation: Literal["auto", "drop", "split", "fail"] = "auto"
    template: str | None = None
    system: str | None = None
    chat: bool | None = None
    labels: tuple[str, ...] | None = None
    image: dict[str, Any] | None = None
    audio: dict[str, Any] | None = None
    series: dict[str, Any] | None = None
    trajectories: dict[str, Any] | None = None
    kept: bool = False
    table: dict[str, Any] | None = None

    def key(self) -> str:
        """A text that is equal exactly for equal options."""
        values = asdict(self)
        later = ("series", "trajectories", "table")
        return json.dumps({k: v for k, v in values.items() if k not in later or v is not None}, sort_keys=True)


class Task:
    """One of the hub's tasks. Instances hold no state.

    `auto_class` names the transformers class that loads its models, or diffusers' of one that `draws`. `packs`: rows
    may be packed without padding when the model's attention takes it. `generates`: answers are generated text.
    `labelled`: rows need `EncodeOptions.labels`, and the model's head has one output a label. `per_token`: that head
    gives an output a token and not one a row, so that a row has many targets (`Row.fields["targets"]`) and no
    `Row.label`. `multi_label`: a row has any number of the labels, and no `Row.label` but `Row.fields["target"]`.
    `outputs`: what the outputs of a head are called that has the same for all data (the start and the end of a span).
    `scores`: the head gives one number a text and no likelihoods; rows with two answers are read as pairs, whatever
    methods ask for. `embeds`: texts become vectors, compared by their cosine: no head, no likelihoods
    (`Outputs.embeddings`). `couples`: "batch" where a row's loss reads the other rows of its optimizer step, however
    the step is split. `draws`: the model draws pictures, and is loaded with diffusers from a folder of several parts
    (`loading.pipelines`). `reads_files`: records name other files, whose content counts. `reads_audio`: the column
    `audio` is read (rows with one are refused otherwise). `unit`: what the loss is in.

    `problem_types`: the problems that the task may be, by its rows or as the recipe says; `problem_type`: which it is.

    `kind`: the built-in task whose rows, batches and outputs this one's are like ("token-classification"): methods,
    metrics and needs that name that task serve this one too. Empty: it is like no other. What a kind promises,
    `tunewright.conformance.check_task` checks.
    """

    name: ClassVar[str]
    kind: ClassVar[str] = ""
    auto_class: ClassVar[str]
    packs: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    labelled: ClassVar[bool] = False
    per_token: ClassVar[bool] = False
    multi_label: ClassVar[bool] = False
    outputs: ClassVar[tuple[str, ...]] = ()
    scores: ClassVar[bool] = False
    embeds: ClassVar[bool] = False
    couples: ClassVar[Literal["token", "batch"]] = "token"
    draws: ClassVar[bool] = False
    reads_files: ClassVar[bool] = False
    reads_audio: ClassVar[bool] = False
    unit: ClassVar[str] = "nats per token"
    problem_type: ClassVar[str] = ""
    problem_types: ClassVar[tuple[str, ...]] = ()

    def is_a(self, name: str) -> bool:
        """Whether the task is the one of a name, or of its kind."""
        return name in (self.name, self.kind)

    @property
    def called(self) -> str:
        """The task's name, with its problem where that is another than one class a row."""
        return f"{self.name} ({self.problem_type})" if self.other_problem else self.name

    @property
    def other_problem(self) -> bool:
        """Whether the task is another problem than the one that methods mean which name it."""
        return self.problem_type in (MULTI_LABEL, REGRESSION)

    @property
    def makes_head(self) -> bool:
        """Whether the model's head is made for the task: one output a label, one number, or what `outputs` names."""
        return self.labelled or self.scores or bool(self.outputs)

    @property
    def pools(self) -> bool:
        """Whether the head reads one vector of features a row."""
        return (self.labelled or self.scores) and not self.per_token

    @property
    def classifies(self) -> bool:
        """Whether a row has one class."""
        return self.labelled and not self.per_token and not self.multi_label

    @property
    def continues(self) -> bool:
        """Whether a model writes on from what it is given, so that it can sample text from its beginning, be shown
        examples, and judge an answer behind its prompt. A task with a `write` of its own does not.
        """
        return self.generates and type(self).write is Task.write

    @property
    def ranks(self) -> bool:
        """Whether the task has a `rank` of its own, which metrics of the kind "ranked" read."""
        return type(self).rank is not Task.rank

    @property
    def likelihoods(self) -> bool:
        """Whether targets have likelihoods, which objectives and metrics of tokens read."""
        return not (self.scores or self.embeds)

    @property
    def predicts(self) -> bool:
        """Whether the task has a `predict` of its own, which metrics of the kind "predicted" read."""
        return type(self).predict is not Task.predict

    def head_of(self, labels: Sequence[str] | None) -> list[str] | None:
        """What the outputs of a head that is trained here are called; None where the task makes no head."""
        if self.outputs:
            return list(self.outputs)
        return ["reward"] if self.scores else list(labels) if self.labelled and labels is not None else None

    def label_values(self, record: Record) -> Sequence[Any]:
        """The labels that a record names, as they stand there; none where it has none. The head's classes are made of
        those of all rows, where the recipe does not give `data.labels`. What is wrong with them, `encode` says.
        """
        return [record.get("label")]

    def encode(self, record: Record, tokenizer: Any, options: EncodeOptions) -> Row:
        """Encode one record whole (length is the dataset's matter). Raises RowProblem(field, reason, remedy)."""
        raise NotImplementedError

    def encode_many(self, records: Sequence[Record], tokenizer: Any, options: EncodeOptions) -> list[Row | Exception]:
        """`encode` each record; what that raised stands in the place of its row."""
        out: list[Row | Exception] = []
        for record in records:
            try:
                out.append(self.encode(record, tokenizer, options))
            except Exception as error:  # of one record: the others are encoded all the same
                out.append(error)
        return out

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """Lay rows side by side. `epochs` (one per row, 0 without) and `seed` key draws about rows, such as masking."""
        raise NotImplementedError

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """Run the model. With `hidden`, all hidden states are kept."""
        raise NotImplementedError

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """Cross-entropy of each target, in nats."""
        return Loss(-outputs.log_probs())

    def predict(self, outputs: Outputs, batch: Batch, rows: Sequence[Row]) -> list[tuple[str, str]]:
        """(what the model says, what is right) of each row, as texts: what metrics of the kind "predicted" compare, and
        rows.jsonl and the report show.
        """
        raise NotImplementedError

    def rank(self, outputs: Outputs, batch: Batch, rows: Sequence[Row]) -> list[Ranking]:
        """What each row's query finds among the texts of all `rows`, which `outputs` and `batch` hold together: what
        metrics of the kind "ranked" read.
        """
        raise NotImplementedError

    def unit_of(self, config: Any) -> str:
        """What the loss of a model of a config is in: `unit`, where all models of a task have one."""
        return self.unit

    def loads_by(self, config: Any) -> str:
        """The class of transformers that loads a model of a config: `auto_class`, where a task has one alone."""
        return self.auto_class

    def compared(self, config: Any) -> Task:
        """The task by which two models' predictions are compared, place by place: itself, where outputs hold a
        distribution for each target, which objectives and drift read.
        """
        return self

    def asked(self, row: Row) -> Any:
        """What `write` is given of a row: the tokens of its prompt, or whatever else a model writes from (a recording).
        DataError for a row that asks nothing.
        """
        if not (ids := row.fields.get("prompt_ids")):
            what = "the row has no prompt, so nothing can be asked"
            remedy = "use metric: loss for plain text, or rows with prompt and completion"
            raise DataError(what, where=row.id, remedy=remedy)
        return ids

    def write(
        self, model: nn.Module, tokenizer: Any, prompts: Sequence[Any], max_new_tokens: int, **how: Any
    ) -> list[list[int]]:
        """Answers (token ids, without their end) to what `asked` gives of rows, greedily unless `how` (keywords of
        transformers' `generate`) or the model's generation config says otherwise. Where a task has none, answers are
        what a causal model writes behind `fields["prompt_ids"]`.
        """
        raise NotImplementedError

    def chance(self, row: Row) -> float | None:
        """How often an answer at random is right, where that is known without reading anything."""
        return None

    def beside(self, metric: str, rows: Sequence[Row]) -> tuple[str, ...]:
        """Further metrics of the same answers that a report shows beside a headline of evaluated rows, with those that
        the metric itself names.
        """
        return ()

    def default_metric(self, rows: Sequence[Row]) -> str:
        """The metric that is the target's headline when the recipe says `auto`."""
        return "loss"
