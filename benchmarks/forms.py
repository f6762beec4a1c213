"""Forward and backward of PEFT's forms beside PEFT's own, on one set of linear layers: `python -m benchmarks.forms`.

Both sides in one process, one after the other in each round; the median ratio of rounds is printed.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from typing import Any

import peft
import torch
from torch import nn

from tunewright.catalogue import load_method
from tunewright.contract.method import Needs
from tunewright.models.deltas import attach
from tunewright.models.sites import Site

FORMS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "lora": ({"rank": 16}, "LoraConfig", {"r": 16, "lora_alpha": 32}),
    "dora": ({"rank": 16}, "LoraConfig", {"r": 16, "lora_alpha": 32, "use_dora": True}),
    "ia3": ({}, "IA3Config", {"feedforward_modules": []}),
    "vera": ({"rank": 256}, "VeraConfig", {"r": 256}),
    "loha": ({"rank": 8}, "LoHaConfig", {"r": 8}),
    "lokr": ({"rank": 8}, "LoKrConfig", {"r": 8}),
    "oft": ({"block_size": 32}, "OFTConfig", {"oft_block_size": 32}),
}


class Layers(nn.Module):
    """Two layers of a feed-forward part, some times over."""

    def __init__(self, width: int, inner: int, count: int):
        super().__init__()
        torch.manual_seed(0)
        sides = [(width, inner), (inner, width)] * count
        self.layers = nn.ModuleList([nn.Linear(*s) for s in sides]).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def ours(model: Layers, name: str, fields: dict[str, Any]) -> Layers:
    """The model with the method's deltas on every layer."""
    rng, method = random.Random(0), load_method(name)(**fields)
    sites = [Site(f"layers.{i}", "linear", "other", 0, m) for i, m in enumerate(model.layers)]
    most = [max(s.in_features for s in sites), max(s.out_features for s in sites)]
    state: Any = type("State", (), {"data": {"sites": [s.name for s in sites], "widths": most}})()
    for site in sites:
        given = {"state": state, "rng": rng, **({"needs": Needs({})} if hasattr(method, "rank_at") else {})}
        attach(site, name, method.attach(site, **given))  # type: ignore[attr-defined]
    return model


def seconds(model: nn.Module, x: torch.Tensor) -> float:
    """One forward and backward."""
    began = time.perf_counter()
    model(x).square().mean().backward()
    return time.perf_counter() - began


def main() -> None:
    """Print a line for each form: milliseconds of both, and ours over theirs."""
    parser = argparse.ArgumentParser(description=__doc__)
    for flag, default in (("--width", 576), ("--inner", 1536), ("--count", 4), ("--tokens", 512), ("--rounds", 7)):
        parser.add_argument(flag, type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)
    x = torch.randn(1, args.tokens, args.width).requires_grad_()
    print(f"{'form':6} {'ours ms':>9} {'PEFT ms':>9} {'ratio (least-most)'}")
    for name, (fields, config, more) in FORMS.items():
        mine = ours(Layers(args.width, args.inner, args.count), name, fields)
        targets = [f"layers.{i}" for i in range(2 * args.count)]
        plain = Layers(args.width, args.inner, args.count)
        theirs = peft.get_peft_model(plain, getattr(peft, config)(target_modules=targets, **more))  # type: ignore[arg-type]
        pairs = [(seconds(mine, x), seconds(theirs, x)) for _ in range(args.rounds + 1)][1:]
        ratios = [a / b for a, b in pairs]
        a, b = (1e3 * statistics.median(p[i] for p in pairs) for i in (0, 1))
        span = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        print(f"{name:6} {a:9.1f} {b:9.1f} {span}", flush=True)


if __name__ == "__main__":
    main()
