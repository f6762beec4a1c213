"""CoLa: for one row alone, search which blocks to leave out and which to run again (Li, Li, Zhou 2025,
arXiv:2507.07996; papers: chain-of-layers).

A chain is a sequence of the frozen model's L blocks. Monte Carlo tree search begins at the model's own (0 ... L-1); a
move leaves out 1 to `most` neighbouring blocks, or runs them once more. Each of `simulations` walks down by

    argmax over children of  mean value + exploration sqrt(ln visits / child's visits)

adds one child, and counts the child's value all the way up. The value of a chain P is score - penalty |P| / L, and the
best chain seen answers the row. A shorter chain wins a tie.

The score needs no label: `confidence`, the largest probability (0 to 1), or `entropy`, 1 - H / log V (0 to 1). The
paper scores by the right answer, which nobody has at test time: that oracle says what chains exist, not what can be
found, and stands in the claim as a control alone. A score that a model gives itself is raised by chains that are
surely wrong.

Defaults are ours (64 simulations, moves of up to 2 blocks, chains of at most 1.5 L, exploration 1.4, penalty 0.1).
Raises MethodError for a model whose blocks are not all of one width in one stack. Differs from the paper in:
reconstructed from its abstract; classifiers, whose answer is one forward, in the place of writing models; the score;
blocks are left out and repeated, and not put in any other order.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from tunewright.contract.method import Method, Setup, State
from tunewright.contract.unlabelled import Unjudged, Unlabelled
from tunewright.models.chained import check_chain
from tunewright.models.sites import Structure
from tunewright.pieces.entropies import entropy

Chain = tuple[int, ...]
Score = Callable[[Chain], float]


def moves(chain: Chain, most: int, longest: int) -> Iterator[Chain]:
    """Chains that are one move away: 1 to `most` neighbours left out, or run once more; at least one block stays."""
    for size in range(1, most + 1):
        for at in range(len(chain) - size + 1):
            if size < len(chain):
                yield chain[:at] + chain[at + size :]
            if len(chain) + size <= longest:
                yield chain[: at + size] + chain[at:]


@dataclass
class _Node:
    chain: Chain
    left: list[Chain]
    children: list[_Node] = field(default_factory=list)
    visits: int = 0
    total: float = 0.0
    done: bool = False  # nothing below it is left to try

    def child(self, exploration: float) -> _Node | None:
        """The child that is worth a visit most, of those below which something is left."""
        log = math.log(self.visits)
        open_ones = [c for c in self.children if not c.done]
        return max(open_ones, key=lambda c: c.total / c.visits + exploration * math.sqrt(log / c.visits), default=None)


def search(
    value: Score,
    blocks: int,
    *,
    simulations: int,
    most: int = 2,
    longest: float = 1.5,
    exploration: float = 1.4,
    rng: random.Random,
) -> Chain:
    """The best chain that tree search finds. `value(chain)` is asked once of each of `simulations` chains at most,
    beside the model's own, which comes first.

    Of equal ones the shortest, and of these the first that was seen.
    """
    seen: dict[Chain, float] = {}
    most_blocks = max(blocks, int(longest * blocks))

    def node(chain: Chain) -> _Node:
        seen[chain] = value(chain)
        left = sorted(set(moves(chain, most, most_blocks)))
        rng.shuffle(left)
        return _Node(chain, left)

    root = node(tuple(range(blocks)))
    root.visits, root.total = 1, seen[root.chain]
    for _ in range(simulations):
        path = _walk(root, exploration, seen)
        if not path:
            break
        child = node(path[-1].left.pop())
        path[-1].children.append(child)
        for n in (*path, child):
            n.visits, n.total = n.visits + 1, n.total + seen[child.chain]
    return max(seen, key=lambda c: (seen[c], -len(c)))


def _walk(root: _Node, exploration: float, seen: Mapping[Chain, float]) -> list[_Node]:
    """From the root down to a node that has a new chain left to try; empty where none has."""
    path = [root]
    while path:
        here = path[-1]
        while here.left and here.left[-1] in seen:  # another node had it
            here.left.pop()
        if here.left:
            return path
        best = here.child(exploration)
        if best is None:
            here.done = True
            path.pop()
        else:
            path.append(best)
    return path


class ChainOfLayers(Method):
    """Search a chain of blocks for each row, and answer by it."""

    simulations: PositiveInt = Field(
        64,
        description="chains tried at most; each takes a forward, and so does the model's own chain before them",
        examples=[1],
    )
    most: PositiveInt = Field(
        2, description="neighbouring blocks that one move leaves out or repeats, at most", examples=[1]
    )
    longest: float = Field(
        1.5, ge=1, description="most blocks of a chain, as a multiple of the model's", examples=[1.0, 4.0]
    )
    exploration: NonNegativeFloat = Field(1.4, description="weight of what was seldom tried", examples=[20.0, 0.0])
    penalty: NonNegativeFloat = Field(
        0.1, description="taken from a chain's score, times its blocks as a share of the model's", examples=[2.0]
    )
    score: Literal["confidence", "entropy"] = Field("confidence", description="how sure an answer is, from 0 to 1")

    resets: ClassVar[Literal["never", "source", "batch", "row"]] = "row"
    papers: ClassVar[tuple[str, ...]] = ("chain-of-layers",)
    conformance: ClassVar[dict[str, object]] = {"simulations": 24}

    def setup(self, run: Setup) -> State:
        check_chain(run.structure)
        return State()

    def adapt(
        self,
        batch: Unlabelled,
        forward: Callable[..., Unjudged],
        structure: Structure,
        row_rng: Callable[[int], random.Random],
    ) -> Tensor:
        blocks = len(structure.blocks)

        answers: dict[Chain, Tensor] = {}

        def run(chain: Chain) -> Tensor:
            answers[chain] = forward(batch, path=chain).logits
            return answers[chain]

        def value(chain: Chain) -> float:
            return float(self._score(run(chain)).mean()) - self.penalty * len(chain) / blocks

        best = search(
            value,
            blocks,
            simulations=self.simulations,
            most=self.most,
            longest=self.longest,
            exploration=self.exploration,
            rng=row_rng(0),
        )
        return answers[best]

    def _score(self, logits: Tensor) -> Tensor:
        if self.score == "confidence":
            return logits.float().softmax(-1).amax(-1)
        return 1 - entropy(logits) / math.log(logits.shape[-1])
