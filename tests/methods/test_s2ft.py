"""S2FT: the authors' permuted slices by hand, joint draws, heads and channels whole, and nothing kept beside them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests import tiny
from tests.methods.driving import Cursor, Run, assert_resumes, logits, text_rows
from tests.methods.selecting import BASES, gradient_numbers, rows_for, state_numbers
from tunewright.errors import MethodError
from tunewright.methods.parameter_selection.s2ft import S2FT, units_of
from tunewright.models.agreement import agrees
from tunewright.models.slices import Slice
from tunewright.pieces.sublayers import mlp_pair
from tunewright.tasks import get_task


def slices(r: Run) -> dict[str, Slice]:
    return {n: d["s2ft"] for n, d in r.adapted.deltas().items()}


class First(nn.Module):
    """A linear layer whose first k inputs have a trained slice beside the frozen weight."""

    def __init__(self, layer: nn.Linear, k: int):
        super().__init__()
        self.layer, self.k = layer, k
        self.s2 = nn.Parameter(torch.zeros(layer.out_features, k))

    def forward(self, x):
        return self.layer(x) + x[..., : self.k] @ self.s2.t()


def permuted(channels: dict[int, list[int]], heads: dict[int, list[int]]):
    """A Llama whose drawn channels and heads stand first in their layers, each with a slice; and the orders."""
    model, size = tiny.llama(), 8
    model.requires_grad_(False)
    for i, layer in enumerate(model.model.layers):
        order = channels.get(i, []) + [c for c in range(64) if c not in channels.get(i, [])]
        for name in ("up_proj", "gate_proj"):
            getattr(layer.mlp, name).weight.data = getattr(layer.mlp, name).weight.data[order]
        layer.mlp.down_proj.weight.data = layer.mlp.down_proj.weight.data[:, order]
        if channels.get(i):
            layer.mlp.down_proj = First(layer.mlp.down_proj, len(channels[i]))
        drawn = [h * size + j for h in heads.get(i, []) for j in range(size)]
        if drawn:  # two queries share a key: one head alone is taken by its columns, in their order
            o = layer.self_attn.o_proj
            layer.self_attn.o_proj = Columns(o, drawn)
    return model


class Columns(nn.Module):
    """The same at some inputs, by a whole matrix that is masked."""

    def __init__(self, layer: nn.Linear, columns: list[int]):
        super().__init__()
        self.layer = layer
        mask = torch.zeros(layer.in_features)
        mask[columns] = 1
        self.register_buffer("mask", mask)
        self.s2 = nn.Parameter(torch.zeros(layer.out_features, layer.in_features))

    def forward(self, x):
        return self.layer(x) + x @ (self.s2 * self.mask).t()


def test_three_steps_are_those_of_permuted_layers():
    rows = text_rows()
    r = Run({"s2ft": S2FT(d_ratio=0.1, o_ratio=0.4)}, sources={"new": rows}, steps=3)
    drawn = {n: s.places.tolist() for n, s in slices(r).items()}
    channels = {i: drawn.get(f"model.layers.{i}.mlp.down_proj", []) for i in (0, 1)}
    heads = {i: sorted({p // 8 for p in drawn.get(f"model.layers.{i}.self_attn.o_proj", [])}) for i in (0, 1)}
    model, task, cursor = permuted(channels, heads), get_task("text-generation"), Cursor({"new": rows})
    assert agrees(logits(model), logits(tiny.llama())), "the permutation alone changes nothing"
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
    for _ in range(3):
        batch = task.collate([row for row, _ in cursor.next_batch()], False, seed=0)
        loss = task.loss(task.forward(model, batch), batch)
        ((loss.value * batch.weights).sum() / batch.weights.sum()).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    r.train()
    torch.testing.assert_close(logits(r.adapted.model), logits(model), atol=1e-4, rtol=1e-4)
    assert (logits(model) - logits(tiny.llama())).abs().max() > 0.1
    r.adapted.fold()
    for name, p in tiny.llama().named_parameters():
        site = name.removesuffix(".weight")
        same = r.adapted.base_parameters()[name] == p
        if site in drawn:
            same = same.all(0)
            assert {c for c in range(same.numel()) if not same[c]} == set(drawn[site])
        assert site in drawn or bool(same.all()), name


@pytest.mark.parametrize("kind", BASES)
def test_every_base_trains_slices_and_keeps_their_numbers_alone(kind):
    make, task = BASES[kind]
    r = Run({"s2ft": S2FT(d_ratio=0.1, o_ratio=0.3, u_ratio=0.1)}, model=make(), task=task, steps=2,
            sources={"new": rows_for(task)})  # fmt: skip
    loop = r.train()
    own = sum(s.values.numel() for s in slices(r).values())
    channels, heads = int(0.1 * 2 * (128 if kind == "causal" else 64)), int(0.3 * 2 * 4)
    assert own == 2 * channels * 32 + heads * 8 * 32 == loop.trained.count()
    assert state_numbers(loop) == 2 * own and gradient_numbers(loop) == own
    assert sum(t.numel() for t in loop.trained.changed().values()) == own + 2 * channels + heads * 8, "and their places"


def test_units_are_drawn_over_all_layers_together():
    drawn = [slices(Run({"s2ft": S2FT(d_ratio=0.06)}, seed=0, model=tiny.llama(layers=3))) for _ in range(2)]
    per_layer = [len(s.places) for s in drawn[0].values()]
    assert sum(per_layer) == int(0.06 * 3 * 64) and len(set(per_layer)) > 1, "not as many from every layer"
    assert all(torch.equal(s.places, drawn[1][n].places) for n, s in drawn[0].items()), "the same for the same seed"
    few = slices(Run({"s2ft": S2FT(d_ratio=1e-6)}))
    assert [len(s.places) for s in few.values()] == [1], "one at least"


def test_heads_are_whole_and_shared_values_count_once():
    r = Run({"s2ft": S2FT(d_ratio=0, o_ratio=0.3, v_ratio=0.5)})
    for name, s in slices(r).items():
        width = s.places.numel() // 8
        assert s.places.view(width, 8).tolist() == [
            list(range(8 * h, 8 * h + 8)) for h in (s.places[::8] // 8).tolist()
        ]
        assert s.side == ("out" if "v_proj" in name else "in")
        assert s.size == (16 if "v_proj" in name else 32), "two heads' values in each layer, four heads' outputs"
    assert units_of(r.adapted.structure, "v_ratio") == {f"model.layers.{i}.self_attn.v_proj": 2 for i in (0, 1)}


@pytest.mark.parametrize("part, names", [("d_ratio", "mlp.down_proj"), ("u_ratio", "mlp.up_proj")])
@pytest.mark.parametrize("selection", ["largest", "smallest"])
def test_units_by_the_norm_of_their_weights(part, names, selection):
    r = Run({"s2ft": S2FT(**{"d_ratio": 0.0, part: 0.1, "selection": selection})})
    found = {(n, int(p)) for n, s in slices(r).items() for p in s.places}
    norms = {}
    for i in (0, 1):
        W = tiny.llama().get_submodule(f"model.layers.{i}.{names}").weight.detach()
        for c in range(64):
            unit = W[:, c] if part == "d_ratio" else W[c]
            norms[(f"model.layers.{i}.{names}", c)] = float(unit.square().sum())
    order = sorted(norms, key=lambda k: norms[k], reverse=selection == "largest")
    assert found == set(order[:12])


def test_the_pair_of_an_mlp_is_found_by_its_widths():
    found = {}
    for make in (tiny.llama, tiny.gpt2, tiny.bert_classifier, tiny.vit):
        up, down = mlp_pair(Run({}, model=make()).adapted.structure.blocks[1])
        found[make.__name__] = (up.name.split("1.", 1)[1], down.name.split("1.", 1)[1])
    assert found == {
        "llama": ("mlp.up_proj", "mlp.down_proj"),
        "gpt2": ("mlp.c_fc", "mlp.c_proj"),
        "bert_classifier": ("intermediate.dense", "output.dense"),
        "vit": found["vit"],
    }
    assert mlp_pair(Run({}, model=tiny.efficientnet()).adapted.structure.blocks[0]) is None


def test_what_cannot_be_sliced_is_refused():
    with pytest.raises(MethodError, match="no layers that lead out of an MLP"):
        Run({"s2ft": S2FT()}, model=tiny.efficientnet(), task="image-classification")
    with pytest.raises(MethodError, match="no layers of an attention's values alone"):
        Run({"s2ft": S2FT(v_ratio=0.5)}, model=tiny.gpt2())
    with pytest.raises(MethodError, match="nothing would train"):
        Run({"s2ft": S2FT(d_ratio=0)})


def test_resumes():
    assert_resumes(lambda listen: Run({"s2ft": S2FT(d_ratio=0.1, v_ratio=0.5)}, steps=4, listen=listen), 2)
