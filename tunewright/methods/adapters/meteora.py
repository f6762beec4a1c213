"""MeteoRA: many LoRAs in one model, and a gate in every layer that knows the task (Xu et al. 2024, arXiv:2405.13053;
papers: meteora).

Every targeted layer holds N low-rank changes, one for each task, and a gate G [N, in] without bias. Per token

    l = G x;  w = softmax(top-k of l / T);  y = W x + sum_i w_i s_i B_i A_i x,       A_i [r_i, in], B_i [out, r_i]

and what is minimised is the task's loss of each target plus `gate_weight` times the mean, over all tokens of the
target's row (its prompt's too) and all layers, of the cross-entropy of l with the row's task as class. A row whose
source is none of the tasks puts no loss on gates. When the model is used nobody names tasks: gates see states alone.

Tasks are sources of the data. `adapters` gives for each the folder of a finished LoRA (a run's, or a PEFT adapter),
which stays frozen: then gates alone train. `new` in the place of a folder starts a LoRA here that trains along; with
no `adapters` every source of the stage has a new one. Ranks and scales may differ; where an adapter has nothing on a
layer, its expert adds nothing there. Gates start uniform in +-1/sqrt(in).

Defaults: k 2, T 1 (while training), weight 50, rank 8 and alpha 16 of new ones: the authors' code. It does not fold.
Raises MethodError for an adapter of another base or one that is more than low-rank, for one task alone, and for k = 1
without a loss on gates, which would have no gradient.

Differs from the paper in: the gates' loss is averaged row by row (there: over the batch's tokens); a dropout of 0.1
before A is left out, since frozen experts need none; the loss of prompts' own tokens is the recipe's choice (there:
they are trained on).
Source: NJUDeepEngine/meteora, MoELoRA/layer.py, base_model/llama/modeling_llama_meteor.py.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import cross_entropy

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Method, Setup, State, torch_generator
from tunewright.errors import MethodError
from tunewright.models.adapted import Adapted
from tunewright.models.context import check_one_text
from tunewright.models.deltas import Routed, check_site
from tunewright.models.peft_format import Parts, read_parts
from tunewright.models.peft_settings import CONFIG
from tunewright.models.routed import GATES
from tunewright.models.sites import Site
from tunewright.pieces.low_rank import kaiming
from tunewright.pieces.means import row_means
from tunewright.pieces.target_modules import TARGET_MODULES

NEW = "new"


def gate_losses(gates: list[Tensor], row: Tensor, place: Tensor, tasks: Tensor) -> Tensor:
    """[R] each row's mean cross-entropy of gates [B, L, N] with its task, over layers and its tokens; nats.

    `row`, `place` [B, L] as `Present` has them; `tasks` [R] int64, -1 for a row of no task, whose mean is 0.
    """
    real = (place >= 0) & (tasks[row] >= 0)
    rows, wanted = row[real], tasks[row[real]]
    each = torch.stack([cross_entropy(g[real].float(), wanted, reduction="none") for g in gates]).mean(0)
    return row_means(each, rows, len(tasks))


class MeteoRA(Method):
    """Several LoRAs in every layer, and a gate that sends each token to the best few of them."""

    adapters: dict[str, str] = Field(
        {},
        description="source of the data -> folder of its finished LoRA, or new; none: a new one for every source",
        examples=[{"small": NEW, "replayed": NEW}],
    )
    rank: PositiveInt = Field(8, description="rank of new LoRAs", examples=[3])
    alpha: PositiveFloat = Field(16.0, description="numerator of their scale alpha / rank")
    top: PositiveInt = Field(2, description="experts that a token is sent to, k", examples=[1])
    temperature: PositiveFloat = Field(1.0, description="divides the chosen gates' logits, T")
    gate_weight: NonNegativeFloat = Field(50.0, description="weight of the gates' loss on the rows' tasks")
    target_modules: str | tuple[str, ...] = Field(
        "all-linear", description=TARGET_MODULES + "; layers of finished LoRAs are theirs", examples=[["q_proj"]]
    )

    category: ClassVar[str] = "reparameterised"
    also: ClassVar[Mapping[str, str]] = {"targets": "target_modules", "r": "rank"}
    folds: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    quantised: ClassVar[bool] = False
    papers: ClassVar[tuple[str, ...]] = ("meteora",)
    conformance: ClassVar[dict[str, object]] = {"rank": 2, "alpha": 2.0, "gate_weight": 1.0}

    def setup(self, run: Setup) -> State:
        check_one_text(run.adapted.model, "meteora")
        chosen = self.adapters or dict.fromkeys((s for s in run.plan.sources if s not in run.plan.replay), NEW)
        if len(chosen) < 2:
            raise MethodError(
                f"meteora chooses between tasks, and there {'is one' if chosen else 'are none'}",
                where="adapters",
                remedy="give two sources of data, or adapters: {source: folder, source: folder}",
            )
        if self.top == 1 and not self.gate_weight:
            raise MethodError(
                "with one expert a token and no loss on gates they have no gradient",
                where="gate_weight",
                remedy="write top: 2 or more, or a gate_weight above 0",
            )
        finished = {n: read_adapter(run.adapted, f, f"adapters.{n}") for n, f in chosen.items() if f != NEW}
        if len(finished) not in (0, len(chosen)):
            raise MethodError(
                "finished LoRAs stay as they are and new ones train: they are not mixed",
                where="adapters",
                remedy="train the missing ones first, or write new for all",
            )
        sites = {s.name for s in run.structure.match(self.target_modules)}
        if finished:
            sites = {n for parts in finished.values() for n in parts.pairs}
        for name in sites:
            check_site(run.structure.site(name), Routed)
        state = State(names=list(chosen), sites=sorted(sites))
        vars(state)["finished"] = finished  # frozen tensors on their way to the layers: no part of the state
        return state

    def attach(self, site: Site, state: State, rng: random.Random) -> Routed | None:
        if site.name not in state.data["sites"]:
            return None
        names, generator = tuple(state.data["names"]), torch_generator(rng)
        finished: dict[str, Parts] = vars(state)["finished"]
        if finished:
            experts = [_expert(finished[n], site) for n in names]
        else:
            drawn = [kaiming(site, self.rank, generator) for _ in names]
            experts = [(A, B, self.alpha / self.rank) for A, B in drawn]
        r, pad = max(len(A) for A, _, _ in experts), torch.nn.functional.pad
        A = torch.stack([pad(a, (0, 0, 0, r - len(a))) for a, _, _ in experts])
        B = torch.stack([pad(b, (0, r - b.shape[1])) for _, b, _ in experts])
        scales = torch.tensor([s for _, _, s in experts])
        bound = site.in_features**-0.5
        gate = torch.empty(len(names), site.in_features).uniform_(-bound, bound, generator=generator)
        some: dict[str, Any] = {"top": self.top, "temperature": self.temperature, "trained": not finished}
        return Routed(gate, A, B, scales, names, **some)

    def objective(self, outputs: Outputs, batch: Batch, state: State) -> Loss:
        value = -outputs.log_probs()
        names, now = state.data["names"], outputs.present
        if now is None:
            raise MethodError(
                "meteora reads what gates said of a forward, and this task's `forward` does not hand it on",
                where="task",
                remedy="give Outputs(present=...) in the task's forward, as those of tunewright.tasks do",
            )
        if not now.notes.get(GATES):  # a forward without gradients: nothing was noted of it
            return Loss(value)
        row, place = now.at(now.notes[GATES][0])
        tasks = torch.tensor([names.index(s) if s in names else -1 for s in now.sources()], device=value.device)
        gates = gate_losses(now.notes[GATES], row, place, tasks)
        sequences = len(tasks) // len(batch.row_ids)  # of a pair the chosen answer's
        each = gates[::sequences][batch.rows]
        return Loss(value + self.gate_weight * each, logs={"gate_loss": each.detach()})


def read_adapter(adapted: Adapted, folder: str, where: str) -> Parts:
    """A finished LoRA's parts, from its own folder or a run's `adapter/`. MethodError for one that is more."""
    path = Path(folder)
    path = path if (path / CONFIG).exists() else path / "adapter"
    if not (path / CONFIG).exists():
        raise MethodError(
            f"there is no LoRA in {folder}",
            where=where,
            remedy="name a run's folder that holds adapter/",
        )
    parts = read_parts(path, adapted.base_hash)
    if parts.values:
        raise MethodError(
            f"the adapter also changes whole tensors, such as '{next(iter(parts.values))}'",
            where=where,
            remedy="use adapters that are low-rank alone",
        )
    known = {s.name: s for s in adapted.structure.sites}
    for name, (A, B) in parts.pairs.items():
        site = known.get(name)
        if site is None or (A.shape[1], B.shape[0]) != (site.in_features, site.out_features):
            raise MethodError(
                f"the adapter's '{name}' fits no layer of this model", where=where, remedy="name adapters of its base"
            )
    return parts


def _expert(parts: Parts, site: Site) -> tuple[Tensor, Tensor, float]:
    """(A [r, in], B [out, r], s) of a finished LoRA on a layer; of rank 1 and zero where it has none."""
    if site.name not in parts.pairs:
        return torch.zeros(1, site.in_features), torch.zeros(site.out_features, 1), 1.0
    A, B = (t.float() for t in parts.pairs[site.name])
    return A, B, parts.scales[site.name]
