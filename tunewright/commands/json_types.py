"""What each verb prints with `--json`, as types: `tunewright schema VERB` and docs/json.md are made of them."""

from __future__ import annotations

import importlib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, TypeAdapter

from tunewright.compare.suggested import Candidate, Refused
from tunewright.contract.records import Problem
from tunewright.data.check import Notice, SourceReport
from tunewright.data.view import Token
from tunewright.planning.planned import Ends, SourcePlan, StagePlan
from tunewright.planning.subset import SelectorFigures
from tunewright.report.gated import Gate
from tunewright.shipping.comparing import Compared
from tunewright.shipping.extracting import Layer, LeftOut
from tunewright.trials.tuned import Tried


class Answer(BaseModel):
    """What a verb prints; nothing else stands beside the fields."""

    model_config = ConfigDict(extra="forbid")


class StageTime(Answer):
    """What a stage is foreseen to take: seconds, bytes, tokens."""

    name: str
    steps: int
    tokens: int
    exact: bool = Field(description="whether steps are exact")
    set_up: float = Field(description="seconds before the first step")
    seconds_per_token: float
    train: float = Field(description="seconds of all its training")
    checkpoint: int = Field(description="bytes of one checkpoint")
    kept: int = Field(description="bytes that the finished stage leaves")
    losses: list[float] = Field(description="of the steps that were tried")
    weights: int = Field(description="bytes of the model in a process")
    gradients: int = Field(description="bytes")
    state: int = Field(description="bytes of the optimizer and of methods")
    kept_for_backward: int = Field(description="bytes that a micro-batch keeps for its backward")
    micro_tokens: float = Field(description="tokens of a micro-batch")
    step_tokens: float = Field(description="tokens of a step")
    flops_per_token: float = Field(description="operations, forward and backward")
    divisible: int = Field(description="bytes of weights that train.fsdp divides among processes")
    together: int = Field(description="bytes of them that are brought together at once")
    divisible_gradients: int = Field(description="bytes of their gradients")


class StageOn(Answer):
    """What a stage takes on machines, on paper: bytes of one process, and seconds."""

    name: str
    weights: int
    gradients: int
    state: int
    kept: int = Field(description="bytes that a micro-batch keeps for its backward")
    spare: int = Field(description="bytes on top, for what torch and the driver need")
    fastest: float = Field(description="seconds of training at best")
    slowest: float = Field(description="seconds of training at worst")
    summing: float = Field(description="of them, seconds of summing gradients, and of bringing weights together")
    memory: int = Field(description="bytes in all")


class OnMachines(Answer):
    """`plan --on`: whether a run fits on machines that were named, and how long its training is there."""

    machines: str
    count: int
    memory: int = Field(description="bytes of each")
    precision: str
    stages: list[StageOn]
    divided: bool = Field(description="whether weights were reckoned as divided (train.fsdp)")
    needs: int = Field(description="bytes of the largest stage")
    fits: bool


class Estimated(Answer):
    """A whole run's seconds and bytes."""

    stages: list[StageTime]
    base: float = Field(description="seconds to measure the base")
    cached: bool = Field(description="whether the base was measured before")
    tuned: float = Field(description="seconds to measure the tuned model")
    dial: float = Field(description="seconds to measure strengths")
    evaluations: float = Field(description="seconds of evaluations while training")
    between: float = Field(description="seconds to measure after stages but the last")
    disk: int = Field(description="bytes")
    peak_memory: int = Field(description="bytes, of the process")
    peak_cuda: int | None = Field(description="bytes, of the GPU")
    train: float = Field(description="seconds of training")
    total: float = Field(description="seconds from start to end")
    probe_steps: int = Field(description="steps that were tried to measure this")


class Plan(Answer):
    """`plan`: what a run would train, how long and in how much memory."""

    model: dict[str, Any]
    task: str
    device: str
    precision: str
    packed: bool
    notes: list[str]
    sources: list[SourcePlan]
    ends: Ends | None
    measured: int = Field(description="rows that gain may be measured on")
    leak: float | None = Field(description="between packed rows: difference of logits over their standard deviation")
    leak_limit: float
    view: dict[str, list[Token]] = Field(description="source -> an example, token by token")
    stages: list[StagePlan]
    load: float = Field(description="seconds")
    memory: int | None = Field(description="bytes that are free")
    estimate: Estimated
    on: OnMachines | None = Field(description="with --on")


class Check(Answer):
    """`check`: whether a run would take recipe and rows (exit code 0), and if not, why."""

    ok: bool
    sources: list[SourceReport]
    problems: list[Problem] = Field(description="rows that cannot be used")
    skipped: list[Problem] = Field(description="bad rows that the recipe has a run leave out")
    notices: list[Notice] = Field(description="what can be used and should be looked at")
    refusals: list[str] = Field(description="what ends a run beside bad rows")
    cautions: list[str]
    columns: str
    announced: list[str] = Field(
        description="what models will read or make when the run has them: nothing is asked here"
    )
    written: list[str] = Field(description="files of --clean")


class Suggested(Answer):
    """`suggest`: methods that a recipe's model and rows allow, fewest trained numbers first, and what to compare."""

    model: str
    parameters: int
    task: str
    rows: int = Field(description="that are trained on")
    stages: int = Field(description="of the recipe, of which the first was reckoned with")
    memory: int | None = Field(description="bytes that were reckoned with")
    candidates: list[Candidate]
    refused: list[Refused] = Field(description="what cannot be used, and what it says")
    compare: list[str] = Field(description="the few of them to compare")
    command: str | None = Field(description="the comparison; none: there is nothing to compare, or several stages")


class Plans(Answer):
    """`plan` of several adapters: each as if it were alone."""

    load: float = Field(description="seconds to load the base and all rows")
    total: float = Field(description="seconds at most: what is computed for several at once takes less")
    peak_memory: int = Field(description="bytes, of the process")
    adapters: dict[str, Plan]


class Checks(Answer):
    """`check` of several adapters, by name."""

    ok: bool
    adapters: dict[str, Check]


class Tuned(Answer):
    """`tune`: settings that were tried, the recipe's own first."""

    metric: str
    direction: str
    rows: int | None = Field(description="rows that each run was judged on")
    seeds: int = Field(description="runs of each setting, each judged on other rows; scores are their means")
    best: Tried | None
    tried: list[Tried]
    stopped: str | None
    written: str | None = Field(description="the recipe with the best values")


class Gated(Gate):
    """`gate`: one line; exit code 0 (pass), 10 (fails) or 11 (cannot tell)."""

    of: str = Field(description="what was judged")


class Talked(Answer):
    """`chat --json`: one line for each line of input."""

    prompt: str
    base: str
    tuned: str
    strength: float = Field(description="how far from base (0) to tuned (1) `tuned` is dialled")


class Exported(Answer):
    """`export` (to transformers): logits of the folder against the run's own, on `rows` rows."""

    folder: str
    reloaded: float = Field(description="largest difference between the folder, loaded anew, and the folded model")
    folded: float = Field(description="largest difference between the folded model and the run's own")
    spread: float = Field(description="standard deviation of the logits")
    rows: int
    warnings: list[str] = Field(description="why servers cannot take the change as an adapter")
    notes: list[str]


class Shipped(Answer):
    """`export --to FORMAT`: what was written and checked."""

    format: str
    path: str
    files: list[str]
    checks: list[str] = Field(description="sentences")
    figures: dict[str, Any] = Field(description="the same in numbers, by format")
    notes: list[str]


class Serving(Answer):
    """`serve`, as soon as it serves: one line."""

    address: str
    model: str
    adapters: int = Field(description="how many it found")


class Board(Answer):
    """`board`, as soon as it serves."""

    address: str
    folder: str
    token: str | None = Field(description="with --allow-run: what the page needs to start runs")


class Fused(Answer):
    """`fuse`."""

    folder: str
    tensors: int
    changed: int = Field(description="tensors that the change touches")
    dtype: str
    seconds: float
    logits: Compared | None = Field(description="against the base with the change in float32")
    notes: list[str]


class Extracted(Answer):
    """`extract-lora`: errors as ratios of Frobenius norms."""

    folder: str
    rank: int
    layers: list[Layer]
    left_out: list[LeftOut]
    equal: int = Field(description="tensors that are the same in both models")
    missed: float = Field(description="part of the whole change that the adapter misses")
    apart: Compared | None = Field(description="the first model against the second")
    missing: Compared | None = Field(description="the first with the adapter against the second")
    notes: list[str]


class Chosen(Answer):
    """`select`: what each selector kept and why the others went; rows, tokens, seconds and FLOPs."""

    folder: str
    files: list[str] = Field(description="of the rows that are kept, in the folder")
    scores: str = Field(description="the file of scores, a line a row, in the folder")
    rows: int
    kept: int
    left_out: int = Field(description="rows that no selector was offered: a run would not train on them")
    target: int = Field(description="rows that were aimed at")
    selectors: list[SelectorFigures]
    model: str | None = Field(description="that read rows; null: none did")
    seconds: float
    tokens: int = Field(description="that models read")
    flops: float = Field(description="that were counted while they did")
    notes: list[str]


class Pushed(Answer):
    """`push`."""

    repo: str
    kind: Literal["adapter", "model"]
    private: bool
    files: dict[str, int] = Field(description="name -> bytes")
    card: str = Field(description="README.md")
    dry_run: bool
    url: str | None = Field(description="of the commit")
    left_out: list[str] = Field(description="files that may not go")
    notes: list[str]


class Merged(Answer):
    """`merge`."""

    folder: str
    tensors: int
    values: int
    seconds: float
    forward_seconds: float | None
    reused: int = Field(description="tensors that were there from an earlier try")
    notes: list[str]


class Begun(Answer):
    """`init`: the recipe that was written, and what to do next."""

    recipe: str
    task: str
    next: list[str]


class Found(Answer):
    """A line of `doctor`."""

    name: str
    status: str = Field(description="ok, note or missing")
    detail: str
    remedy: str | None


class Held(Answer):
    """A run of `runs list`; figures of runs that are not finished are null."""

    folder: str
    state: Literal["finished", "pruned", "running", "interrupted", "unreadable"]
    bytes: int
    model: str
    task: str
    methods: list[str]
    metric: str
    unit: str
    target: tuple[float, float, float | None, float | None] | None = Field(
        description="before, after, low and high of the difference"
    )
    kept: float | None = Field(description="the largest loss of a kept text")
    kept_name: str
    kept_unit: str
    drift: float | None
    gate: str
    seconds: float | None
    started: str
    problem: str
    parts: dict[str, int] = Field(description="file or folder -> bytes")
    gain: float | None


class Going(Answer):
    """A run of `runs prune`."""

    folder: str
    removes: list[str]
    bytes: int
    stays_for: str


class Pruned(Answer):
    """`runs prune`."""

    removed: bool = Field(description="false: it was only said what would go")
    freed: int = Field(description="bytes")
    runs: list[Going]


class Methods(RootModel[list[dict[str, Any]] | dict[str, Any]]):
    """`methods`: a list of all (name, room, category, summary, slots, parameters, needs, papers), or one of them."""


class Card(BaseModel):
    """A paper of `papers list` and `papers show`; `show` has `similar` too."""

    slug: str
    title: str
    name: str
    family: str
    kind: str
    modality: str
    mechanism: str
    claim: str
    tags: list[str]


class Verdict(BaseModel):
    """A claim of `papers run` and `papers verdicts`."""

    claim: str
    paper: str
    scale: str
    verdict: str | None


class Checked(BaseModel):
    """A claim of `papers check`: whether its verdict speaks of today's code."""

    claim: str
    scale: str
    stale: list[Any]
    outcome: str
    differs: list[Any]
    seconds: float


REPORTS = ("tunewright.report.schema:Report", "tunewright.report.adapters:AdaptersSummary")
"""What a run of one change prints, and one of several adapters."""
TYPES: dict[str, Any] = {
    "run": REPORTS,
    "resume": REPORTS,
    "plan": Plan | Plans,
    "check": Check | Checks,
    "suggest": Suggested,
    "select": Chosen,
    "tune": Tuned,
    "compare": "tunewright.compare.result:Comparison",
    "fit-laws": "tunewright.laws.fit_laws:Laws",
    "measure": "tunewright.paired.result:Pair",
    "gate": Gated,
    "chat": Talked,
    "export": Exported | Shipped,
    "serve": Serving,
    "board": Board,
    "fuse": Fused,
    "extract-lora": Extracted,
    "push": Pushed,
    "methods": Methods,
    "merge": Merged,
    "init": Begun,
    "doctor": list[Found],
    "runs list": list[Held],
    "runs prune": Pruned,
    "papers list": list[Card],
    "papers show": Card,
    "papers run": list[Verdict],
    "papers verdicts": list[Verdict],
    "papers check": list[Checked],
}
"""Verb -> type, or where it is; several places where it prints one of several."""
WITHOUT = {
    "mcp": "speaks the Model Context Protocol",
    "schema": "prints JSON Schema in any case",
}


def kinds_of(verb: str) -> tuple[Any, ...]:
    """The types of what a verb prints, of which a document is one."""
    kind = TYPES[verb]
    return tuple(_found(k) for k in kind) if isinstance(kind, tuple) else (_found(kind),)


def _found(kind: Any) -> Any:
    if not isinstance(kind, str):
        return kind
    module, _, name = kind.partition(":")
    return getattr(importlib.import_module(module), name)


def schema_of(verb: str) -> dict[str, Any]:
    """The JSON Schema of what a verb prints with `--json`."""
    first, *others = kinds_of(verb)
    for other in others:
        first = first | other
    return TypeAdapter(first).json_schema(mode="serialization")
