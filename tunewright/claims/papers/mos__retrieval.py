"""Going on until answer and adapter agree finds a row's own task more often than the prototypes' first guess."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.merging import finished
from tunewright.claims.papers.mos__prototypes import rows_of, tokens_of

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="mos",
    says="Self-refined retrieval gives a row the adapter of its own task more often than the first guess by the class "
    "prototypes, with the same finished model.",
    task="classes",
    method=Arm(name="refined", methods=["mos"]),
    baselines=[Arm(name="first", methods=["mos"])],
    metric="measured",
    direction="higher",
    smallest=0.02,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    differs="short texts instead of pictures, five tasks of two classes; the paper shows accuracy with and without "
    "refinement, not which adapter is retrieved",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of the judged rows that end with the adapter of their own task: after refinement, and by the first guess
    alone (one answer a row).
    """
    from tunewright.finished.finished import open_run
    from tunewright.models.context import Present, Rows, reading

    recipe = run.recipe("refined", seed)
    opened = open_run(finished(run, recipe).folder)
    wrapper: Any = opened.adapted.outer.eval()
    by: Any = opened.adapted.wrapped_by
    rows, names = rows_of(recipe.data.eval)[: recipe.measurement.rows], list(recipe.data.labels or ())
    owner = dict(zip(by.state.data["classes"], by.state.data["owners"], strict=True))
    wanted = torch.tensor([owner[names.index(r["label"])] for r in rows])
    shares: dict[str, float] = {}
    for arm, rounds in (("refined", wrapper.rounds), ("first", 1)):
        wrapper.rounds = rounds
        found: list[Tensor] = []
        for i in range(0, len(rows), 50):
            now = Present(Rows())
            with torch.no_grad(), reading(now):
                wrapper(**tokens_of(opened.tokenizer, rows[i : i + 50]))
            found += now.notes["retrieved"]
        shares[arm] = float((torch.cat(found) == wanted).float().mean())
    return shares
