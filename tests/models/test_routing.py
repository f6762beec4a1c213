"""Many adapters in one batch: each row as if it were alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests import tiny
from tunewright.errors import MethodError
from tunewright.models import deltas as forms
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.models.attention import packed_kwargs, prepare_attention
from tunewright.models.routing import routed


def make(kinds: dict[str, Any]) -> Adapted:
    """A tiny model with adapters by name: a rank, "gated", "offset" or "sparse"."""
    adapted = Adapted(tiny.llama())
    g = torch.Generator().manual_seed(0)
    for name, kind in kinds.items():
        for site in adapted.structure.linear_sites():
            out, inn = site.out_features, site.in_features
            if kind == "sparse":
                k = 7 + len(name)
                delta: forms.Delta = forms.Sparse(
                    torch.randperm(out * inn, generator=g)[:k].sort().values, torch.randn(k, generator=g), (out, inn)
                )
            else:
                r = kind if isinstance(kind, int) else 3
                A, B = torch.randn(r, inn, generator=g) / inn**0.5, torch.randn(out, r, generator=g) / r**0.5
                if kind == "gated":
                    delta = forms.GatedLowRank(A, B, torch.randn(r, generator=g), 0.5)
                else:
                    delta = forms.LowRank(A, B, 0.7, offset=kind == "offset")
                    with torch.no_grad():
                        delta.lora_B.add_(0.1)
            forms.attach(site, name, delta)
    return adapted


KINDS = {"a": 2, "b": 5, "gate": "gated", "off": "offset", "sp": "sparse", "spare": "sparse"}
ROWS = ["sp", None, "a", "b", "gate", "a", "off", "spare"]
IDS = [list(range(10 + i, 16 + i + i % 4)) for i in range(len(ROWS))]


def alone(adapted: Adapted, name: str | None, ids: list[int]) -> torch.Tensor:
    for by_name in adapted.deltas().values():
        for n, d in by_name.items():
            d.active = n == name
    out: torch.Tensor = adapted.model(torch.tensor([ids])).logits[0]
    for by_name in adapted.deltas().values():
        for d in by_name.values():
            d.active = True
    return out


@pytest.mark.parametrize("packed", [True, False])
def test_each_row_is_as_if_alone(packed: bool) -> None:
    adapted = make(KINDS)
    with torch.no_grad():
        expected = [alone(adapted, n, ids) for n, ids in zip(ROWS, IDS, strict=True)]
        if packed:
            assert prepare_attention(adapted.model)  # type: ignore[arg-type]
            lengths = torch.tensor([len(i) for i in IDS])
            cu = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]).to(torch.int32)
            ids = torch.tensor([[t for i in IDS for t in i]])
            places = torch.cat([torch.arange(len(i)) for i in IDS])[None]
            with routed(adapted, ROWS, cu):
                together = adapted.model(ids, position_ids=places, use_cache=False, **packed_kwargs(cu)).logits[0]
            got = list(together.split(lengths.tolist()))
        else:
            longest = max(map(len, IDS))
            ids = torch.tensor([i + [0] * (longest - len(i)) for i in IDS])
            mask = torch.tensor([[1] * len(i) + [0] * (longest - len(i)) for i in IDS])
            with routed(adapted, ROWS):
                together = adapted.model(ids, attention_mask=mask).logits
            got = [together[k, : len(i)] for k, i in enumerate(IDS)]
    for name, a, b in zip(ROWS, expected, got, strict=True):
        assert (a - b).abs().max() < 1e-4, name
    assert (expected[2] - alone(adapted, None, IDS[2])).abs().max() > 0.05  # the adapters do something


def test_each_adapter_gets_the_gradient_of_its_own_rows() -> None:
    adapted = make({"a": 2, "b": 5, "sp": "sparse"})
    for p in adapted.delta_parameters().values():
        p.requires_grad_(True)
    names: list[str | None] = ["a", "b", "sp", "a"]
    ids = torch.tensor([IDS[0]] * 4) + torch.arange(4)[:, None]
    with routed(adapted, names):
        adapted.model(ids).logits.pow(2).sum().backward()
    together = {n: p.grad.clone() for n, p in adapted.delta_parameters().items() if p.grad is not None}
    adapted.model.zero_grad()
    sum(alone(adapted, n, i).pow(2).sum() for n, i in zip(names, ids.tolist(), strict=True)).backward()  # type: ignore[union-attr]
    for n, p in adapted.delta_parameters().items():
        assert p.grad is not None
        assert (together[n] - p.grad).norm() < 1e-4 * (1 + p.grad.norm()), n


class Count(TorchDispatchMode):
    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def test_the_work_of_a_forward_does_not_loop_over_adapters() -> None:
    """With the stacks made (once per batch), as many operations for sixteen adapters as for two."""
    calls = []
    for k in (2, 16):
        adapted = make({f"n{i}": 2 + i % 3 for i in range(k)})
        ids = torch.tensor([IDS[0]] * 16)
        with torch.no_grad(), routed(adapted, [f"n{i % k}" for i in range(16)]):
            adapted.model(ids, use_cache=False)
            with Count() as count:
                adapted.model(ids, use_cache=False)
        calls.append(count.calls)
    assert calls[0] == calls[1]


def test_wrong_names_and_counts_are_refused() -> None:
    adapted = make({"support": 2})
    with pytest.raises(MethodError, match="did you mean 'support'"), routed(adapted, ["suport"]):
        pass
    with pytest.raises(MethodError, match="3 rows and 1 adapters"), routed(adapted, ["support"]):
        adapted.model(torch.tensor([IDS[0]] * 3))
    base = tiny.llama()(torch.tensor([IDS[0]])).logits
    with routed(adapted, [None]):
        assert agrees(adapted.model(torch.tensor([IDS[0]])).logits, base)
