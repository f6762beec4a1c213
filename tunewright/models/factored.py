"""Linear layers as the product of two thin ones: fewer parameters, and a forward of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tunewright.errors import MethodError
from tunewright.models.nf4 import put
from tunewright.models.sites import discover
from tunewright.models.surgery import Surgery, like, put_parameters


class Factors(nn.Module):
    """y = `expand`(`reduce`(x)): linear layers [k, in] without a bias and [out, k] with the old layer's."""

    def __init__(self, reduce: nn.Linear, expand: nn.Linear):
        super().__init__()
        self.reduce, self.expand = reduce, expand

    def forward(self, x: Tensor) -> Tensor:
        """[.., in] -> [.., out]."""
        out: Tensor = self.expand(self.reduce(x))
        return out

    @property
    def weight(self) -> Tensor:
        """The product: models ask a layer's weight for its type (T5 does before it casts)."""
        return self.product()

    def product(self) -> Tensor:
        """[out, in]: the weight of the one layer that says the same, formed in fp32."""
        return (self.expand.weight.float() @ self.reduce.weight.float()).to(self.expand.weight.dtype)


def halves(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(L [k, in], R [out, k]) with R L the best rank-k approximation of `weight` [out, in], singular values shared
    evenly: L = sqrt(S) V^T, R = U sqrt(S). The largest entry of each column of R is positive.
    """
    u, s, vt = torch.linalg.svd(weight.detach().float(), full_matrices=False)
    u, s, vt = u[:, :rank], s[:rank].sqrt(), vt[:rank]
    sign = torch.sign(u.gather(0, u.abs().argmax(0, keepdim=True)))
    return (s[:, None] * vt * sign.T), (u * s * sign)


class Factored(Surgery):
    """Each linear layer that `ranks` names becomes two of its rank. The model's config stays: the way back to what
    transformers loads is the product.
    """

    form: ClassVar[str] = "factored"
    computes: ClassVar[bool] = True

    def __init__(self, ranks: Mapping[str, int]):
        self.ranks = {str(n): int(k) for n, k in ranks.items()}

    def settings(self) -> dict[str, Any]:
        return {"ranks": self.ranks}

    @property
    def preserves(self) -> bool:
        return False

    def told(self) -> str:
        return f"{len(self.ranks)} linear layers factored, to ranks of {min(self.ranks.values())} and more"

    def apply(self, model: nn.Module) -> nn.Module:
        sites = {s.name: s for s in discover(model).sites if type(s.module) is nn.Linear}
        if missing := sorted(set(self.ranks) - set(sites)):
            raise MethodError(f"'{missing[0]}' is no plain linear layer of this model, and cannot be factored")
        body = like(model, {})
        put_parameters(body, {**dict(model.state_dict()), **dict(model.named_parameters(remove_duplicate=False))})
        for name, rank in self.ranks.items():
            old: Any = body.get_submodule(name)
            if not 1 <= rank <= min(old.weight.shape):
                raise MethodError(f"'{name}' is {tuple(old.weight.shape)}, and has no rank {rank}")
            thin, tall = (t.to(old.weight) for t in halves(old.weight, rank))
            reduce = nn.Linear(thin.shape[1], rank, bias=False, device="meta")
            expand = nn.Linear(rank, len(tall), bias=False, device="meta")
            reduce.weight, expand.weight = (nn.Parameter(t.contiguous(), requires_grad=False) for t in (thin, tall))
            expand.bias = old.bias
            put(body, name, Factors(reduce, expand).eval())
        return body

    def inverse(self, body: nn.Module) -> dict[str, Tensor]:
        values: dict[str, Tensor] = dict(body.named_parameters(remove_duplicate=False))
        for name in self.ranks:
            factors: Any = body.get_submodule(name)
            values[f"{name}.weight"] = factors.product()
            if factors.expand.bias is not None:
                values[f"{name}.bias"] = factors.expand.bias
        return values
