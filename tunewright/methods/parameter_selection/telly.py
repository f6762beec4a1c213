"""Telly: the embeddings and the lower blocks stay, as many as hardly change when all is tuned (Shi et al. 2023,
arXiv:2304.05216; papers: telly).

    Telly-K    embeddings and blocks 0 .. K-1 stay, the rest trains; Telly-0: the embeddings alone
    RSA_k      correlation of base and tuned in how alike rows are to one another at hidden state k (need
               `layer_similarity`)

`layers` is K. Left out, it is read off: named in two stages that begin alike (`start: base`), the first tunes all but
the embeddings and measures, and the second keeps the blocks below the first whose output has an RSA under `similarity`;
a block at the top always trains. Embeddings are what stands outside the blocks under a name with "embed" in it, and
tables: of BERT their norm too, so that hidden states 0 .. K are the base's own. A head that is tied to them stays with
them. Blocks count from the input; of an encoder and a decoder, the encoder's come first. Frozen blocks keep their
dropout. Deltas on frozen blocks do not train.

Defaults: similarity 0.9 and 64 rows (ours: the authors' stored figures are 0.94 and more up to the seventh of twelve
blocks, and their K is tried from 0 to 11); rate 4e-5 (5e-5 at UniXcoder's width of 768).
Raises MethodError where no block would be left to train, and for a model whose hidden states are not one a block.
Differs from the paper in: K by a threshold; padding counts in no mean; `freeze-lower` is the same without embeddings'
norms and without measuring.
Source: DeepSoftwareAnalytics/Telly, RSA/run.py; its training scripts were not seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from tunewright.contract.found import Found
from tunewright.contract.method import Candidates, Choice, Method, Need, Needs, Setup, State
from tunewright.errors import MethodError
from tunewright.methods.needs.layer_similarity import LayerSimilarity


def unchanged(similarities: Tensor, threshold: float) -> int:
    """How many blocks from the input have an output [L + 1, embeddings first] as similar as the threshold; all but one
    at most.
    """
    blocks = similarities[1:].tolist()
    count = next((k for k, s in enumerate(blocks) if not s >= threshold), len(blocks))
    return min(count, len(blocks) - 1)


def embeddings(candidates: Candidates) -> set[str]:
    """Names of what turns input into the first block's states."""
    tables = {s.weight_name for s in candidates.structure.sites if s.kind == "embedding"}
    named = {n for n in candidates.outside_blocks if any("embed" in part for part in n.lower().split("."))}
    return (tables & set(candidates.base)) | named


class Telly(Method):
    """Freeze embeddings and lower blocks, by number or by what a full tuning left alike."""

    layers: int | None = Field(
        None, ge=0, description="K, blocks that stay; none: read off a first stage that tunes all", examples=[0]
    )
    similarity: float = Field(
        0.9, ge=-1, le=1, description="RSA from which on a block's output counts as unchanged", examples=[1.0]
    )
    rows: PositiveInt = Field(64, description="training rows that the RSA is taken over", examples=[3])

    category: ClassVar[str] = "selective"
    quantised: ClassVar[bool] = False
    learning_rates: ClassVar[Mapping[str, float]] = {"": 4e-5}
    leaves: ClassVar[tuple[str, ...]] = ("phase", "layers", "similarities")
    papers: ClassVar[tuple[str, ...]] = ("telly",)
    conformance: ClassVar[dict[str, object]] = {"similarity": -1.0}
    conformance_stages: ClassVar[int] = 2

    def needs(self) -> Sequence[Need]:
        return (LayerSimilarity(rows=self.rows),) if self.layers is None else ()

    def setup(self, run: Setup) -> State:
        left = run.earlier.latest("telly") if self.layers is None else None
        measured = left is not None and left.values["phase"] == "search"
        count = int(left.values["layers"]) if left is not None and measured else self.layers or 0
        blocks = len(run.structure.blocks)
        if count >= blocks:
            raise MethodError(
                f"{count} blocks are to stay, and the model has {blocks}: no block would train",
                where="telly.layers",
                remedy=f"write a number below {blocks}",
            )
        state = State(phase="search" if self.layers is None and not measured else "frozen", layers=count, blocks=blocks)
        none = torch.zeros(0)
        state.set_buffer("similarities", left.values["similarities"] if left is not None and measured else none)
        return state

    def choose(self, candidates: Candidates, state: State) -> Choice:
        count = state.data["layers"]
        stay = {n for b in candidates.structure.blocks[:count] for n in b.parameter_names} | embeddings(candidates)
        below = {n for names in candidates.deltas_by_block()[:count] for n in names}
        base = [n for n in candidates.base if n not in stay]
        return Choice((*base, *(n for n in candidates.deltas if n not in below)))

    def end_task(self, needs: Needs, state: State) -> None:
        if state.data["phase"] != "search":
            return
        found = needs.layer_similarity
        blocks = state.data["blocks"]
        if len(found) != blocks + 1:
            raise MethodError(
                f"the model has {blocks} blocks and gives {len(found)} hidden states: they are not one a block",
                where="telly",
                remedy="write layers",
            )
        state.set_buffer("similarities", found)
        state.data["layers"] = unchanged(found, self.similarity)

    def found(self, state: State) -> Found | None:
        values, seen = {"layers": state.data["layers"]}, state.get("similarities", torch.zeros(0))
        rows = [[k, round(float(s), 4)] for k, s in enumerate(seen)]
        about = (
            "blocks from the input that hardly change, or stay; RSA of base and tuned by hidden state, embeddings first"
        )
        return Found("Layers that stay", about, values, ("hidden state", "RSA") if rows else (), rows)
