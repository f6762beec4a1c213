"""Layer-wise rates: the lower a layer lies, the more slowly it moves (Howard, Ruder 2018, arXiv:1801.06146; as a way to
steady fine-tuning on few rows: Tinn et al. 2021, arXiv:2112.07869).

With L blocks in a stack, the rate of what belongs to block d (0 the lowest) is multiplied by decay^(L - d): the top
block by decay, the one below by decay^2 ...; embeddings by decay^(L + 1); the head, a final norm and everything else
outside of the blocks keep their rate. Deltas follow the block that they hang in. An encoder and a decoder are two
stacks, each counted from its own top. `decay` 1 is plain training, in every bit.

Defaults: 0.9, what the practice of ELECTRA-like encoders gives (0.8 to 0.9); the biomedical study's own value was not
seen.
Differs from published codes in: nothing is left out of the parameter groups (one published script drops the head's
weight decay and never trains what is neither embedding, layer nor head).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from tunewright.contract.method import Method
from tunewright.models.sites import Structure


def exponents(names: Mapping[str, Tensor] | list[str], structure: Structure) -> dict[str, int]:
    """How many times the rate of each parameter is multiplied by the decay; a name outside of the ladder is left
    out.
    """
    longest = max(b.stack_length for b in structure.blocks)
    below = [_with_its_kin(s.name, structure) for s in structure.sites if s.kind == "embedding" and s.block is None]
    found = {}
    for name in names:
        block = structure.block_of(name)
        if block is not None:
            found[name] = block.stack_length - block.depth
        elif any(name.startswith(b) for b in below):
            found[name] = longest + 1
    return found


def _with_its_kin(embedding: str, structure: Structure) -> str:
    """The start of the names of an embedding, and of what lies in one module with it (a norm) below all blocks."""
    parent = embedding.rpartition(".")[0] + "."
    above = parent == "." or any(b.name.startswith(parent) for b in structure.blocks)
    return embedding + "." if above else parent


class LayerwiseDecay(Method):
    """Learning rates that fall from the top block down to the embeddings."""

    divides: ClassVar[bool] = True
    decay: float = Field(0.9, gt=0, le=1, description="factor from each block to the one below it", examples=[0.5])

    def rates(self, parameters: Mapping[str, Tensor], structure: Structure) -> dict[str, float]:
        return {n: self.decay**k for n, k in exponents(parameters, structure).items()}
