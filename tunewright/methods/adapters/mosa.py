"""MoSA: sparse experts of one adapter train in turn and are merged at the end (Zhang et al. 2023, arXiv:2312.02923;
papers: mosa).

An adapter stands beside each block's feed-forward part and reads what this part reads, h [d]:

    A(h) = c (U_e drop(gelu(D h + b)) + u_e),     D [a, d] shared, U_e [d, a], u_e [d],   e of 1 .. E

The entries of U are cut at random into E equal groups; expert e trains the entries of its group (and a bias u_e), and
the others of U_e are zero. Every step draws e anew in every block for each of two passes; what is not drawn has no
gradient, so that its moments wait. The passes give logits z1 and z2 [S, C], and what is minimised is for each target

    cross-entropy(z1) + consistency (KL(sg p2 || p1) + KL(sg p1 || p2)) / 2,      p = softmax z, sg: no gradient

in nats. Evaluated, and kept when the stage ends, is the mean over the experts: a plain bottleneck, with no more numbers
than an adapter that was trained whole (its strength, and further stages, act on it as on any). Since every entry of U
has one owner and starts at 0, the mean is each trained entry divided by E: at evaluation an adapter says what its
experts say on average, not what they would say together.

Start: D uniform in +-1/sqrt(d), all else 0, which is the base. Defaults: E 4, a 64 (the authors' scripts for FGVC; 16
for VTAB), c 0.1, dropout 0.1, consistency 1; rate 8e-4 (1e-3 at ViT-B's width of 768; they use 5e-4 to 5e-3). With one
expert and consistency 0 it is AdaptFormer's adapter.
Costs two forwards and their backward passes a step, though the paper speaks of no computation beside (with consistency
0 it is one). Does not fold.
Raises MethodError for more experts than U has entries, and for a model without blocks of a dense feed-forward part.

Differs from the paper in: micro-batches of a step draw alike; D is always shared and dense (the authors' hierarchical
strategy, which all their scripts use); the adapter reads the states behind the block's own norm (there: behind a norm
of its own, which trains).
Source: Theia-4869/MoSA, src/models/vit_adapter/vit_mosa.py, src/utils/pruner.py, src/engine/trainer.py and its scripts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Method, Setup, State, torch_generator
from tunewright.errors import MethodError
from tunewright.models import deltas
from tunewright.models.adapted import Adapted
from tunewright.models.bottlenecks import Tap
from tunewright.models.sites import Site
from tunewright.models.split_bottleneck import PASSES, SplitBottleneck, second_pass, split
from tunewright.pieces.insertion import lora_start
from tunewright.pieces.sublayers import check_parts, parts_of


def disagreement(first: Tensor, second: Tensor) -> Tensor:
    """[S] half the sum of both Kullback-Leibler divergences of logits [S, C], each with its target held still."""
    p, q = first.float().log_softmax(-1), second.float().log_softmax(-1)
    from_q = (q.detach().exp() * (q.detach() - p)).sum(-1)
    from_p = (p.detach().exp() * (p.detach() - q)).sum(-1)
    return (from_q + from_p) / 2


class MoSA(Method):
    """Sparse experts of an adapter, one a forward, merged at the end."""

    experts: PositiveInt = Field(4, description="E, groups that the way up is cut into", examples=[3])
    bottleneck_size: PositiveInt = Field(64, description="a, width of an adapter", examples=[4])
    scaling: PositiveFloat = Field(0.1, description="factor c on an adapter's output", examples=[2.5])
    dropout: float = Field(
        0.1, ge=0, lt=1, description="share of an adapter's inner values set to zero while training", examples=[0.5]
    )
    consistency: NonNegativeFloat = Field(
        1.0, description="weight of the disagreement of two passes; 0: one pass", examples=[30.0]
    )

    category: ClassVar[str] = "additive"
    folds: ClassVar[bool] = False
    quantised: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...] | None] = (
        "image-classification",
        "text-classification",
        "token-classification",
        "audio-classification",
        "text-generation",
        "fill-mask",
    )
    learning_rates: ClassVar[Mapping[str, float]] = {"": 8e-4}
    papers: ClassVar[tuple[str, ...]] = ("mosa",)
    conformance: ClassVar[dict[str, object]] = {"bottleneck_size": 8, "dropout": 0.0}

    def setup(self, run: Setup) -> State:
        found = parts_of(run.adapted.model, run.structure)
        check_parts(found, "mosa", attention=False, mlp=True)
        parts = [p.mlp for p in found.values() if p.mlp is not None]
        least = min(run.structure.site(p.last).out_features for p in parts) * self.bottleneck_size
        if self.experts > least:
            raise MethodError(
                f"{self.experts} experts are to share {least} entries",
                where="mosa.experts",
                remedy=f"write at most {least}",
            )
        return State(reads={p.last: p.first for p in parts}, seed=run.rng.getrandbits(31))

    def attach(self, site: Site, state: State, rng: random.Random) -> Tap | SplitBottleneck | None:
        reads: Mapping[str, str] = state.data["reads"]
        if site.name in reads.values():
            return Tap(site.module, site.name)
        if site.name not in reads:
            return None
        generator, size = torch_generator(rng), site.out_features
        down, up = lora_start(self.bottleneck_size, size, size, generator)
        made = SplitBottleneck(
            site.module,
            down,
            split(up.numel(), self.experts, generator),
            self.experts,
            activation="gelu",
            factor=self.scaling,
            place="beside",
            source=reads[site.name],
            dropout=self.dropout,
        )
        made.drawn.copy_(self._draw(state, site.name, 0))
        return made

    def objective(self, outputs: Outputs, batch: Batch, forward: Callable[..., Outputs]) -> Loss:
        own = -outputs.log_probs()
        if not self.consistency:
            return Loss(own)
        with second_pass():
            again = forward(batch)
        apart = disagreement(outputs.logits, again.logits)
        return Loss(own + self.consistency * apart, logs={"disagreement": apart})

    def after_step(self, step: int, adapted: Adapted, state: State) -> None:
        for site in adapted.structure.sites:
            for delta in deltas.deltas_of(site).values():
                if isinstance(delta, SplitBottleneck):
                    delta.drawn.copy_(self._draw(state, site.name, step))

    def end_task(self, adapted: Adapted) -> None:
        for site in adapted.structure.every_site:
            for name, delta in deltas.deltas_of(site).items():
                if isinstance(delta, SplitBottleneck):
                    with torch.no_grad():
                        plain = delta.merged()
                    deltas.detach(site, name)
                    deltas.attach(site, name, plain)

    def _draw(self, state: State, site: str, step: int) -> Tensor:
        """The experts of a site in a step's passes: the same however its rows are split, and after a resume."""
        rng = random.Random(f"{state.data['seed']}/{site}/{step}")
        return torch.tensor([rng.randrange(self.experts) for _ in range(PASSES)])
