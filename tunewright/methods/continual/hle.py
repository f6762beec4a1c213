"""Hierarchical label expansion: coarse classes come first and finer ones later; rows get labels of the levels that they
lack, of a tree of classes, and kept rows of newly seen classes come first (Lee et al. 2023, arXiv:2308.14374; papers:
hle).

    known     a row's class y, and each class above it in the tree
    pseudo    below the lowest label c so far: the likeliest of c's children that have been seen, where its probability
              among these is `threshold` or more; and so on downwards
    loss      sum over levels l of w_l CE(z among the classes of level l that have been seen, the row's label there);
              w_l is 1 at the row's own level, `pseudo_weight` at others

A class of no parent is of level 0, its children of level 1, and so on. Rows of the step and kept ones alike. Each step
trains on its rows and on `minibatch_size` kept ones, of which `new_share` are of classes that the stage brought first
(where either kind is lacking, of the other); by `keep: balanced` a new class takes places from the largest. What adapts
the model stands beside it (`full`, `lora`).

Levels are trained apart: an answer is one among a level's classes, so that a sequence of one level a task says
`scenario: task-incremental` (docs/continual.md). Kept rows go on into later stages and are counted in a report.
MethodError for a name in `tree` that no class has, a class of two parents, and a tree that comes back to itself.

Defaults: pseudo_weight 1, threshold 0.5, new_share 0.5, 500 rows: ours.
Reconstructed from the abstract, and from what the paper's own summary says: which labels are filled in, how sure they
must be, their weight and the share of new classes are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Need, Needs, Setup, State
from tunewright.errors import MethodError, did_you_mean
from tunewright.methods.needs.row_labels import RowLabels
from tunewright.pieces.rehearsal import LEAVES, Keep, RehearsalMethod
from tunewright.training.inner import Inner

NAME = "hle"
NONE = -1


def paths_of(tree: Mapping[str, Sequence[str]], names: Mapping[str, int], classes: int) -> list[list[int]]:
    """[C][L] for each class the classes from the top down to itself, by number; -1 below itself. MethodError for what
    is no tree of these classes.
    """
    parent: dict[int, int] = {}
    for above, below in tree.items():
        for name in (above, *below):
            if name not in names:
                raise MethodError(
                    f"the tree names '{name}', and no class is called so",
                    where=f"'{NAME}', tree",
                    remedy=did_you_mean(name, names),
                )
        for name in below:
            if (first := parent.setdefault(names[name], names[above])) != names[above]:
                other = next(n for n, i in names.items() if i == first)
                raise MethodError(
                    f"'{name}' is below '{other}' and below '{above}'",
                    where=f"'{NAME}', tree",
                    remedy="give each class one parent",
                )
    paths: list[list[int]] = []
    for c in range(classes):
        path = [c]
        while path[0] in parent:
            path.insert(0, parent[path[0]])
            if len(path) > classes:
                name = next(n for n, i in names.items() if i == c)
                raise MethodError(
                    f"the tree comes back to '{name}'", where=f"'{NAME}', tree", remedy="let no class be above itself"
                )
        paths.append(path)
    depth = max(map(len, paths))
    return [path + [NONE] * (depth - len(path)) for path in paths]


def filled_in(logits: Tensor, labels: Tensor, paths: Tensor, seen: Tensor, threshold: float) -> Tensor:
    """[R, L] a class for each level of rows with `labels` [R], -1 where there is none: those of `paths` [C, L] that
    have been `seen` [C] (bool), and below them pseudo-labels of logits [R, C].
    """
    found = paths[labels].clone()
    for level in range(1, paths.shape[1]):
        above, lacks = found[:, level - 1], found[:, level] == NONE
        own = paths[:, level] == torch.arange(len(paths), device=paths.device)  # classes of this level
        children = own[None] & seen[None] & (paths[None, :, level - 1] == above[:, None]) & (above != NONE)[:, None]
        sure, likeliest = logits.float().masked_fill(~children, -torch.inf).softmax(-1).max(-1)
        says = lacks & children.any(1) & (sure >= threshold)
        found[:, level] = torch.where(says, likeliest, found[:, level])
    return torch.where((found != NONE) & seen[found.clamp(min=0)], found, NONE)


class HLE(RehearsalMethod):
    """Fill in the levels of a tree of classes that a row's label lacks, and rehearse newly seen classes first."""

    tree: Annotated[dict[str, list[str]], Field(min_length=1)] = Field(
        description="a class -> the finer classes that it splits into, by name",
        examples=[{"LABEL_1": ["LABEL_2"]}],
    )
    pseudo_weight: NonNegativeFloat = Field(
        1.0, description="weight of the loss at levels of which the row has no label of its own", examples=[0.2]
    )
    threshold: float = Field(
        0.5, ge=0, le=1, description="least probability of a pseudo-label among its siblings", examples=[1.0]
    )
    new_share: float = Field(
        0.5, ge=0, le=1, description="share of a step's kept rows that are of the stage's new classes", examples=[0.0]
    )
    minibatch_size: PositiveInt | None = Field(
        None, description="kept rows a step; left out: as many as the step has rows", examples=[1]
    )
    keep: Keep = Field("balanced", description="which rows are kept of the stream", examples=["reservoir"])  # type: ignore[assignment]

    tasks: ClassVar[tuple[str, ...] | None] = ("text-classification", "image-classification", "audio-classification")
    leaves: ClassVar[tuple[str, ...]] = (*LEAVES, "classes")
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[dict[str, object]] = {"buffer_size": 5, "tree": {"LABEL_0": ["LABEL_1", "LABEL_2"]}}
    conformance_stages: ClassVar[int] = 2
    _name: ClassVar[str] = NAME

    def needs(self) -> Sequence[Need]:
        return (RowLabels(),)

    def setup(self, run: Setup) -> State:
        state, before = super().setup(run), run.earlier.latest(NAME)
        config = run.adapted.model.config
        names = {str(name): int(i) for i, name in config.id2label.items()}  # type: ignore[union-attr, operator]
        state.data |= {"classes": list(before.values["classes"]) if before else [], "new": []}
        state.data["paths"] = paths_of(self.tree, names, len(names))
        return state

    def begin_task(self, needs: Needs, state: State) -> None:
        known = state.data["classes"]
        new = [c for c in needs.row_labels if c not in known]
        state.data |= {"new": new, "classes": sorted({*known, *new})}

    def step(self, inner: Inner, step: int, state: State) -> None:
        buffer, count = self._buffer(state), self.minibatch_size or len(inner.rows)
        new = [s for s, (_, c) in enumerate(buffer.slots) if c in state.data["new"]]
        drawn = buffer.draw(round(self.new_share * count), step, "new", new)
        older = [s for s in range(len(buffer)) if s not in new]
        for purpose, among in (("older", older), ("more", [s for s in new if s not in drawn])):
            drawn += buffer.draw(count - len(drawn), step, purpose, among)
        inner.gradients(also=[buffer.row(slot) for slot in drawn])
        buffer.add(inner.rows)

    def objective(self, outputs: Outputs, batch: Batch, state: State) -> Loss:
        logits, labels, device = outputs.logits.float(), batch.labels, outputs.logits.device
        paths = torch.tensor(state.data["paths"], device=device)
        seen = torch.zeros(len(paths), dtype=torch.bool, device=device)
        seen[state.data["classes"]] = True
        found = filled_in(logits.detach(), labels, paths, seen, self.threshold)
        total, filled = torch.zeros(len(labels), device=device), torch.zeros(len(labels), device=device)
        for level in range(paths.shape[1]):
            there = seen & (paths[:, level] == torch.arange(len(paths), device=device))
            has = found[:, level] != NONE
            if not bool(has.any()):
                continue
            said = logits.masked_fill(~there, -torch.inf)[has]
            loss = F.cross_entropy(said, found[has, level], reduction="none")
            own = found[has, level] == labels[has]
            total = total.index_add(0, has.nonzero()[:, 0], torch.where(own, loss, self.pseudo_weight * loss))
            filled = filled.index_add(0, has.nonzero()[:, 0], (~own).float())
        return Loss(total, logs={"filled_in": filled})
