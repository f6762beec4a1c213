"""Heads, means, features, seeded layers and pairs, against plain loops."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests import tiny
from tunewright.contract.batch import Batch, Outputs
from tunewright.errors import MethodError, ModelError
from tunewright.pieces.features import feature_loss, states_at
from tunewright.pieces.heads import classifier_head, classifier_head_name, pooled_features, pooled_head
from tunewright.pieces.means import last_tokens, row_means, token_means
from tunewright.pieces.pairs import answer_means, answer_sums, with_rewards
from tunewright.pieces.seeded import normal_linear, seeded_start, uniform_linear


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(rows: list[int], count: int, **more) -> Batch:
    n = len(rows)
    ids = [f"r{i}" for i in range(count)]
    whole = {"inputs": {}, "labels": torch.zeros(n, dtype=torch.int64), "weights": torch.ones(n), "sources": ids}
    return Batch(**{**whole, "rows": torch.tensor(rows), "row_ids": ids, "tokens": n, **more})


def test_the_head_is_the_last_linear_with_one_output_per_class():
    model = tiny.bert_classifier()
    assert classifier_head(model) is model.classifier and classifier_head_name(model) == "classifier"
    model.bert.pooler.dense = nn.Linear(32, 3)
    assert classifier_head(model) is model.classifier
    with pytest.raises(ModelError, match="no linear head of None classes"):
        classifier_head(nn.Sequential(nn.Linear(2, 3)))


def test_pooled_features_and_head_go_together_and_are_refused_where_there_are_none():
    head, features = nn.Linear(4, 3), normal(5, 4)
    outputs = Outputs(head(features), torch.zeros(5, dtype=torch.int64), features=features, head=head)
    assert torch.equal(pooled_head(outputs)(pooled_features(outputs)), outputs.logits)
    for read in (pooled_features, pooled_head):
        with pytest.raises(MethodError, match="no pooled features"):
            read(Outputs(normal(5, 3), torch.zeros(5, dtype=torch.int64)))


def test_means_and_last_tokens_leave_padding_out():
    x, lengths = normal(3, 5, 2), (5, 1, 3)
    mask = torch.tensor([[int(t < n) for t in range(5)] for n in lengths])
    padded = torch.where(mask[..., None] == 1, x, torch.full_like(x, 9.0))
    torch.testing.assert_close(
        token_means(padded, mask), torch.stack([x[i, :n].mean(0) for i, n in enumerate(lengths)])
    )
    assert torch.equal(last_tokens(padded, mask), torch.stack([x[i, n - 1] for i, n in enumerate(lengths)]))


@pytest.mark.parametrize("more", [(), (3,)])
def test_row_means_are_those_of_each_rows_items(more):
    rows, values = torch.tensor([0, 2, 2, 0, 2, 3]), normal(6, *more)
    want = torch.stack([values[rows == r].mean(0) if (rows == r).any() else torch.zeros(more) for r in range(5)])
    torch.testing.assert_close(row_means(values, rows, 5), want)


def test_states_are_taken_where_targets_are_predicted_or_as_a_rows_mean():
    hidden = (normal(2, 4, 3), normal(2, 4, 3, seed=1))
    outputs = Outputs(normal(2, 3), torch.zeros(2, dtype=torch.int64), hidden=hidden)
    tokens = batch([0, 1, 1], 2, positions=torch.tensor([1, 4, 6]))
    assert torch.equal(states_at(outputs, tokens, -1), torch.stack([hidden[1][0, 1], hidden[1][1, 0], hidden[1][1, 2]]))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    masked = states_at(outputs, batch([0, 1], 2, inputs={"attention_mask": mask}), 0)
    torch.testing.assert_close(masked, torch.stack([hidden[0][0].mean(0), hidden[0][1, :2].mean(0)]))
    assert torch.equal(states_at(outputs, batch([0, 1], 2), 0), hidden[0].mean(1))
    pictures = Outputs(normal(2, 3), torch.zeros(2, dtype=torch.int64), hidden=(normal(2, 3, 4, 4),))
    torch.testing.assert_close(states_at(pictures, batch([0, 1], 2), 0), normal(2, 3, 4, 4).mean((2, 3)))
    with pytest.raises(MethodError, match="not kept"):
        states_at(Outputs(normal(2, 3), torch.zeros(2, dtype=torch.int64)), tokens, 0)


@pytest.mark.parametrize("cosine", [0.0, 0.3, 1.0])
def test_the_feature_loss_mixes_angle_and_distance_and_spares_the_teacher(cosine):
    s, t = normal(6, 4).requires_grad_(), normal(6, 4, seed=1).requires_grad_()
    want = [
        cosine * (1 - F.cosine_similarity(a, b, dim=0)) + (1 - cosine) * F.smooth_l1_loss(a, b)
        for a, b in zip(s, t, strict=True)
    ]
    loss = feature_loss(s, t, cosine)
    torch.testing.assert_close(loss, torch.stack(want))
    loss.sum().backward()
    assert s.grad is not None and t.grad is None and bool(feature_loss(s, s, cosine).abs().max() < 1e-6)


def test_layers_start_from_the_generator_alone():
    before = torch.get_rng_state()
    uniform, again = (uniform_linear(400, 300, generator(3)) for _ in range(2))
    assert torch.equal(uniform.weight, again.weight) and torch.equal(uniform.bias, again.bias)
    assert uniform.weight.shape == (300, 400) and not torch.equal(
        uniform.weight, uniform_linear(400, 300, generator()).weight
    )
    limit = 400**-0.5
    for p in uniform.parameters():
        assert 0.95 * limit < float(p.detach().abs().max()) <= limit and abs(float(p.detach().mean())) < 0.1 * limit
    plain = normal_linear(400, 300, generator(3), std=0.1)
    assert not plain.bias.any() and float(plain.weight.std()) == pytest.approx(0.1, rel=0.02)
    assert plain.weight.requires_grad and uniform.bias.requires_grad and torch.equal(before, torch.get_rng_state())


def test_a_module_starts_as_its_class_does_from_one_draw():
    before, rng = torch.get_rng_state(), random.Random(0)
    layers = []
    for seed in (0, 0, 1):
        with seeded_start(random.Random(seed)):
            layers.append(nn.Linear(5, 4))
    with seeded_start(rng):
        pass
    after = random.Random(0)
    after.getrandbits(63)
    assert torch.equal(before, torch.get_rng_state()) and rng.random() == after.random()
    assert torch.equal(layers[0].weight, layers[1].weight) and not torch.equal(layers[0].weight, layers[2].weight)
    assert float(layers[0].weight.detach().abs().max()) <= 5**-0.5


def test_answers_are_summed_and_averaged_by_pair():
    values, pair = normal(5), torch.tensor([0, 0, 1, 0, 1])
    pairs = batch([0, 0, 0, 1, 1], 3, fields={"pair": pair}, weights=torch.tensor([0.5] * 5))
    chosen, rejected = answer_sums(values, pairs)
    torch.testing.assert_close(chosen, torch.stack([values[:2].sum(), values[3], torch.tensor(0.0)]))
    torch.testing.assert_close(rejected, torch.stack([values[2], values[4], torch.tensor(0.0)]))
    assert torch.equal(answer_means(values, pairs)[0], chosen / torch.tensor([2.0, 1.0, 1.0]))


def test_rewards_of_pairs_are_logged():
    losses, chosen, rejected = normal(3), torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 2.0, 5.0])
    loss = with_rewards(losses, chosen, rejected)
    assert loss.value is losses and loss.weight is None
    assert loss.logs["margin"].tolist() == [1.0, 0.0, -2.0] and loss.logs["accuracy"].tolist() == [1.0, 0.0, 0.0]
    assert loss.logs["chosen_reward"] is chosen and loss.logs["rejected_reward"] is rejected
