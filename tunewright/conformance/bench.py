"""The tiny set-up on which every method is checked: a model made on the spot, a few rows of random tokens, the real
loop.

One set-up a task. Nothing is downloaded, no tokenizer is used, and the global random state is left as it was.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from tunewright.conformance.upstream import upstream
from tunewright.contract.batch import Row
from tunewright.contract.combining import bind, check_conflicts
from tunewright.contract.left import Earlier, left_of
from tunewright.contract.method import Method, Plan
from tunewright.contract.needs import NeedContext, Provider
from tunewright.contract.pairs import rows_for
from tunewright.contract.record_change import record_change
from tunewright.contract.records import Record
from tunewright.contract.task import Task
from tunewright.data.order import Cursor
from tunewright.errors import MethodError
from tunewright.models import generators
from tunewright.models.adapted import Adapted
from tunewright.recipe import Budget, TrainSpec
from tunewright.runs.stages import end_stage
from tunewright.tasks import get_task
from tunewright.training.carry import apply_carry
from tunewright.training.judging import Judge
from tunewright.training.setting_up import set_up
from tunewright.training.stage import TrainingInputs
from tunewright.training.train import Loop

VOCABULARY, LABELS, WIDTH = 61, 3, 32
Named = Sequence[tuple[str, Method]]


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """Make a module from a seed, in evaluation mode."""
    with generators.seeded(seed):
        return make().eval()


def llama(seed: int = 0) -> nn.Module:
    """A causal model of two blocks: grouped-query attention, gated MLP, tied embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    config = LlamaConfig(
        vocab_size=VOCABULARY, max_position_embeddings=64, initializer_range=0.1, tie_word_embeddings=True, **sizes
    )
    return seeded(lambda: LlamaForCausalLM(config), seed)


def scorer(seed: int = 0) -> nn.Module:
    """A reward model: as `llama`, with one number at each token."""
    from transformers import LlamaForSequenceClassification

    plain: Any = llama(seed)
    plain.config.num_labels, plain.config.pad_token_id = 1, 0
    return seeded(lambda: LlamaForSequenceClassification(plain.config), seed)


def bert(head: str, seed: int = 0, labels: int = LABELS) -> nn.Module:
    """An encoder of two blocks without dropout, with a head of transformers' (`BertForMaskedLM` ...)."""
    import transformers

    sizes: dict[str, Any] = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    plain: dict[str, Any] = {
        "max_position_embeddings": 64,
        "num_labels": labels,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.1,
        "pad_token_id": 0,
    }
    config = transformers.BertConfig(vocab_size=VOCABULARY, **sizes, **plain)
    return seeded(lambda: getattr(transformers, head)(config), seed)


def token_rows(source: str, count: int, labelled: bool = False) -> list[Row]:
    """Rows of 5 to 11 random tokens; half of the tokens of each count in the loss."""
    rng = random.Random(f"rows/{source}")
    rows = []
    for i in range(count):
        ids = [rng.randrange(4, VOCABULARY) for _ in range(rng.randrange(5, 12))]
        weights = [1.0] if labelled else [0.0 if j < len(ids) // 2 else 1.0 for j in range(len(ids))]
        rows.append(
            Row(
                f"{source}:{i}",
                source,
                ids,
                weights,
                i % LABELS if labelled else None,
                {} if labelled else answers(f"{source}:{i}", ids),
            )
        )
    return rows


def answers(row: str, ids: list[int]) -> dict[str, Any]:
    """Fields of a token row: its prompt, its reference (there is no tokenizer: ids as numbers) and a rejected
    answer.
    """
    rng, start = random.Random(f"answers/{row}"), len(ids) // 2
    rejected = [rng.randrange(4, VOCABULARY) for _ in range(rng.randrange(2, 5))]
    weights = [0.0] * start + [1.0] * len(rejected)
    reference = " ".join(map(str, ids[start:]))
    return {
        "kind": "preference",
        "prompt_ids": ids[:start],
        "reference": reference,
        "rejected_ids": ids[:start] + rejected,
        "rejected_weights": weights,
    }


def compared(row: Row) -> Row:
    """A tiny row's two answers as a reward model reads them: each at its end."""
    rejected = row.fields["rejected_ids"]
    fields = {**row.fields, "kind": "scored", "rejected_weights": [0.0] * (len(rejected) - 1) + [1.0]}
    return replace(row, weights=[0.0] * (len(row.input_ids) - 1) + [1.0], fields=fields)


def vit(seed: int = 0) -> nn.Module:
    """A classifier of pictures [3, 8, 8] in four patches."""
    from transformers import ViTConfig, ViTForImageClassification

    sizes: dict[str, Any] = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_labels": LABELS,
    }
    plain: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.1}
    config = ViTConfig(image_size=8, patch_size=4, **sizes, **plain)
    return seeded(lambda: ViTForImageClassification(config), seed)


def picture_rows(source: str, count: int) -> list[Row]:
    """Rows of random pictures [3, 8, 8] with labels."""
    rng = np.random.default_rng(list(source.encode()))
    scaling = {"scale": 1 / 255, "mean": [0.5] * 3, "std": [0.5] * 3}
    pixels = rng.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)
    return [Row(f"{source}:{i}", source, (), [1.0], i % LABELS, {**scaling, "pixels": pixels[i]}) for i in range(count)]


def rows_of(task: Task, source: str, count: int) -> list[Row]:
    """Tiny rows of the task's kind."""
    if task.name == "image-classification":
        return picture_rows(source, count)
    if task.scores:
        return [compared(row) for row in token_rows(source, count)]
    return token_rows(source, count, task.labelled)


def number_tokenizer() -> Any:
    """A tokenizer whose text is the tokens' numbers: "5 17 3"."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({str(i): i for i in range(VOCABULARY)}, unk_token="0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="0", pad_token="0", eos_token="1")


def record_of(row: Row, labelled: bool, plain: bool = False) -> Record:
    """A tiny row as a user's record: tokens are numbers in its text. `plain`: as text alone, four numbers a line."""
    if plain:
        lines = [" ".join(map(str, row.input_ids[i : i + 4])) for i in range(0, len(row.input_ids), 4)]
        return Record({"text": "\n".join(lines)}, id=row.id, source=row.source)
    start = 0 if labelled else len(row.fields["prompt_ids"])
    texts = [" ".join(map(str, ids)) for ids in (row.input_ids[:start], row.input_ids[start:])]
    columns = {"text": texts[1], "label": row.label} if labelled else {"prompt": texts[0], "completion": texts[1]}
    return Record(columns, id=row.id, source=row.source)


def row_of(record: Record, row: Row) -> Row:
    """The row of a changed record; `row` is what it was before."""
    if "text" in record:
        ids = [int(t) for t in record["text"].split()]
        weights = row.weights if "label" in record else [1.0] * len(ids)
        return replace(row, input_ids=ids, label=record.get("label"), weights=weights)
    prompt, completion = ([int(t) for t in record[c].split()] for c in ("prompt", "completion"))
    weights = [0.0] * len(prompt) + [1.0] * len(completion)
    return replace(row, input_ids=prompt + completion, weights=weights)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "text-generation": llama,
    "text-classification": lambda seed=0: bert("BertForSequenceClassification", seed),
    "image-classification": vit,
    "reward-modeling": scorer,
}
"""task -> a tiny model for it, by seed. A method that serves none of these is not checked in training."""


def task_of(method: Method | type[Method]) -> str | None:
    """The first task here that a method serves; None when it serves none of them."""
    return next((t for t in MODELS if method.tasks is None or t in method.tasks), None)


@dataclass
class Dataset:
    """Rows under a name, as the cursor reads them."""

    name: str
    rows: list[Row]
    hash: str = "tiny"

    @property
    def sources(self) -> tuple[Dataset, ...]:
        return (self,)


Saved = tuple[dict[str, Any], dict[str, dict[str, Tensor]]]


@dataclass
class Tiny:
    """One stage on the tiny set-up. `records` are what the loop logged; `saved`: states by those steps in `keep`."""

    named: Named
    steps: int = 4
    seed: int = 0
    micro_tokens: int | None = None
    dropout: bool = True
    device: str = "cpu"
    cache: Path | None = None
    keep: Iterable[int] = ()
    task_name: str | None = None
    tokenizer: Any = None
    records: list[dict[str, Any]] = field(default_factory=list)
    saved: dict[int, Saved] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shared = (t for t in MODELS if all(m.tasks is None or t in m.tasks for _, m in self.named))
        task = self.task_name or next(shared, None)
        for name, method in self.named:
            if task is None or (method.tasks is not None and task not in method.tasks):
                raise MethodError(
                    f"'{name}' serves none of the tasks that are checked here", remedy="one of: " + ", ".join(MODELS)
                )
        self.task = get_task(str(task))
        self.adapted = Adapted(self.fresh(), self.tokenizer, base_hash="tiny")
        self.base = {n: t.clone() for n, t in self.adapted.model.state_dict().items()}
        self.rows = {n: rows_of(self.task, n, k) for n, k in (("train", 8), ("keep", 4), ("validation", 6))}
        self._change_records(self.task.labelled)
        probe = [replace(r, source="small") for r in rows_of(self.task, "probe", 3)]  # a source that is trained on
        self.probe = self.task.collate(probe).to(self.device)
        self.left = Earlier()
        stages = max([1, *(getattr(type(m), "conformance_stages", 1) for _, m in self.named)])
        self._earlier(stages - 1)
        self.loop = self._begin(None if stages == 1 else 0)

    def fresh(self, seed: int = 0) -> nn.Module:
        """The task's tiny model as it was before training, on the device."""
        return MODELS[self.task.name](seed).to(self.device)

    def _change_records(self, labelled: bool) -> None:
        """Let methods on `example` see the training rows as records, whose text is the rows' tokens as numbers."""
        change = record_change(self.named, self.seed)
        if change is not None:
            rows = enumerate(self.rows["train"])
            self.rows["train"] = [
                row_of(change(record_of(r, labelled, not labelled and i % 2 == 1)), r) for i, r in rows
            ]

    def _earlier(self, stages: int) -> None:
        """Stages before the one that is checked (`conformance_stages`), carried on in training: without the last class,
        which is new in the stage that is checked, where the first one is gone. Their steps are never split: what is
        compared then begins from the same weights, since steps let rounding grow.
        """
        steps, keep, micro_tokens = self.steps, self.keep, self.micro_tokens
        for i in range(1, stages + 1):
            self.steps, self.keep, self.micro_tokens = 2, (), None
            self.loop = self._begin(LABELS - 1, f"earlier{i}")
            self.run()
            left = [left_of(f"earlier{i}", b.name, b.method.leaves, b.state, b.state.data) for b in self.loop.methods]
            self.left = Earlier((*self.left, *(one for one in left if one is not None)))
            apply_carry(self.adapted, "training", f"earlier{i}")
        self.steps, self.keep, self.micro_tokens = steps, keep, micro_tokens
        self.records.clear()

    def _begin(self, absent: int | None, stage_name: str = "main") -> Loop:
        """A stage, set up; without the rows of one class."""
        check_conflicts(self.named, stage="main", task=self.task)
        methods = bind(self.named, self.seed, "main")
        data = {n: f"tiny-{n}" for n in self.rows}
        others: Any = {
            "other_names": ("teacher", "other", "judge"),
            "other": lru_cache(lambda name: Adapted(self.fresh(len(name)), name=name)),
            "as_judge": lru_cache(lambda name: Judge(name, Adapted(scorer(len(name)).to(self.device)), None)),
        }
        there = {n: _without(absent, rows) for n, rows in self.rows.items()}
        others |= {"rows": there, "data_hashes": data, "cache": self.cache, "device": self.device}
        others["changes"] = lambda names: upstream(self.adapted, names)
        provider = Provider(NeedContext(self.adapted, self.task, self.seed, **others))
        provider.check(methods)
        step_tokens, rate = 48 if self.task.scores or any(m.pairs for _, m in self.named) else 24, 3e-2
        constant: Any = {"lr_scheduler_type": "constant", "warmup_steps": 0}
        spec = TrainSpec(
            learning_rate=rate, batch_tokens=step_tokens, micro_tokens=self.micro_tokens, seed=self.seed, **constant
        )
        train = self.rows["train"]
        parts = {"small": train[:3], "large": train[3:], "replayed": rows_of(self.task, "replayed", 3)}
        parts = {n: [replace(r, source=n) for r in _without(absent, rows)] for n, rows in parts.items()}
        asked = [m for _, m in self.named]
        sources = [Dataset(n, list(rows_for(asked, rows, self.task))) for n, rows in parts.items()]
        sizes = {s.name: sum(r.size for r in s.rows) for s in sources}
        tokens = step_tokens * self.steps
        plan = Plan(self.steps, tokens, stage_name, 0, rate, warmup_steps=0, sources=sizes, replay=("replayed",))
        set_up(self.adapted, methods, plan, self.task.name, provider.statistics, self.left)
        if not self.dropout:
            module: Any
            for module in self.adapted.model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
                elif isinstance(getattr(module, "dropout", None), float):
                    module.dropout = 0.0
        shares = {"small": 0.3, "large": 0.5, "replayed": 0.2}
        rows = Cursor(sources, shares, seed=self.seed, batch_tokens=step_tokens)
        stage = TrainingInputs(
            self.adapted,
            self.task,
            methods,
            rows,
            plan,
            spec,
            Budget(steps=self.steps),
            signals=provider.signals,
            validation=Dataset("validation", self.rows["validation"]),
            listen=self._listen,
            device=self.device,
        )
        methods.event("begin_task", stage="main", adapted=self.adapted)
        return Loop(stage)

    def _listen(self, loop: Loop, record: dict[str, Any]) -> None:
        self.records.append({k: v for k, v in record.items() if k != "tokens_per_second"})
        if loop.step_number in set(self.keep):
            self.saved[loop.step_number] = through_bytes(loop.state())

    def run(self) -> Tiny:
        """Train to the end."""
        self.loop.run()
        end_stage(self.loop.stage, "main")
        return self

    def resumed(self, saved: Saved) -> Tiny:
        """A fresh set-up, brought to a saved state and trained to the end."""
        other = replace(self, records=[], saved={}, keep=())
        other.loop.restore(*saved)
        return other.run()

    def logits(self, model: nn.Module | None = None) -> Tensor:
        """What the model says on the probe rows, in evaluation mode."""
        with self.adapted.evaluating(), torch.no_grad():
            return self.task.forward(model or self.adapted.outer, self.probe).logits.clone()

    def tensors(self) -> dict[str, Tensor]:
        """Everything that training may have changed, by name: weights, deltas, optimizer, methods' states."""
        _, by_file = self.loop.state()
        return {f"{f}/{n}": t.detach().cpu().clone() for f, ts in by_file.items() for n, t in ts.items()}


def _without(absent: int | None, rows: list[Row]) -> list[Row]:
    """The same list, where no class is absent."""
    return rows if absent is None else [r for r in rows if r.label is None or r.label != absent]


def through_bytes(state: tuple[Any, Any]) -> Saved:
    """A state written and read as checkpoints do: JSON text and safetensors bytes."""
    data, tensors = state
    return json.loads(json.dumps(data)), {
        f: load(save({n: t.detach().cpu().contiguous().clone() for n, t in ts.items()})) for f, ts in tensors.items()
    }
