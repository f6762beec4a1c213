"""EK-FAC influence ranks what leaving a row out truly does better than the product of plain gradients."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import corpus
from tunewright.data.select.procedural_knowledge_influence import NAME, ProceduralKnowledgeInfluence
from tunewright.pieces import ekfac

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

ROWS, LEFT, ASKED, WIDTH, DECAY = 300, 60, 20, 12, 1e-2
"""Rows that are learnt; of these, left out one by one; test rows; hidden units; half the weight of squared weights."""
CLAIM = Claim(
    paper=NAME,
    says="Over test rows, the mean rank correlation between a row's influence and what the test row's loss truly gains "
    "by retraining without it is higher by at least 0.05 for EK-FAC than for the product of the two gradients.",
    task="digits",
    method=Arm(name="ek-fac", methods=["full"], uses=[NAME]),
    baselines=[Arm(name="gradients", methods=["full"])],
    metric="measured",
    direction="higher",
    smallest=0.05,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="a network of one hidden layer on 300 digits of MNIST, which can be retrained to its optimum sixty times, "
    "in the place of language models, for which the paper checks nothing by retraining; both layers count",
)


def rows(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(pictures [ROWS, 49], digits, test pictures, digits): means of 4 x 4 pixels, double."""
    rng, out = np.random.default_rng(seed), list[Tensor]()
    for part, count in (("train", ROWS), ("test", ASKED)):
        held = np.load(corpus.data_folder() / "mnist" / f"{part}.npz")
        at = rng.choice(len(held["y"]), count, replace=False)
        x = held["x"][at].reshape(count, 7, 4, 7, 4).mean((2, 4)).reshape(count, 49) / 255
        out += [torch.tensor(x, dtype=torch.float64), torch.tensor(held["y"][at], dtype=torch.long)]
    return out[0], out[1], out[2], out[3]


def fitted(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Go on to the optimum of the summed loss of ROWS rows, or of those but one, with squared weights."""
    lbfgs = torch.optim.LBFGS(
        model.parameters(), max_iter=400, tolerance_grad=1e-7, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Any:
        lbfgs.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y, reduction="sum") / ROWS
        loss = loss + DECAY / 2 * sum(p.square().sum() for p in model.parameters())
        loss.backward()
        return loss

    lbfgs.step(closure)


def ranked(found: Tensor, true: Tensor) -> float:
    """Mean over columns of the rank correlation of two [n, m]."""
    a, b = (x.argsort(0).argsort(0).double() for x in (found, true))
    a, b = (x - x.mean(0) for x in (a, b))
    return float(((a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0))).mean())


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Mean rank correlation with leaving out, of the method's influence (its own damping and drawn labels) and of
    gradients.
    """
    x, y, tx, ty = rows(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(49, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 10)).double()
    fitted(model, x, y)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    sites: Any = [SimpleNamespace(name=str(i), module=model[i]) for i in (0, 2)]
    with torch.enable_grad(), ekfac.watching(sites) as watch:

        def sides(a: Tensor, label: Tensor) -> ekfac.Sides:
            return watch.sides(nn.functional.cross_entropy(model(a[None]), label[None]))

        drawn = torch.multinomial(model(x).softmax(-1).detach(), 1, generator=generator)[:, 0]
        made = [sides(*row) for row in zip(x, drawn, strict=True)]
        factors = ekfac.corrected(ekfac.bases(made), made)
        given = [ekfac.gradients(sides(*row)) for row in zip(x[:LEFT], y[:LEFT], strict=True)]
        wanted = [ekfac.gradients(sides(*row)) for row in zip(tx, ty, strict=True)]
    damping = ProceduralKnowledgeInfluence().damping

    def products(some: list[dict[str, Tensor]]) -> Tensor:
        return torch.tensor([[sum(float((g[n] * t[n]).sum()) for n in g) for t in some] for g in given])

    found = {
        "ek-fac": products([{n: factors[n].solved(g, damping) for n, g in t.items()} for t in wanted]),
        "gradients": products(wanted),
    }
    with torch.no_grad():
        before = nn.functional.cross_entropy(model(tx), ty, reduction="none")
    true = list[Tensor]()
    for i in range(LEFT):
        model.load_state_dict(start)
        kept = torch.arange(ROWS) != i
        with torch.enable_grad():
            fitted(model, x[kept], y[kept])
        with torch.no_grad():
            true.append(nn.functional.cross_entropy(model(tx), ty, reduction="none") - before)
    return {arm: ranked(scores, torch.stack(true)) for arm, scores in found.items()}
