"""UniPT: no gradient and no memory of the backbone, weights of layers that sum to 1, M_l = Z_l where nothing is
similar.
"""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, image_rows
from tunewright.contract.batch import Row
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.adapters.unipt import Side, UniPT, layer_weights, read_layer
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.pieces.means import token_means
from tunewright.tasks import get_task
from tunewright.training import carry


def class_rows(count: int = 24) -> list[Row]:
    """Texts whose first tokens tell their class."""
    g = torch.Generator().manual_seed(0)
    lengths = torch.randint(4, 10, (count,), generator=g).tolist()
    return [
        Row(
            f"c:{i}",
            "c",
            [tiny.CLS, 20 + i % 3, *torch.randint(30, 200, (n,), generator=g).tolist()],
            [1.0],
            i % 3,
            {"kind": "label"},
        )
        for i, n in enumerate(lengths)
    ]


def make(listen=None, **fields) -> Run:
    return Run(
        {"unipt": UniPT(**fields)},
        model=tiny.bert_classifier(layers=3),
        task="text-classification",
        sources={"c": class_rows()},
        steps=6,
        listen=listen,
    )


def tensors(seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    anchor, layer, other = (torch.randn(2, 5, 4, generator=g) for _ in range(3))
    mask = torch.tensor([[1.0, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    return anchor, layer, other, mask


def test_weights_of_layers_sum_to_one_and_follow_agreement():
    anchor, layer, other, mask = tensors()
    alpha = layer_weights(anchor, [layer, other, anchor], torch.full((4,), 50.0), mask)
    torch.testing.assert_close(alpha.sum(1), torch.ones(2))
    assert (alpha.argmax(1) == 2).any()
    torch.testing.assert_close(layer_weights(anchor, [layer, other], torch.zeros(4), mask), torch.full((2, 2), 0.5))


def test_zero_similarity_reads_the_layer_itself_exactly():
    _, layer, _, mask = tensors()
    anchor = torch.zeros_like(layer)
    assert torch.equal(read_layer(anchor, layer, mask), layer)
    assert torch.equal(read_layer(-layer.abs(), layer.abs(), mask), layer.abs())  # negative similarity counts as none


def test_similarity_by_hand_and_padding_is_not_read():
    anchor, layer, _, mask = tensors()
    got = read_layer(anchor, layer, mask)
    s = torch.relu(anchor[1, 0] @ layer[1, :3].T)
    torch.testing.assert_close(got[1, 0], (s / s.sum().clamp(min=1e-8)) @ layer[1, :3] + layer[1, 0])
    changed = layer.clone()
    changed[1, 3:] = 9.0
    torch.testing.assert_close(read_layer(anchor, changed, mask)[1, :3], got[1, :3])
    torch.testing.assert_close(token_means(changed, mask)[1], layer[1, :3].mean(0))


def by_loops(side, hidden, mask) -> torch.Tensor:
    """The side network's output, token by token, from its weights alone."""
    out = torch.zeros_like(hidden[0])
    for row in range(len(mask)):
        real = [i for i in range(mask.shape[1]) if mask[row, i]]
        Z = [side.down[n](h[row]) for n, h in enumerate(hidden)]
        anchor, layers = Z[-1], Z[:-1]
        mean = [torch.stack([z[i] for i in real]).mean(0) for z in Z]
        said = torch.stack([(side.w * mean[-1] * m).sum() for m in mean[:-1]]).exp()
        for t in range(mask.shape[1]):
            read = 0.0
            for share, z in zip(said / said.sum(), layers, strict=True):
                s = torch.stack([torch.relu(anchor[t] @ z[j]) * mask[row, j] for j in range(mask.shape[1])])
                read = read + share * (sum(a * z[j] for j, a in enumerate(s / s.sum().clamp(min=1e-8))) + z[t])
            out[row, t] = side.up(torch.relu(anchor[t] + side.norm(side.mix(read))))
    return out


def test_the_side_network_is_the_papers_formula_with_the_last_layer_as_its_anchor():
    torch.manual_seed(0)
    side = Side(8, 4, 2)
    with torch.no_grad():
        side.w.copy_(torch.randn(4) * 3)
    g = torch.Generator().manual_seed(1)
    hidden, mask = [torch.randn(2, 5, 8, generator=g) for _ in range(4)], tensors()[3]
    with torch.no_grad():
        got, wanted = side(hidden, mask), by_loops(side, hidden, mask)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


def test_the_gate_starts_as_a_linear_layer_does_and_tells_layers_apart():
    side = make().adapted.wrapper.side
    w = side.w.detach()
    assert float(w.abs().max()) <= 16**-0.5 and w.min() < 0 < w.max() and len(w) == 16
    torch.testing.assert_close(w.std(), torch.tensor((16**-0.5) / 3**0.5), atol=0.06, rtol=0)
    assert torch.equal(w, make().adapted.wrapper.side.w) and len(w.unique()) == 16


def test_only_side_and_head_train_and_no_backbone_tensor_ever_has_a_gradient():
    run = make()
    before = {n: p.clone() for n, p in run.adapted.base_parameters().items()}
    backbone = {n: p for n, p in run.adapted.base_parameters().items() if not n.startswith("classifier")}
    loop = run.train()
    assert {n.split(".")[0] for n in loop.trained.leaves} == {"unipt", "classifier"}
    assert all(p.grad is None and not p.requires_grad and torch.equal(p, before[n]) for n, p in backbone.items())
    assert run.records[-1]["loss"] < run.records[0]["loss"]


def kept_bytes(forward) -> tuple[int, set[int]]:
    """(bytes, storages) of what a forward keeps for its backward pass."""
    kept: dict[int, int] = {}

    def pack(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        forward().sum().backward()
    return sum(kept.values()), set(kept)


def test_nothing_of_the_backbone_is_kept_for_the_backward_pass():
    run = make()
    run.stage.listen = lambda loop, record: None
    task, wrapper = run.task, run.adapted.wrapper
    batch = task.collate(class_rows(8))
    wrapper.train()
    with torch.no_grad():
        out = wrapper.model.base_model(**batch.inputs, output_hidden_states=True)
        hidden = [*out.hidden_states[:-1], out.last_hidden_state]
    mask = batch.inputs["attention_mask"].float()
    head = wrapper.model.classifier
    whole, storages = kept_bytes(lambda: task.forward(wrapper, batch).logits)
    alone, _ = kept_bytes(lambda: head(token_means(wrapper.side(hidden, mask), mask)))
    assert whole == alone  # what the side network keeps by itself, given the states
    weights = {
        p.untyped_storage().data_ptr()
        for n, p in run.adapted.base_parameters().items()
        if not n.startswith("classifier")
    }
    assert not storages & weights
    lora = Run(
        {"lora": LoRA(rank=2)},
        model=tiny.bert_classifier(layers=3),
        task="text-classification",
        sources={"c": class_rows()},
        steps=1,
    )
    lora.train()  # an adapter inside the backbone keeps what its blocks computed
    inside, theirs = kept_bytes(lambda: task.forward(lora.adapted.model, batch).logits)
    frozen = {p.untyped_storage().data_ptr() for p in lora.adapted.base_parameters().values()}
    assert theirs & frozen and inside > 1.5 * whole


def test_resumes_bit_for_bit():
    assert_resumes(make, 3)


def test_images_and_fewer_layers():
    run = Run(
        {"unipt": UniPT(layers=(0, 1), reduction=4)},
        model=tiny.vit(layers=3),
        task="image-classification",
        sources={"i": image_rows()},
        steps=4,
    )
    loop = run.train()
    assert (
        loop.trained.leaves["unipt.side.down.0.0.weight"].leaf.shape == (8, 32)
        and "unipt.side.down.3.0.weight" not in loop.trained.leaves
    )


def test_dropout_of_the_backbone_stays_off_while_training():
    run = make()
    run.adapted.wrapper.train()
    assert run.adapted.wrapper.side.training and not run.adapted.model.training


def test_a_stage_gives_side_and_head_back(tmp_path):
    run = make()
    run.train()
    batch = run.task.collate(class_rows(5))
    with torch.no_grad():
        tuned = run.task.forward(run.adapted.wrapper.eval(), batch).logits
    carry.save_stage(tmp_path / "stages" / "first", run.adapted, {})
    again = Adapted(tiny.bert_classifier(layers=3))
    carry.begin(again, "stages.first", "frozen", tmp_path, "recipe.yaml")
    with torch.no_grad():
        assert agrees(get_task("text-classification").forward(again.wrapper.eval(), batch).logits, tuned)


@pytest.mark.parametrize("layers", [(3,), (-1,), ()])
def test_layers_that_are_not_there_are_refused(layers):
    with pytest.raises(MethodError, match="below the last"):
        make(layers=layers)


def test_a_model_whose_states_have_no_one_size_is_refused():
    with pytest.raises(MethodError, match="EfficientNetForImageClassification has no states of one size"):
        Run({"unipt": UniPT()}, model=tiny.efficientnet(), task="image-classification")
