"""GPTfluence: keep the records of which a simulator of training foretells the largest fall of the target's losses (Liu
et al. 2024, arXiv:2404.07840; papers: gptfluence).

1. A low-rank adapter is trained in a few short runs on batches of the records, each run with an order of its own, and
   after each of its steps the losses of some target rows are measured.
2. A simulator (`pieces/simulated_training.py`) is fitted to these runs: a step on the rows z_1 ... z_k takes the loss
   of a target row t from l to (1 - sum_i a(z_i, t)) l - sum_i b(z_i, t), where a and b are products of learnt functions
   of the rows' embeddings.
3. Of every record, whether or not it was in a run, the fall that a step on it alone would bring at the loss l_0 of the
   start is foretold,

       fall(z) = mean_t k (a(z, t) l_0(t) + b(z, t))

   and the records of largest fall are kept, largest first. Only their embeddings are read: a forward each.

Theirs, as in their code: the two factors, networks of two layers with ReLU for both, shared by training and test rows,
a frozen encoder, fits from the loss before each step, 1e-5 weight decay. Ours: factors are falls (l' = l where the
networks say nothing; there l' = sum a l + sum b, whose networks begin far from it), in units of a logged change,
features are standardised, `passes` 100 at 1e-3 (there 300 at 1e-4), and what is logged: short runs of an adapter, where
they log the whole fine-tuning of each model that they study, several times.

Differs from the paper in: it foretells curves and studies them; choosing rows by them is ours. Embeddings are the
model's own means of last hidden states (there a BERT's or a GPT's last token). One loss back, as in its main results;
losses alone, no BLEU or ROUGE. Raises MethodError for a model without linear layers in its blocks, and DataError where
no logged loss moved or one is not finite.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from tunewright.contract.method import Method, torch_generator
from tunewright.contract.reader import Reader
from tunewright.contract.records import Record
from tunewright.contract.selected import Selected
from tunewright.data.select._gradients import CODE, adapter, gradient
from tunewright.data.select._keep import Amount, at_most, below, how_many, smallest
from tunewright.errors import DataError, MethodError
from tunewright.pieces import simulated_training
from tunewright.pieces.simulated_training import Logged, Simulator

NAME = "gptfluence"
CODES = [CODE, inspect.getsource(simulated_training)]


class GPTfluence(Method):
    """Keeps the records that a simulator of training expects to help the target most."""

    keep: Amount = Field(
        0.1, gt=0, description="share of the records kept (10%, 0.1), or how many (1000)", examples=["25%", 3]
    )
    runs: PositiveInt = Field(4, description="runs that are logged", examples=[1])
    steps: PositiveInt = Field(24, description="steps of each", examples=[2])
    batch: PositiveInt = Field(4, description="records of a step", examples=[3])
    learning_rate: PositiveFloat = Field(1e-3, description="of these runs (Adam's)", examples=[1e-2])
    rank: PositiveInt = Field(8, description="rank of the adapter that they train", examples=[2])
    targets: PositiveInt = Field(16, description="target rows, drawn, whose losses are logged", examples=[2])
    width: PositiveInt = Field(64, description="H, of the simulator's networks", examples=[8])
    passes: PositiveInt = Field(100, description="of the simulator's fit over the log", examples=[5])
    model: str = Field(
        "start", description="what reads the records: start (of the stage), or one of the recipe's `models`"
    )

    takes_gradients: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[dict[str, object]] = {
        **{"keep": 0.5, "runs": 2, "steps": 3, "batch": 2, "rank": 4},
        **{"targets": 3, "width": 16, "passes": 20},
    }

    def speakers(self) -> tuple[str, ...]:
        return (self.model,)

    def select(
        self, records: Sequence[Record], target: Sequence[Record], readers: dict[str, Reader], rng: random.Random
    ) -> Selected:
        reader, seed = readers[self.model], rng.getrandbits(63)
        asked = at_most(target, self.targets, random.Random(seed))
        told = self.model_dump(mode="json", exclude={"keep", "model", "targets", "width", "passes"})
        how = {**told, "seed": seed, "n": len(records), "pieces": CODES}

        def logs() -> Tensor:
            runs = self._log(records, asked, reader, random.Random(seed))
            return torch.stack([torch.cat([_padded(r.rows), r.losses], 1) for r in runs]).flatten(1)

        flat = reader.remembered(NAME, [*records, *asked], how, logs)
        size = min(self.batch, len(records))
        found = flat.unflatten(1, (self.steps + 1, size + len(asked)))
        runs = [Logged(run[1:, :size].long(), run[:, size:]) for run in found]
        fall = self._falls(runs, reader.embeddings(records), reader.embeddings(asked), torch_generator(rng))
        kept = smallest([-x for x in fall], how_many(self.keep, len(records)))
        least, inside = fall[kept[-1]], set(kept)
        reasons = ["" if i in inside else below("foretold fall", fall[i], least, " nats") for i in range(len(records))]
        return Selected(kept, scores={"fall": fall}, reasons=reasons)

    def _falls(self, runs: Sequence[Logged], train: Tensor, test: Tensor, generator: torch.Generator) -> list[float]:
        """Of each record the fall of the target's mean loss in a step on it alone, at the start."""
        simulator = Simulator(torch.cat([train, test]), self.width, generator)
        simulator.fit(runs, train, test, passes=self.passes, rate=1e-3)
        with torch.no_grad():
            alone = torch.arange(len(train))[:, None].expand(-1, runs[0].rows.shape[1])
            a, b = simulator.steps(alone, train, test)
            return [float(x) for x in (a * runs[0].losses[0] + b).mean(1)]

    def _log(
        self, records: Sequence[Record], asked: Sequence[Record], reader: Reader, rng: random.Random
    ) -> list[Logged]:
        """Train afresh in every run, and note the target rows' losses before and after each step."""
        sites = reader.adapted.structure.linear_sites()
        if not sites:
            raise MethodError(
                f"'{reader.name}' has no linear layer in its blocks, and {NAME} trains an adapter on these",
                where="data.select",
                remedy="select by representations: rds-plus or got-d",
            )
        runs, size = list[Logged](), min(self.batch, len(records))
        for _ in range(self.runs):
            order = list[int]()
            with adapter(reader, NAME, sites, self.rank, 1.0, rng) as parameters:
                adam = torch.optim.Adam(parameters, lr=self.learning_rate)
                rows, losses = list[list[int]](), [self._losses(asked, reader)]
                for _ in range(self.steps):
                    if len(order) < size:
                        order = rng.sample(range(len(records)), len(records))
                    rows.append([order.pop() for _ in range(size)])
                    self._step(adam, parameters, [records[i] for i in rows[-1]], reader)
                    losses.append(self._losses(asked, reader))
            runs.append(Logged(torch.tensor(rows), torch.stack(losses)))
        if all(bool((r.losses == r.losses[0]).all()) for r in runs):
            raise DataError(
                "no loss of the target moved in any logged run: there is nothing to simulate",
                where="data.select",
                remedy="raise learning_rate or steps",
            )
        return runs

    def _step(
        self, adam: torch.optim.Adam, parameters: list[torch.nn.Parameter], some: Sequence[Record], reader: Reader
    ) -> None:
        whole = torch.stack([gradient(reader.loss(r), parameters, r.where) for r in some]).mean(0)
        for p, g in zip(parameters, whole.split([p.numel() for p in parameters]), strict=True):
            p.grad = g.view_as(p)
        adam.step()

    def _losses(self, asked: Sequence[Record], reader: Reader) -> Tensor:
        with torch.no_grad():
            found = torch.stack([reader.loss(r) for r in asked]).float().cpu()
        for i in (~torch.isfinite(found)).nonzero()[:1, 0].tolist():
            raise DataError(
                "the loss of this target row is no finite number in a logged run",
                where=asked[i].where,
                remedy="lower learning_rate, or look at this row and at the model's weights",
            )
        return found


def _padded(rows: Tensor) -> Tensor:
    """[S + 1, k]: a row of zeros before the steps' rows, as losses have one more."""
    return torch.cat([torch.zeros(1, rows.shape[1]), rows.float()])
