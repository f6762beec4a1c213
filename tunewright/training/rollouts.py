"""Generation in the loop: prompts become samples, samples become rewards, and what a method makes of both is trained
on.

Only a stage with a method on the slot `rollout` comes here. The method gets this step's rows as `prompts`, `generate`
to sample from the present model, `score` and `token_rewards` to have the stage's `reward` methods judge, and `read` to
run the model (as it is, as the stage began, or the base) over rows; it returns the rows to train on. They are
micro-batched like any others. A reward sees a sample once, however often it is asked for. Draws are keyed by (seed,
method, epoch, row id, number of the sample), and rows that are trained on more than once are part of the loop's state,
so that a resumed run goes on bit for bit.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.method import row_rng
from tunewright.errors import DataError, MethodError


@dataclass(frozen=True)
class Sample:
    """What the model wrote after a prompt: `ids` (the end token included if it was drawn), each one's log-probability
    under the distribution that drew it, and its text (without a tokenizer: the ids as numbers)."""

    prompt: Row
    number: int
    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    text: str
    ended: bool

    def row(self, **carried: float | Sequence[float]) -> Row:
        """The sample as a row to train on.

        `carried` values reach the batch's fields: one per row, or one a sampled token.
        """
        prompt = self.prompt.fields["prompt_ids"]
        ids, weights = [*prompt, *self.ids], [0.0] * len(prompt) + [1.0] * len(self.ids)
        return Row(f"{self.prompt.id}#{self.number}", self.prompt.source, ids, weights, fields={"carried": carried})


@dataclass(frozen=True)
class Rollout:
    """Rows to train on, each given with the place of its prompt among `prompts`, for `reuse` optimizer steps."""

    rows: Sequence[tuple[int, Row]]
    reuse: int = 1


Taken = list[tuple[Row, int]]
READ_TOKENS, READ_ROWS = 2048, 64
"""Tokens (padding included) and rows of a batch that `read` runs the model on."""


class Rollouts:
    """Makes the rows of a loop's steps from samples of its own model. MethodError at once when it cannot be sampled
    from.

    `read` is the tokens of the data that the last step took: 0 where rows are trained on again.
    """

    def __init__(self, loop: Any):
        self.loop, self.bound = loop, loop.methods.one("rollout")
        if loop.adapted.wrapper is not None:
            raise MethodError(
                f"'{self.bound.name}' samples from the model, and another method wraps its forward",
                where="methods",
                remedy="put them into two stages",
            )
        self.held: Taken = []
        self.left = self.read = 0
        self.logs: dict[str, float] = {}
        self.scored: dict[tuple[str, str, int, tuple[int, ...]], float | list[float]] = {}

    def take(self) -> tuple[Taken, dict[str, float]]:
        """Rows of the next step with their epochs, and what is logged of them."""
        self.read = 0
        if self.left:
            self.left -= 1
            return self.held, {}
        prompts = self.loop.stage.rows.next_batch()
        for row, _ in prompts:
            if not row.fields.get("prompt_ids"):
                raise DataError(
                    "the row has no prompt to answer",
                    where=row.id,
                    remedy=f"'{self.bound.name}' needs rows with prompt and completion, or messages",
                )
        self.logs, self.scored, self.read = {}, {}, sum(row.size for row, _ in prompts)
        made = self._roll(prompts)
        self.held, self.left = [(row, prompts[i][1]) for i, row in made.rows], made.reuse - 1
        return self.held, self.logs

    def _roll(self, prompts: Taken) -> Rollout:
        loop, name = self.loop, self.bound.name

        def draw(i: int) -> random.Random:
            return row_rng(loop.spec.seed, name, prompts[i][1], prompts[i][0].id)

        def generate(count: int, max_new_tokens: int, temperature: float = 1.0) -> list[list[Sample]]:
            return self.generate(prompts, count, max_new_tokens, temperature)

        made: Rollout = loop.methods.call(
            self.bound,
            "rollout",
            prompts=[row for row, _ in prompts],
            generate=generate,
            score=self.score,
            token_rewards=self.token_rewards,
            read=self.read_rows,
            step=loop.step_number,
            row_rng=draw,
        )
        if not made.rows:
            raise MethodError(f"'{name}' made no rows to train on", where=f"step {loop.step_number + 1}")
        return made

    def generate(self, prompts: Taken, count: int, max_new_tokens: int, temperature: float) -> list[list[Sample]]:
        """`count` samples of each prompt from the present model, in eval mode and without gradient."""
        from tunewright.measure.generate import stop_ids
        from tunewright.measure.sampled import sampled

        adapted, seed, name = self.loop.adapted, self.loop.spec.seed, self.bound.name
        ends = stop_ids(adapted.model, adapted.tokenizer)
        wanted = [(row, k) for row, _ in prompts for k in range(count)]
        rngs = [row_rng(seed, name, epoch, f"{row.id}#{k}") for row, epoch in prompts for k in range(count)]
        ids = [row.fields["prompt_ids"] for row, _ in wanted]
        rows = [row for row, _ in wanted]
        answers = sampled(
            adapted.model, ids, max_new_tokens, rngs=rngs, stop_ids=ends, temperature=temperature, rows=rows
        )
        told = [self._sample(row, k, *answer, ends) for (row, k), answer in zip(wanted, answers, strict=True)]
        self.logs["sampled_tokens"] = sum(len(s.ids) for s in told)
        self.logs["sample_length"] = self.logs["sampled_tokens"] / len(told)
        return [told[i : i + count] for i in range(0, len(told), count)]

    def _sample(self, row: Row, number: int, ids: list[int], log_probs: list[float], ends: Sequence[int]) -> Sample:
        tokenizer, ended = self.loop.adapted.tokenizer, bool(ids) and ids[-1] in ends
        said = ids[:-1] if ended else ids
        text = " ".join(map(str, said)) if tokenizer is None else tokenizer.decode(said, skip_special_tokens=True)
        return Sample(row, number, tuple(ids), tuple(log_probs), text, ended)

    def score(self, samples: Sequence[Sample]) -> list[float]:
        """The weighted sum of what the stage's rewards give each sample; rewards of tokens are added up.

        MethodError for a wrong count or a value that is no number.
        """
        return [math.fsum(given) for given in self.token_rewards(samples)]

    def token_rewards(self, samples: Sequence[Sample]) -> list[list[float]]:
        """The same for each token of each sample; a reward of the whole sample lies at its last token."""
        total = [[0.0] * len(s.ids) for s in samples]
        for b in self.loop.methods.on("reward"):
            values = self._judged(b, samples)
            self.logs[f"reward/{b.name}"] = sum(map(whole, values)) / len(values)
            for so_far, value in zip(total, values, strict=True):
                for t, v in enumerate(value) if isinstance(value, list) else ((-1, value),):
                    so_far[t] += b.weight * v
        self.logs["reward"] = sum(map(math.fsum, total)) / len(total)
        return total

    def _judged(self, b: Any, samples: Sequence[Sample]) -> list[float | list[float]]:
        """What one reward gives, asked only for samples that it has not seen in this rollout."""
        keys = [(b.name, s.prompt.id, s.number, s.ids) for s in samples]
        fresh = [i for i, key in enumerate(keys) if key not in self.scored]
        if fresh:
            new = [samples[i] for i in fresh]
            given = checked(self.loop.methods.call(b, "reward", samples=new), new, b.name)
            self.scored.update({keys[i]: value for i, value in zip(fresh, given, strict=True)})
        return [self.scored[key] for key in keys]

    def read_rows(
        self,
        rows: Sequence[Row],
        of: Callable[[Outputs, Batch], Tensor],
        *,
        at: Literal["now", "start", "base"] = "now",
        hidden: bool = False,
    ) -> list[list[float]]:
        """`of(outputs, batch)` [S] of each row, in the order of its targets: no gradient, no dropout.

        `at`: the model as it is, as the stage began (of a method whose field `reference` is "start"), or the untouched
        base. `hidden`: all hidden states are kept.
        """
        from tunewright.measure._kv import batches_by_length

        loop = self.loop
        found: list[list[float]] = [[] for _ in rows]
        with ExitStack() as stack:
            model = stack.enter_context(loop.adapted.base()) if at == "base" else loop.adapted.outer
            if at == "start":
                stack.enter_context(loop.start.there())
            stack.enter_context(loop.adapted.evaluating())
            stack.enter_context(torch.no_grad())
            for indices in batches_by_length([row.size for row in rows], READ_TOKENS, READ_ROWS):
                some = [rows[i] for i in indices]
                batch = loop.stage.task.collate(some, loop.stage.packed, seed=loop.spec.seed).to(loop.stage.device)
                values = of(loop.stage.task.forward(model, batch, hidden=hidden), batch)
                for k, value in zip(batch.rows.tolist(), values.tolist(), strict=True):
                    found[indices[k]].append(value)
        return found

    def state(self) -> dict[str, Any]:
        """JSON from which `restore` goes on: the rows still to be trained on again."""
        return {"left": self.left, "held": [[asdict(row), epoch] for row, epoch in self.held] if self.left else []}

    def restore(self, state: dict[str, Any]) -> None:
        self.left, self.held = state["left"], [(Row(**row), epoch) for row, epoch in state["held"]]


def whole(value: float | list[float]) -> float:
    """A reward of a sample; rewards of its tokens are added up."""
    return math.fsum(value) if isinstance(value, list) else value


def checked(values: Any, samples: Sequence[Sample], name: str) -> list[float | list[float]]:
    """A reward's answer as floats, one per sample, or one per token of it.

    MethodError naming the reward and the sample where it is not that.
    """
    listed = values.tolist() if isinstance(values, torch.Tensor) else list(values)
    if len(listed) != len(samples):
        raise MethodError(
            f"the reward '{name}' gave {len(listed)} numbers for {len(samples)} samples",
            where=f"reward of '{name}'",
            remedy="give one per sample",
        )
    return [_checked(sample, value, name) for sample, value in zip(samples, listed, strict=True)]


def _checked(sample: Sample, value: Any, name: str) -> float | list[float]:
    several = isinstance(value, list | tuple)
    if several and len(value) != len(sample.ids):
        raise MethodError(
            f"the reward '{name}' gave {len(value)} numbers for the {len(sample.ids)} tokens of a sample",
            where=f"row {sample.prompt.id}",
            remedy="give one number a token, the end token included, or one for the whole sample",
        )
    for one in value if several else [value]:
        if not isinstance(one, int | float) or not math.isfinite(one):
            raise MethodError(
                f"the reward '{name}' gave {one!r} for the sample {sample.text[:60]!r}",
                where=f"row {sample.prompt.id}",
                remedy="a reward is a finite number for any text, however malformed",
            )
    return [float(v) for v in value] if several else float(value)


def carried(batch: Batch, rows: Sequence[Row]) -> Batch:
    """The batch with what its rows carry as fields: numbers of rows [R], and of sampled tokens [S] in the order of
    the labels.
    """
    fields = dict(batch.fields)
    for key in rows[0].fields.get("carried", {}):
        values = [r.fields["carried"][key] for r in rows]
        flat = values if isinstance(values[0], int | float) else [v for part in values for v in part]
        fields[key] = torch.tensor(flat, dtype=torch.float32)
    return batch.replace(fields=fields)
