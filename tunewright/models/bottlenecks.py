"""Bottlenecks inserted into a block: behind a part of it, beside or across it, or around the norm that ends it.

A bottleneck is A(h) = c (U f(D h + b) + u) of a vector h [..., d]: down D [a, d], up U [out, a], biases b [a], u
[out], a nonlinearity f and a factor c. Where it stands is two things: what it reads, and where its output is added.

    behind     y <- y + s A(y)             the output y of a layer, or of a whole block
    across     y <- y + s A(x)             x is what the layer itself is given
    beside     y <- y + s A(x)             x is what another layer of the same block, run before, was given
    around     y <- norm(x + s A(norm(x))) on a norm: what enters it is changed by what would leave it

`adds` is how often what is read is added to A's output: 0, unless a bottleneck has (1) or lacks (-1) a residual
connection of its own: y + s (A(h) + adds h), so that -1 behind a layer puts A(y) in the place of y.

"beside" is two deltas of one name: a `Tap` on the layer whose input is read, and the `Inserted` on the layer whose
output is changed. They meet by the tapped layer's name and their own; a block that is computed again runs both again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunewright.errors import MethodError
from tunewright.models.delta_forms import Delta
from tunewright.models.sites import Site

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "identity": lambda h: h,
}
"""Nonlinearities of a bottleneck by name; silu is also called swish."""

_seen = threading.local()


def _held() -> dict[tuple[str, str], Tensor]:
    """What taps have read and nobody has taken yet, in this thread."""
    if not hasattr(_seen, "held"):
        _seen.held = {}
    held: dict[tuple[str, str], Tensor] = _seen.held
    return held


class Homed(Delta):
    """A delta that knows the layer that it hangs on, and so its own name there."""

    foldable: ClassVar[bool] = False
    source: str = ""

    def __init__(self, module: nn.Module):
        super().__init__()
        self._home = (module,)  # in a tuple, or the layer would be a part of what hangs on it

    @property
    def called(self) -> str:
        """Its name on its layer, which a later stage may change."""
        module: Any = self._home[0]
        return next(n for n, d in module.delta.items() if d is self)

    def _read(self) -> Tensor:
        """What the tap of its name has seen enter the layer `source`."""
        found = _held().pop((self.source, self.called), None)
        if found is None:
            raise MethodError(
                f"a bottleneck reads what enters '{self.source}', which has not run before it in this block",
                remedy="write place: sequential, or use another method on this model",
            )
        return found


class Tap(Homed):
    """Reads what enters a layer, for the `Inserted` of its name elsewhere in the block; changes nothing."""

    form = "tap"
    meets: ClassVar[bool] = True
    site_kinds: ClassVar[tuple[str, ...]] = ("linear", "conv1d", "norm", "block")

    def __init__(self, module: nn.Module, source: str):
        super().__init__(module)
        self.source = source

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        _held()[self.source, self.called] = x
        return y

    def settings(self) -> dict[str, Any]:
        return {"source": self.source}

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> Tap:
        return cls(site.module, settings["source"])


class Inserted(Homed):
    """A bottleneck behind, across, beside or around what it hangs on; see above. `source`: the tapped layer's name.

    `gate` (w [1, d], v [1]), where there is one, multiplies A(h) by sigmoid(w h + v), a number for each token.
    """

    form = "inserted-bottleneck"
    compiles = True
    adds: float = 0.0
    site_kinds: ClassVar[tuple[str, ...]] = ("linear", "conv1d", "norm", "block")

    def __init__(
        self,
        module: nn.Module,
        down: Tensor,
        up: Tensor,
        *,
        activation: str = "relu",
        factor: float = 1.0,
        place: str = "behind",
        source: str = "",
        biased: bool = True,
        gated: bool = False,
        dropout: float = 0.0,
        adds: float = 0.0,
    ):
        super().__init__(module)
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)
        self.down_bias = nn.Parameter(torch.zeros(len(down))) if biased else None
        self.up_bias = nn.Parameter(torch.zeros(len(up))) if biased else None
        self.gate = nn.Parameter(torch.zeros(1, down.shape[1])) if gated else None
        self.gate_bias = nn.Parameter(torch.zeros(1)) if gated else None
        self.activation, self.factor, self.place, self.source = activation, float(factor), place, source
        self.dropout, self.adds = dropout, float(adds)

    def of(self, h: Tensor) -> Tensor:
        """A(h) [..., out]."""
        h = h.to(self.down.dtype)
        low = ACTIVATIONS[self.activation](F.linear(h, self.down, self.down_bias))
        out = F.linear(low, self.up, self.up_bias) * self.factor
        if self.gate is not None:
            out = out * torch.sigmoid(F.linear(h, self.gate, self.gate_bias))
        return F.dropout(out, self.dropout) if self.dropout and self.training else out

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.place == "around":
            module: Any = self._home[0]
            change = self.of(y) + self.adds * x if self.adds else self.of(y)
            changed: Tensor = module.tunewright_base.forward(module, x + (change * self.strength).to(x.dtype))
            return changed
        read = {"behind": y, "across": x}.get(self.place)
        read = self._read() if read is None else read
        change = self.of(read) + self.adds * read if self.adds else self.of(read)
        return y + (change * self.strength).to(y.dtype)

    def settings(self) -> dict[str, Any]:
        return {
            "shape": [len(self.up), len(self.down), self.down.shape[1]],
            "activation": self.activation,
            "factor": self.factor,
            "place": self.place,
            "source": self.source,
            "biased": self.down_bias is not None,
            "gated": self.gate is not None,
            "dropout": self.dropout,
            **({"adds": self.adds} if self.adds else {}),
        }

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> Inserted:
        rest = dict(settings)
        out, a, d = rest.pop("shape")
        return cls(site.module, torch.zeros(a, d), torch.zeros(out, a), **rest)
