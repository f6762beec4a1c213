"""The transformer that predicts the next, finer map of codes from all coarser ones (Tian et al. 2024,
arXiv:2404.02905, section 3.2).

All places of a map are predicted at once: a place sees those of its own map and of coarser ones (block-causal
attention), so that one forward predicts every map of a picture whose codes are known. A condition (one vector a row)
is the input of the first map and, through adaptive layer norms, scales, shifts and gates each block; queries and keys
have length one, times a scale of each head.

Checked against the paper's repository (FoundationVision/VAR at 78b9539, models/var.py and basic_var.py): the same mask,
and with its weights its logits (`tests/models/test_next_scale.py`). Differs in: queries, keys and values are three
layers in the place of one, as other models' are, so that methods find them by their usual names; no dropout and no
stochastic depth, since steps must come out again; no layers that blocks share (`shared_aln`), which it has at 512
pixels.

Shapes: R rows, L places over all scales, D width, H heads, C width of a code, V codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PAPERS = ("var",)
SHARPEST = math.log(100)
"""The largest logarithm of a head's scale."""
_EPS = 1e-6


def levels(scales: Sequence[int], device: torch.device | None = None) -> Tensor:
    """int64 [L]: the scale of each place."""
    sides = torch.tensor([s * s for s in scales], device=device)
    return torch.repeat_interleave(torch.arange(len(scales), device=device), sides)


def places_seen(level: Tensor) -> Tensor:
    """bool [l, l]: which places each place sees, of the scales of the first l: its own map's and coarser ones'."""
    return level[:, None] >= level[None]


class ScaleAttention(nn.Module):
    """Attention among the places that a mask allows."""

    def __init__(self, width: int, heads: int, unit_length: bool):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.sharpness = nn.Parameter(torch.full((heads,), math.log(4.0))) if unit_length else None

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """[R, l, D] of states [R, l, D], of the first l places."""
        q, k, v = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        scale = 0.25 / math.sqrt(q.shape[-1])
        if self.sharpness is not None:
            q = F.normalize(q, dim=-1) * self.sharpness.clamp_max(SHARPEST).exp()[:, None, None]
            k, scale = F.normalize(k, dim=-1), 1.0
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale)
        out: Tensor = self.out_proj(read.transpose(1, 2).flatten(2))
        return out


class ScaleBlock(nn.Module):
    """Attention and two layers, each between a norm that the condition scales and shifts, and a gate of it."""

    def __init__(self, width: int, heads: int, hidden: int, unit_length: bool):
        super().__init__()
        self.attn = ScaleAttention(width, heads, unit_length)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, condition: Tensor, seen: Tensor) -> Tensor:
        """[R, l, D] of states [R, l, D] and a condition [R, D]."""
        gate, gate_2, scale, scale_2, shift, shift_2 = self.modulation(F.silu(condition))[:, None].chunk(6, -1)
        x = x + self.attn(_norm(x) * (scale + 1) + shift, seen) * gate
        inner = F.gelu(self.fc1(_norm(x) * (scale_2 + 1) + shift_2), approximate="tanh")
        out: Tensor = x + self.fc2(inner) * gate_2
        return out


class NextScaleTransformer(nn.Module):
    """`settings` are those of its config.json: `width`, `depth`, `heads`, `hidden`, `codes` (V), `code_width` (C),
    `scales`, `condition` (width of what it is told of a row; 0: nothing, all rows are alike), `unit_length` (of queries
    and keys).
    """

    def __init__(self, settings: dict[str, Any]):
        super().__init__()
        self.settings = dict(settings)
        width, told = int(settings["width"]), int(settings["condition"])
        scales = tuple(settings["scales"])
        length, first = sum(s * s for s in scales), scales[0] ** 2
        self.word_embed = nn.Linear(int(settings["code_width"]), width)
        self.condition: nn.Module = nn.Linear(told, width) if told else nn.Embedding(1, width)
        self.start = nn.Parameter(torch.zeros(first, width))
        self.places = nn.Parameter(torch.zeros(length, width))
        self.levels = nn.Embedding(len(scales), width)
        sizes = (width, int(settings["heads"]), int(settings["hidden"]), bool(settings["unit_length"]))
        self.blocks = nn.ModuleList(ScaleBlock(*sizes) for _ in range(int(settings["depth"])))
        self.head_modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, int(settings["codes"]))

    def conditions(self, told: Tensor | None, rows: int) -> Tensor:
        """[R, D] of what is told of rows [R, E]; where nothing is, the one of all pictures."""
        if told is None:
            told = torch.zeros(rows, dtype=torch.long, device=self.start.device)
        out: Tensor = self.condition(told)
        return out

    def forward(self, inputs: Tensor, condition: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits [R, l, V] and the states [R, l, D] behind the input and each block, of what coarser maps say [R, l -
        s_1^2, C] (nothing yet: of no places) and a condition [R, D].
        """
        x = condition[:, None] + self.start
        x = torch.cat([x, self.word_embed(inputs)], 1)
        count = x.shape[1]
        level = levels(self.settings["scales"], x.device)[:count]
        x = x + self.levels(level) + self.places[:count]
        seen, states = places_seen(level), [x]
        for block in self.blocks:
            states.append(block(states[-1], condition, seen))
        scale, shift = self.head_modulation(F.silu(condition))[:, None].chunk(2, -1)
        logits: Tensor = self.head(_norm(states[-1]) * (scale + 1) + shift)
        return logits, tuple(states)

    @torch.no_grad()
    def draw_weights(self) -> None:
        """Weights as the repository draws them before it trains: of standard deviation sqrt(1 / 3D), with a small
        head, gates near 0, and blocks that add less the more there are.
        """
        width, depth = int(self.settings["width"]), len(self.blocks)
        std = math.sqrt(1 / width / 3)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=std)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    module.bias.zero_()
        for table in (self.start, self.places):
            nn.init.trunc_normal_(table, std=std)
        self.head.weight.mul_(0.02)
        self.head_modulation.weight.mul_(0.5)
        for block in self.blocks:
            block.attn.out_proj.weight.div_(math.sqrt(2 * depth))  # type: ignore[union-attr,operator]
            block.fc2.weight.div_(math.sqrt(2 * depth))  # type: ignore[union-attr,operator]
            block.modulation.weight[: 2 * width].mul_(1e-5)  # type: ignore[union-attr,index,operator]
            block.modulation.weight[2 * width :].mul_(0.5)  # type: ignore[union-attr,index,operator]


def _norm(x: Tensor) -> Tensor:
    """A layer norm without weights."""
    return F.layer_norm(x, x.shape[-1:], eps=_EPS)
