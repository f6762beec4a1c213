"""A wider model of a narrow one by index maps: channels, heads and neurons are copied, and who reads them divides.

A map g gives for each new place the old one; c(j) counts the copies of j. What writes a space (rows of a weight, and
its bias) is copied, W'[i] = W[g(i)]; what reads it (columns) is copied and divided, W'[:, i] = W[:, g(i)] / c(g(i)), so
that sums are what they were. Norms keep their values where each channel of the residual stream is copied equally often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tunewright.errors import MethodError
from tunewright.models.arguments import embedding_of
from tunewright.models.sites import Site, Structure, discover
from tunewright.models.surgery import Surgery, like, put_parameters, stack_of

NEURONS = ("intermediate_size", "ffn_dim", "hidden_dim", "n_inner")
"""How configs call the number of neurons of an MLP."""


@dataclass(frozen=True)
class Shape:
    """What is widened: channels of the residual stream, heads, groups of keys and values, neurons of an MLP."""

    channels: int
    heads: int
    groups: int
    neurons: int
    head_size: int
    neurons_called: str

    @classmethod
    def of(cls, model: Any) -> Shape:
        """As the model's config has it. MethodError where that does not say."""
        config: Any = getattr(model, "config", None)
        called = next((n for n in NEURONS if isinstance(getattr(config, n, None), int)), None)
        names = ("hidden_size", "num_attention_heads")
        if called is None or any(not isinstance(getattr(config, n, None), int) for n in names):
            raise MethodError(
                f"the config of {type(model).__name__} does not say how wide it is ({', '.join((*names, NEURONS[0]))})",
                remedy="this architecture cannot be widened here",
            )
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        groups = getattr(config, "num_key_value_heads", None) or heads
        return cls(config.hidden_size, heads, groups, getattr(config, called), size, called)

    def times(self, factor: float) -> Shape:
        """The shape `factor` times as wide; heads keep their size, and as many of them share a group as before.

        MethodError where something would not be whole.
        """
        sizes = {n: getattr(self, n) * factor for n in ("channels", "heads", "groups", "neurons")}
        if broken := [f"{getattr(self, n)} {n}" for n, v in sizes.items() if v != int(v)]:
            raise MethodError(
                f"{factor:g} times {', '.join(broken)} is no whole number",
                where="width",
                remedy=f"write a width that is a multiple of 1/{self.groups}, such as 2",
            )
        whole = {n: int(v) for n, v in sizes.items()}
        return Shape(**whole, head_size=self.head_size, neurons_called=self.neurons_called)

    def changes(self, config: Any) -> dict[str, Any]:
        """The config's settings that give this shape."""
        named = {"hidden_size": self.channels, "num_attention_heads": self.heads, self.neurons_called: self.neurons}
        if isinstance(getattr(config, "num_key_value_heads", None), int):
            named["num_key_value_heads"] = self.groups
        if isinstance(getattr(config, "head_dim", None), int):
            named["head_dim"] = self.head_size
        return named


@dataclass(frozen=True)
class Spaces:
    """Which space a tensor's rows and columns lie in: channels | heads | groups | neurons, "" for none. `block`: its
    block."""

    rows: str
    columns: str
    block: int | None


class Widened(Surgery):
    """The model `channels` [D], `groups` (L lists [G]) and `neurons` (L lists [F]) of old places make of it.

    A group is a head of keys and values with the heads of queries that read it. `above`: rows of heads and neurons
    beyond the old ones come from the block above (the last block's from itself), and are read as the own ones are.
    """

    form: ClassVar[str] = "widened"

    def __init__(
        self,
        channels: Sequence[int],
        groups: Sequence[Sequence[int]],
        neurons: Sequence[Sequence[int]],
        above: bool = False,
    ):
        self.channels, self.above = [int(i) for i in channels], bool(above)
        self.groups, self.neurons = ([[int(i) for i in m] for m in maps] for maps in (groups, neurons))

    def settings(self) -> dict[str, Any]:
        return {"channels": self.channels, "groups": self.groups, "neurons": self.neurons, "above": self.above}

    @property
    def even(self) -> bool:
        """Whether each channel of the residual stream is copied equally often, as norms need it."""
        return len({self.channels.count(i) for i in set(self.channels)}) == 1

    @property
    def preserves(self) -> bool:
        return self.even and not self.above

    def told(self) -> str:
        more = ", new heads and neurons from the block above" if self.above else ""
        return f"widened to {len(self.channels)} channels and {len(self.neurons[0])} neurons a block{more}"

    def apply(self, model: nn.Module) -> nn.Module:
        structure = discover(model)
        stack_of(structure)
        shape = Shape.of(model)
        if len(self.groups) != len(structure.blocks) or len(self.neurons) != len(structure.blocks):
            raise MethodError(
                f"the model has {len(structure.blocks)} blocks, and there are maps for {len(self.groups)}"
            )
        for what, maps, width in (
            ("channels", [self.channels], shape.channels),
            ("groups", self.groups, shape.groups),
            ("neurons", self.neurons, shape.neurons),
        ):
            if any(m[:width] != list(range(width)) or not set(m) <= set(range(width)) for m in maps):
                raise MethodError(
                    f"a map of {what} keeps the {width} old ones in their places and copies of them after"
                )
        wide = Shape(
            len(self.channels),
            len(self.groups[0]) * (shape.heads // shape.groups),
            len(self.groups[0]),
            len(self.neurons[0]),
            shape.head_size,
            shape.neurons_called,
        )
        body = like(model, wide.changes(getattr(model, "config", None)))
        sites = {s.name: s for s in structure.sites}
        spaces = {n: s for site in structure.sites for n, s in _spaces(site, structure).items()}
        last = _before_tied_head(model, structure)
        old: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
        names = {id(p): n for n, p in body.named_parameters(remove_duplicate=False)}
        values: dict[str, Tensor] = {n: b for n, b in model.named_buffers()}
        for name, p in body.named_parameters():
            source = name if name in old else names[id(p)]
            if source not in old:
                raise MethodError(
                    f"a model of the new shape has '{source}', and the model has nothing of that name",
                    remedy="this architecture cannot be widened here",
                )
            where = spaces.get(source) or Spaces(*_outside(old[source]), None)
            site = sites.get(source.rpartition(".")[0])
            values[name] = self._value(old, source, tuple(p.shape), where, site, shape, structure)
            if last is not None and source.rpartition(".")[0] == last:
                counts = self._counts("channels", None, shape)[self._places("channels", None, shape)]
                values[name] = values[name] / counts.to(values[name])
        put_parameters(body, values)
        return body

    # -- maps ----------------------------------------------------------------------------------------------------------

    def _places(self, space: str, block: int | None, shape: Shape) -> Tensor:
        """For each new place of a space the old one [new]."""
        if space == "channels":
            return torch.tensor(self.channels)
        if block is None:
            raise MethodError(
                "a layer outside the blocks has another width in the new shape than the channels of its blocks",
                remedy="this architecture cannot be widened here",
            )
        if space == "neurons":
            return torch.tensor(self.neurons[block])
        share = shape.heads // shape.groups if space == "heads" else 1
        size = share * shape.head_size  # a group's rows lie side by side, whole heads in it
        return (torch.tensor(self.groups[block])[:, None] * size + torch.arange(size)[None]).flatten()

    def _counts(self, space: str, block: int | None, shape: Shape) -> Tensor:
        """How often each old place of a space is copied [old], fp32."""
        places = self._places(space, block, shape)
        return torch.bincount(places).float()

    def _value(
        self,
        old: Mapping[str, Tensor],
        name: str,
        new: tuple[int, ...],
        where: Spaces,
        site: Site | None,
        shape: Shape,
        structure: Structure,
    ) -> Tensor:
        """A tensor's values in the new shape; the tensor itself where nothing of it changes."""
        tensor = old[name]
        if tensor.dim() == 0:
            return tensor
        transposed = site is not None and site.kind == "conv1d" and tensor.dim() == 2
        rows, columns = (1, 0) if transposed else (0, tensor.dim() - 1)
        if tensor.dim() == 1:
            columns = -1
        elif site is not None and site.kind == "conv":
            columns = -1 if new[1] == tensor.shape[1] else 1
        value = tensor.detach()
        if columns >= 0 and where.columns and new[columns] != tensor.shape[columns]:
            value = self._read(value, columns, where, shape, divide=site is None or site.kind != "embedding")
        if where.rows and new[rows] != tensor.shape[rows]:
            value = self._written(old, name, value, rows, columns, where, shape, structure)
        return tensor if value.data_ptr() == tensor.data_ptr() and value.shape == tensor.shape else value

    def _read(self, value: Tensor, dim: int, where: Spaces, shape: Shape, *, divide: bool) -> Tensor:
        """Columns copied; divided by their counts where they are summed over."""
        places = self._places(where.columns, where.block, shape).to(value.device)
        value = value.index_select(dim, places)
        if not divide or where.rows == "kept":
            return value
        counts = self._counts(where.columns, where.block, shape).to(value.device)[places]
        return value / counts.view([-1 if i == dim else 1 for i in range(value.dim())]).to(value.dtype)

    def _written(
        self,
        old: Mapping[str, Tensor],
        name: str,
        value: Tensor,
        dim: int,
        columns: int,
        where: Spaces,
        shape: Shape,
        structure: Structure,
    ) -> Tensor:
        """Rows copied; those beyond the old ones from the block above, where that is asked for and there is one."""
        places = self._places(where.rows, where.block, shape).to(value.device)
        out = value.index_select(dim, places)
        if not self.above or where.rows == "channels" or where.block is None:
            return out
        upper = where.block + 1
        if upper >= len(structure.blocks):
            return out
        here, there = structure.blocks[where.block].name, structure.blocks[upper].name
        other = old[there + name.removeprefix(here)].detach()
        if columns >= 0 and where.columns and other.shape[columns] != value.shape[columns]:
            other = self._read(other, columns, Spaces(where.rows, where.columns, upper), shape, divide=True)
        first = value.shape[dim]
        new = other.index_select(dim, places[first:])
        return torch.cat([out.narrow(dim, 0, first), new], dim)


def _spaces(site: Site, structure: Structure) -> dict[str, Spaces]:
    """Parameter name -> its spaces, for the parameters of one site."""
    inside, block = site.block is not None, site.block
    rows, columns = "channels", "channels"
    leaf = site.name.rpartition(".")[2]
    if site.kind == "embedding":
        rows = ""
    elif inside and site.kind in ("linear", "conv1d"):
        assert block is not None
        mates = [s.name for s in structure.blocks[block].sites if s.role == site.role and s.kind == site.kind]
        if site.role == "attention":
            rows, columns = _in_attention(site, mates, leaf)
        elif len(mates) not in (2, 3):
            raise MethodError(
                f"the MLP of '{structure.blocks[block].name}' has {len(mates)} linear layers, not two or three",
                remedy="this architecture cannot be widened here",
            )
        else:
            rows, columns = ("channels", "neurons") if site.name == mates[-1] else ("neurons", "channels")
    elif inside and site.kind == "norm" and site.role == "norm" and leaf[:1] in "qk":
        rows = ""  # a norm over each head, whose size stays; over all heads it would be found to change its shape
    names = dict.fromkeys(n for n, _ in site.module.named_parameters(recurse=False))
    return {f"{site.name}.{n}": Spaces(rows, columns if n == "weight" else "", block) for n in names}


def _in_attention(site: Site, mates: Sequence[str], leaf: str) -> tuple[str, str]:
    if len(mates) != 4 or leaf[:1] not in "qkv" and site.name != mates[-1]:
        raise MethodError(
            f"the attention around '{site.name}' has {len(mates)} linear layers, and four are known: queries, keys, "
            "values and the output",
            remedy="this architecture cannot be widened here",
        )
    if site.name == mates[-1]:
        return "channels", "heads"
    return ("heads", "channels") if leaf.startswith("q") else ("groups", "channels")


def _outside(tensor: Tensor) -> tuple[str, str]:
    """The spaces of a parameter of no site (a class token, positions, a scale): its last dimension is the stream's."""
    return ("channels", "") if tensor.dim() == 1 else ("kept", "channels")


def _before_tied_head(model: Any, structure: Structure) -> str | None:
    """The norm that feeds a head which shares its weight with the embedding: it divides for it. None where none does.

    An embedding is copied and a head divided: one matrix cannot be both.
    """
    embedding = embedding_of(model)
    shared = any(first.startswith(n) for first in structure.tied.values() for n in _names(model, embedding))
    if not shared:
        return None
    norms = [s.name for s in structure.sites if s.kind == "norm" and s.block is None]
    if not norms:
        raise MethodError(
            "the head shares its weight with the embedding, and no norm before it could divide",
            remedy="this architecture cannot be widened here",
        )
    return norms[-1]


def _names(model: nn.Module, module: Any) -> list[str]:
    return [f"{n}." for n, m in model.named_modules() if m is module]
