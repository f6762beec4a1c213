"""L2M: a pool of keyed low-rank changes of a frozen model, one of which acts on each row (Schmied et al. 2023,
arXiv:2306.14884; papers: l2m).

    q         mean over a row's tokens of what the first block reads: the base's embeddings, which never change   [D]
    c         the entry whose key is most alike to q: argmax_m cos(q, k_m),  k_m in R^D
    answer    the model with y + s B_c A_c x on each targeted layer,  A_c [r, in], B_c [out, r] = 0 at the start
    loss      the task's own - coefficient x mean over the step's rows of cos(q, k_c)

The base stays as it is; keys and the pool train, of which a row moves its own entry alone. From the second task on,
while training, c = argmax_m (cos(q, k_m) + 1) / 2 x w_m with w_m in proportion to 1 / (n_m + 1e-6): n_m rows were given
the entry in the tasks before, so that a new task opens entries that none has used. When the model is used w does not
count and nobody names tasks. Each task is a stage that starts from the one before with `carry: training`.

Defaults: 30 entries, rank 8, s = 2, coefficient 0.5, keys uniform in +-1, A uniform in +-1/sqrt(in) (the authors' start
sees another fan-in, for all layers in one tensor); the rate is LoRA's. The change does not fold. MethodError for
encoder-decoders, for models whose layers see parts of rows, and for an earlier pool of another shape.

Differs from the paper in: all linear layers of the blocks (there queries, values, and a square change behind the first
layer of the feed-forward part); the query reads all tokens of a row, of an episode's window returns and actions too
(there the states); only low-rank entries (there IA3's too).
Source: the paper's section 4, ml-jku/L2M (src/algos/prompt/l2p.py, base_prompt.py).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from tunewright.contract.found import Found
from tunewright.contract.method import Setup, State, torch_generator
from tunewright.errors import MethodError
from tunewright.models.context import check_one_text
from tunewright.models.deltas import Delta, Keys, Modulated, deltas_of, detach
from tunewright.models.sites import Site
from tunewright.pieces.low_rank import kaiming
from tunewright.pieces.on_layers import OnLayers
from tunewright.pieces.target_modules import TARGET_MODULES

NAME = "l2m"
UNUSED = 1e-6
"""What is added to a count before it is divided by: as the authors have it."""


class L2M(OnLayers):
    """A pool of low-rank changes, of which each row gets the one that its embeddings find by a key."""

    size: PositiveInt = Field(30, description="entries of the pool, M", examples=[3])
    rank: PositiveInt = Field(8, description="rank r of each entry's change", examples=[2])
    alpha: PositiveFloat = Field(16.0, description="numerator of its scale s = alpha / r", examples=[2.0])
    target_modules: str | tuple[str, ...] = Field(
        "all-linear", description=TARGET_MODULES, examples=[["query", "value"]]
    )
    coefficient: NonNegativeFloat = Field(
        0.5, description="how strongly a chosen key is pulled to its rows' queries", examples=[0.0]
    )

    also: ClassVar[Mapping[str, str]] = {"targets": "target_modules", "r": "rank", "lora_alpha": "alpha"}
    form: ClassVar[type[Delta]] = Modulated
    folds: ClassVar[bool] = False
    quantised: ClassVar[bool] = False
    ranks: ClassVar[bool] = False
    carries: ClassVar[Literal["training"]] = "training"
    learning_rates: ClassVar[Mapping[str, float]] = {"": 8e-4}
    tasks: ClassVar[tuple[str, ...] | None] = ("text-classification", "image-classification", "reinforcement-learning")
    category: ClassVar[str] = "reparameterised"
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[dict[str, object]] = {"size": 1, "rank": 2, "alpha": 4.0}
    conformance_stages: ClassVar[int] = 2

    def setup(self, run: Setup) -> State:
        check_one_text(run.adapted.model, NAME)
        state = super().setup(run)
        state.data["counts"] = [0] * self.size
        return state

    def attach(self, site: Site, state: State, rng: random.Random) -> Delta | None:
        first = site.kind == "block" and site.block == 0
        if not first and site.name not in state.data["sites"]:
            return None
        earlier, generator = self._earlier(site), torch_generator(rng)
        if not first:
            drawn = [kaiming(site, self.rank, generator) for _ in range(self.size)]
            A, B = (torch.stack([pair[i] for pair in drawn]) for i in (0, 1))
            return self._taken(Modulated(A, B, self.alpha / self.rank), earlier, site)
        keys = torch.empty(self.size, site.in_features).uniform_(-1.0, 1.0, generator=generator)
        made = self._taken(Keys(keys, torch.zeros(self.size), torch.ones(self.size)), earlier, site)
        if bool(made.counts.any()):
            often = 1 / (made.counts + UNUSED)
            made.weights = often / often.sum()
        return made

    def _earlier(self, site: Site) -> Delta | None:
        """What the stage before left on a site, which is taken off: it goes on in a delta of this stage."""
        for name, delta in deltas_of(site).items():
            if isinstance(delta, Keys | Modulated) and name.endswith(f"-{NAME}"):
                detach(site, name)
                return delta
        return None

    def _taken(self, fresh: Any, earlier: Delta | None, site: Site) -> Any:
        """A delta that starts as the earlier one ended. MethodError where that has another shape."""
        if earlier is None:
            return fresh
        there, here = earlier.settings(), fresh.settings()
        if there != here:
            raise MethodError(
                f"the stage before left {there} on '{site.name}', and this one asks for {here}",
                where=f"'{NAME}', size, rank, alpha",
                remedy="write the same values in all stages of a sequence",
            )
        fresh.load_state_dict(earlier.state_dict())
        return fresh

    def penalty(self, weights: Mapping[str, Any], state: State) -> Tensor:
        keys: Keys = next(k for w in weights.values() if isinstance(k := w.deltas.get(NAME), Keys))
        queries, chosen = zip(*keys.seen.values(), strict=True)
        keys.seen = {}
        for c in chosen:
            keys.counts[c] += 1
        state.data["counts"] = [int(n) for n in keys.counts.tolist()]
        alike = F.cosine_similarity(torch.stack(queries), keys.keys[list(chosen)].float(), dim=-1)
        return -self.coefficient * alike.mean()

    def found(self, state: State) -> Found:
        counts = state.data["counts"]
        return Found(
            "Entries of the pool",
            "rows that were given each entry while it was trained, from the first task on",
            {"used": sum(n > 0 for n in counts), "of": len(counts)},
            columns=["entry", "rows"],
            rows=[[i, n] for i, n in enumerate(counts) if n],
        )
