"""InstructMining: keep the records for which a linear rule over quality indicators foretells the lowest loss
(Cao et al. 2023, arXiv:2307.06290; papers: instructmining).

The rule foretells the log of the loss that a model reaches on good instructions once it is tuned on a set of records,
from means of indicators over the set. Being linear, it is a sum over records, so that the best subset of a size is the
records of lowest value:

    log L_i = sum_k c_k I_k(i),    the k lowest are kept, lowest first

The constant of the rule shifts all records alike and is left out. Indicators, by the names that `coefficients` takes:

| name | what it is |
| --- | --- |
| length | trained tokens of the record: of the answer, where prompts are not trained |
| loss | mean loss of these tokens under the model, in nats (the paper's perplexity is its exponential) |
| knn | distance of the record's embedding to its `neighbour`-th nearest among the records, embeddings of length 1 |
| mtld | lexical diversity of the answer (McCarthy & Jarvis 2010): mean length, in words, of stretches of a type-token |
| | ratio above 0.72, read forwards and backwards |
| reward | a column of the data, `reward`: what a reward model of the user's gave the record |

Authors' numbers (first version, equation 4, fitted on models tuned from LLaMA-7B): 1.0694 - 0.1498 reward
+ 8.257e-5 length - 0.9350 knn with the 6th neighbour. These are the defaults of `length` and `knn`; `reward` has the
authors' coefficient where rows have the column, and is left out of the rule where none has it. The paper finds neither
perplexity nor MTLD significant: they have no coefficient unless one is written. In a later version of the paper the
rule is 0.0274 - 0.0078 reward + 0.4421 understandability - 0.3212 naturalness - 0.1520 coherence.

What cannot be had here: a reward model of its own (OpenAssistant's in the paper) and UniEval's three scores, so that
the later rule cannot be used; and the hundreds of tuned models that a rule is fitted on. A rule that was fitted
elsewhere is written as `coefficients: {loss: 0.3, length: -0.001}`; it then replaces the authors' whole.

Differs from the paper in: embeddings are means of the model's last hidden states (there: SentenceBERT), and distances
between embeddings brought to length 1, so that they lie in [0, 2]; tokens are the model's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveInt, field_validator
from torch import Tensor

from tunewright.contract.method import Method
from tunewright.contract.reader import Reader
from tunewright.contract.records import Record, finite
from tunewright.contract.selected import Selected
from tunewright.data.select._keep import Amount, how_many, smallest
from tunewright.data.select._lexical import mtld
from tunewright.data.select._text import answer_of
from tunewright.errors import DataError
from tunewright.models.flops import book

AUTHORS = {"reward": -0.1498, "length": 8.257e-5, "knn": -0.9350}
INDICATORS = ("length", "loss", "knn", "mtld", "reward")
CHUNK = 1024
"""Records whose distances to all others are held at once."""


def neighbour_distances(embeddings: Tensor, k: int) -> Tensor:
    """[n] distance of each of [n, D] embeddings, brought to length 1, to its k-th nearest other one (the farthest where
    there are fewer).
    """
    unit = torch.nn.functional.normalize(embeddings.float(), dim=1)
    n = len(unit)
    if n == 1:
        return torch.zeros(1)
    found = []
    for start in range(0, n, CHUNK):
        part = unit[start : start + CHUNK]
        squared = (2 - 2 * part @ unit.T).clamp(min=0.0)
        book(2.0 * len(part) * n * unit.shape[1], 0.0, squared)
        rows = torch.arange(len(part), device=unit.device)
        squared[rows, start + rows] = math.inf  # itself
        found.append(squared.topk(min(k, n - 1), largest=False).values[:, -1].sqrt())
    return torch.cat(found)


class InstructMining(Method):
    """Keeps the records that a linear rule finds best."""

    keep: Amount = Field(
        0.1,
        gt=0,
        description="share of the records kept (10%, 0.1), or how many (1000)",
        examples=["25%", 3],
    )
    coefficients: dict[str, float] | None = Field(
        None,
        description="a rule in the place of the authors': coefficients of length, loss, knn, mtld, reward",
        examples=[{"loss": 1.0}],
    )
    neighbour: PositiveInt = Field(6, description="which nearest neighbour `knn` is the distance to", examples=[2])
    model: str = Field(
        "start", description="what reads the records: start (of the stage), or one of the recipe's `models`"
    )

    tasks: ClassVar[tuple[str, ...]] = ("text-generation",)
    papers: ClassVar[tuple[str, ...]] = ("instructmining",)

    @field_validator("coefficients")
    @classmethod
    def _known(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        strange = sorted(set(value or ()) - set(INDICATORS))
        if strange or value == {}:
            known, what = ", ".join(INDICATORS), ", ".join(strange) or "none is given"
            raise ValueError(f"no indicator: {what}; there are {known}")
        return value

    def speakers(self) -> tuple[str, ...]:
        return (self.model,)

    def select(self, records: Sequence[Record], readers: dict[str, Reader]) -> Selected:
        rule = self._rule(records)
        reader = readers[self.model]
        read: Mapping[str, Callable[[], Sequence[float]]] = {
            "length": lambda: [float(n) for n in reader.sizes(records)],
            "loss": lambda: reader.losses(records).tolist(),
            "knn": lambda: neighbour_distances(reader.embeddings(records).to(reader.device), self.neighbour).tolist(),
            "mtld": lambda: [mtld(answer_of(r)) for r in records],
            "reward": lambda: [_reward(r) for r in records],
        }
        found = {name: read[name]() for name in rule}
        values = [sum(c * found[name][i] for name, c in rule.items()) for i in range(len(records))]
        kept = smallest(values, how_many(self.keep, len(records)))
        last = values[kept[-1]]
        reasons = [f"foretold log loss above {last:.4g}" if x > last else "" for x in values]
        return Selected(kept, scores={**found, "rule": values}, reasons=reasons)

    def _rule(self, records: Sequence[Record]) -> Mapping[str, float]:
        if self.coefficients is not None:
            return self.coefficients
        rewarded = any("reward" in r for r in records)
        return {name: c for name, c in AUTHORS.items() if name != "reward" or rewarded}


def _reward(record: Record) -> float:
    value: Any = record.get("reward")
    number = None if isinstance(value, bool) else finite(value)
    if number is None:
        raise DataError(
            f"reward: {'is missing' if value is None else f'{value!r} is no finite number'}, and the rule reads it",
            where=record.where,
            remedy="give every row a number, or write coefficients: without reward",
        )
    return number
