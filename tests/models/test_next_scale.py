"""Next-scale prediction: the residual quantiser, the transformer over maps, and how codes are drawn.

The figures of `CODES` to `DRAWN` are those of the paper's own code (FoundationVision/VAR at 78b9539: `models/quant.py`,
`models/var.py`) on the same weights and inputs, waves that are written down below. Beside it, at sizes up to its ten
scales (1, 2, 3, 4, 5, 6, 8, 10, 13, 16), with convolutions that all, some or no scales share, codes, a transformer's
inputs and a decoder's were the same in every bit, the tokenizer's loss to 1e-7, its mask the same, logits (standard
deviation 2) to 6e-6 with attention of unit length and without, and every code that was drawn without guidance and with
1.5 and 3, top-k 12 and 20, top-p 0.7 and 0.9.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests import drawing
from tunewright.conformance import task_drawing
from tunewright.models.next_scale import Coded, NextScale, Sampling, chosen
from tunewright.models.next_scale_blocks import NextScaleTransformer, levels, places_seen
from tunewright.models.residual_quantizer import ResidualQuantizer, nearest
from tunewright.tasks._parts import TO_IMAGE, UNCONDITIONAL

SCALES, CODES_OF, WIDTH = (1, 2, 3, 4), 16, 4
CODES = [
    [15, 12, 6, 6, 6, 3, 9, 3, 3, 14, 7, 12, 3, 3, 11, 10, 9, 14, 1, 12, 0, 5, 4, 15, 3, 8, 7, 6, 0, 11],
    [15, 6, 12, 6, 12, 3, 9, 3, 14, 1, 12, 3, 3, 3, 4, 9, 8, 1, 12, 0, 10, 15, 15, 3, 14, 12, 6, 0, 11, 15],
]
INPUTS = [-0.08261, 0.05016, -0.36941, -0.02744, -1.32034]
FEATURES = [0.6334, -0.9452, 0.2037, 0.18607, 0.17969, -0.81369]
LOGITS = [0.57776, -1.82705, 0.30213, -1.6638, 0.03951, -1.05892, -0.78465, 0.47138]
LAST = [1.91216, -1.42166, -0.62463, 1.98481, -1.16927, -0.93028]
LOSS = 0.746139407157898
DRAWN = [
    [13, 6, 15, 7, 0, 9, 1, 11, 9, 0, 8, 7, 0, 8, 0, 10, 8, 0, 10, 8, 10, 8, 0, 9, 8, 0, 9, 1, 10, 8],
    [4, 15, 7, 5, 8, 6, 14, 11, 3, 13, 5, 15, 8, 6, 14, 6, 2, 13, 4, 14, 11, 4, 14, 6, 14, 12, 4, 13, 5, 3],
]


def _wave(step: float, *shape: int) -> torch.Tensor:
    return torch.sin(step * torch.arange(torch.Size(shape).numel(), dtype=torch.float64)).view(shape).float()


@torch.no_grad()
def _waves(part: nn.Module) -> None:
    for i, (_, p) in enumerate(sorted(part.named_parameters())):
        p.copy_((0.4 * torch.sin(0.7 * torch.arange(p.numel(), dtype=torch.float64) + i)).view(p.shape))


@pytest.fixture
def quantizer() -> ResidualQuantizer:
    made = ResidualQuantizer(SCALES, WIDTH)
    _waves(made)
    return made


@pytest.fixture
def net() -> NextScaleTransformer:
    sizes: dict[str, Any] = {"width": 8, "depth": 2, "heads": 2, "hidden": 16, "condition": 8, "unit_length": True}
    made = NextScaleTransformer({**sizes, "codes": CODES_OF, "code_width": WIDTH, "scales": list(SCALES)})
    _waves(made)
    return made


BOOK, LATENTS, TOLD = _wave(1.3, CODES_OF, WIDTH), _wave(0.9, 2, WIDTH, 4, 4), _wave(2.1, 2, 8)


# -- beside the paper's code -------------------------------------------------------------------------------------------


def test_codes_inputs_and_features_are_those_of_the_papers_code(quantizer: ResidualQuantizer) -> None:
    codes = quantizer.codes(LATENTS, BOOK)
    assert codes.tolist() == CODES
    inputs = quantizer.inputs(codes, BOOK)
    assert inputs.shape == (2, 29, WIDTH)
    torch.testing.assert_close(inputs[1, ::7, 2], torch.tensor(INPUTS), atol=1e-5, rtol=0)
    features = quantizer.features(codes, BOOK)
    torch.testing.assert_close(features[0, 1].flatten()[::3], torch.tensor(FEATURES), atol=1e-5, rtol=0)
    through, loss = quantizer.learn(LATENTS, BOOK)
    assert float(loss.detach()) == pytest.approx(LOSS, abs=1e-6)
    torch.testing.assert_close(through, features)


def test_logits_are_those_of_the_papers_code(quantizer: ResidualQuantizer, net: NextScaleTransformer) -> None:
    with torch.no_grad():
        logits, states = net(quantizer.inputs(torch.tensor(CODES), BOOK), net.conditions(TOLD, 2))
    torch.testing.assert_close(logits[1, ::4, 3], torch.tensor(LOGITS), atol=2e-5, rtol=0)
    torch.testing.assert_close(logits[0, 29, ::3], torch.tensor(LAST), atol=2e-5, rtol=0)
    assert logits.shape == (2, 30, CODES_OF) and [s.shape for s in states] == [(2, 30, 8)] * 3


def test_codes_are_drawn_as_the_papers_code_draws_them(quantizer: ResidualQuantizer, net: NextScaleTransformer) -> None:
    class Drawing(NextScale):
        """The transformer and quantiser above, told of rows by vectors."""

        book, dtype, _quantizer = BOOK, torch.float32, quantizer

        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.net_, self.around = net, type("Around", (), {"text_encoder": 1})()

        @property
        def net(self) -> Any:
            return self.net_

        def conditions(self, ids: torch.Tensor | None, rows: int) -> torch.Tensor:
            return net.conditions(torch.zeros(rows, 8) if ids is None else ids, rows)

    uniform = torch.frac(0.618034 * torch.arange(1, 61)).view(2, 30)
    assert Drawing().drawn_codes(uniform, TOLD, Sampling(3.0, 1.0, 10, 0.9)).tolist() == DRAWN


@pytest.mark.parametrize(
    ("count", "wanted"), [(4, [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]), (1, [0] * 10), (10, list(range(10)))]
)
def test_which_convolution_serves_which_scale(count: int, wanted: list[int]) -> None:
    """As the paper's code has it of its ten scales."""
    made = ResidualQuantizer((1, 2, 3, 4, 5, 6, 8, 10, 13, 16), 1, count)
    assert [made.which(k) for k in range(10)] == wanted and len(made.phi) == count and made.length == 680


# -- by their definitions ----------------------------------------------------------------------------------------------


def test_each_map_codes_what_coarser_ones_leave(quantizer: ResidualQuantizer) -> None:
    parts = quantizer.of_scales(quantizer.codes(LATENTS, BOOK))
    rest = LATENTS.clone()
    for k, (side, codes) in enumerate(zip(SCALES, parts, strict=True)):
        small = F.adaptive_avg_pool2d(rest, side).flatten(2).transpose(1, 2)
        far = (small[:, :, None] - BOOK).square().sum(-1)
        assert torch.equal(codes, far.argmin(-1))
        added = F.interpolate(BOOK[codes].transpose(1, 2).unflatten(2, (side, side)), size=(4, 4), mode="bicubic")
        phi = quantizer.phi[k]
        added = added if side < 4 else BOOK[codes].transpose(1, 2).unflatten(2, (4, 4))
        rest = rest - (added + phi(added)) / 2
    torch.testing.assert_close(quantizer.features(torch.cat(parts, 1), BOOK), LATENTS - rest, atol=1e-5, rtol=0)


def test_the_nearest_code_is_the_first_of_equal_ones() -> None:
    book = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    assert nearest(torch.tensor([[1.0, 0.0], [0.1, 0.9]]), book).tolist() == [1, 0]


def test_a_tokenizer_learns_codes_and_features_together() -> None:
    torch.manual_seed(0)
    made, book = ResidualQuantizer((1, 2), 3, 1), nn.Parameter(torch.randn(6, 3))
    features = torch.randn(5, 3, 2, 2, requires_grad=True)
    through, loss = made.learn(features, book)
    loss.backward(retain_graph=True)
    assert features.grad is not None and book.grad is not None and made.phi[0].weight.grad is not None  # type: ignore[union-attr]
    parts = made.of_scales(made.codes(features.detach(), book))
    first = made.grown(0, book[parts[0]]).detach()
    # beta (0.25) times the gradient of the mean over scales of |sg(f_k) - f|^2: the codes' own term moves no feature
    wanted = 0.25 * ((features - first) + (features - through)).detach() * 2 / features.numel() / 2
    torch.testing.assert_close(features.grad, wanted)
    features.grad = None
    through.sum().backward()
    assert torch.equal(features.grad, torch.ones_like(features))  # type: ignore[arg-type]


def test_a_place_sees_its_own_map_and_coarser_ones(quantizer: ResidualQuantizer, net: NextScaleTransformer) -> None:
    seen = places_seen(levels((1, 2)))
    assert seen.int().tolist() == [[1, 0, 0, 0, 0], *[[1, 1, 1, 1, 1]] * 4]
    inputs = quantizer.inputs(torch.tensor(CODES), BOOK).requires_grad_()
    logits, _ = net(inputs, net.conditions(TOLD, 2))
    (moved,) = torch.autograd.grad(logits[0, 5:14].square().sum(), inputs)  # the third map's places are 5 to 13
    reaches = moved[0].abs().sum(1) > 0  # inputs begin at the second map: place 1
    assert reaches[:13].all() and not reaches[13:].any() and not moved[1].any()


def test_the_loss_is_the_mean_over_all_codes_of_all_maps() -> None:
    logits, codes = _wave(0.3, 2, 30, 16), torch.tensor(CODES)
    said = Coded(logits, codes, logits[:, 0])
    by_hand = -torch.log_softmax(logits, -1).gather(-1, codes[..., None])[..., 0]
    torch.testing.assert_close(said.losses(logits), by_hand.sum(1) / 30)
    torch.testing.assert_close(said.by_code(logits), by_hand)


# -- drawing -----------------------------------------------------------------------------------------------------------


def test_a_draw_takes_codes_by_how_likely_they_are() -> None:
    shares = torch.tensor([0.1, 0.2, 0.3, 0.4])
    draws = ((torch.arange(1000) + 0.5) / 1000)[None]

    def drawn(how: Sampling) -> list[float]:
        codes = chosen(shares.log().expand(1, 1000, 4), draws, how)
        return [round(x, 2) for x in (torch.bincount(codes[0], minlength=4) / 1000).tolist()]

    assert drawn(Sampling()) == [0.1, 0.2, 0.3, 0.4]
    assert drawn(Sampling(top_k=2)) == [0.0, 0.0, 0.43, 0.57]
    assert drawn(Sampling(top_k=9)) == drawn(Sampling())
    assert drawn(Sampling(top_p=0.75)) == [0.0, 0.22, 0.33, 0.44]
    assert drawn(Sampling(top_p=0.01)) == [0.0, 0.0, 0.0, 1.0]
    warm = shares.pow(0.5) / shares.pow(0.5).sum()
    assert drawn(Sampling(temperature=2.0)) == pytest.approx(warm.tolist(), abs=0.01)
    last = torch.tensor([0.0, -torch.inf]).expand(1, 1, 2)
    assert chosen(last, torch.tensor([[1.0]]), Sampling()).tolist() == [[0]]  # what a lower type rounds to


@pytest.fixture
def model(request: pytest.FixtureRequest) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return task_drawing.model_of(request.param, drawing.MAPS[request.param])


unconditional = pytest.mark.parametrize("model", [UNCONDITIONAL], indirect=True)
texts = pytest.mark.parametrize("model", [TO_IMAGE], indirect=True)


@unconditional
def test_what_is_drawn_map_by_map_is_what_is_predicted_of_it_at_once(model: Any) -> None:
    uniform = torch.rand(3, 21, generator=torch.Generator().manual_seed(0))
    codes = model.drawn_codes(uniform, None, Sampling(top_k=1))
    inputs = model.around.quantizer.inputs(codes, model.book)
    logits, _ = model.net(inputs, model.conditions(None, 3))
    assert torch.equal(logits.argmax(-1), codes)
    other = model.drawn_codes(1 - uniform, None, Sampling())
    assert not torch.equal(other, model.drawn_codes(uniform, None, Sampling()))
    alone = model.drawn_codes(uniform[1:2], None, Sampling())
    assert torch.equal(alone, model.drawn_codes(uniform, None, Sampling())[1:2])


@unconditional
def test_a_picture_is_the_decoders_of_its_codes(model: Any) -> None:
    pixels = _wave(0.05, 2, 1, 8, 8)
    codes = model.codes(pixels)
    latents = model.around.quantizer.features(codes, model.book)
    with torch.no_grad():
        wanted = model.around.autoencoder.decode(latents, force_not_quantize=True).sample
    shown = model.pictures(codes)
    assert shown.dtype == torch.uint8 and shown.shape == (2, 1, 8, 8)
    assert (shown.float() - ((wanted + 1) * 127.5).clamp(0, 255)).abs().max() <= 0.5 + 1e-3


@texts
def test_guidance_grows_with_the_maps_and_is_none_at_one(model: Any) -> None:
    uniform = torch.rand(2, 21, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([drawing.padded(model, "red"), drawing.padded(model, "blue")])
    plain, strong = (model.drawn_codes(uniform, ids, Sampling(g)) for g in (1.0, 200.0))
    assert torch.equal(plain[:, 0], strong[:, 0])  # the first map is not guided at all
    assert not torch.equal(plain, strong)
    assert not torch.equal(model.conditions(ids, 2)[0], model.conditions(ids, 2)[1])
    assert torch.equal(model.conditions(None, 1), model.conditions(torch.tensor([model.around.empty]), 1))


@texts
def test_codes_do_not_hang_on_the_type_of_the_weights(model: Any) -> None:
    pixels = _wave(0.05, 2, 3, 8, 8)
    before = model.codes(pixels)
    model.to(torch.bfloat16)
    assert torch.equal(model.codes(pixels), before) and model.book.dtype == torch.float32
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.around.text_encoder.parameters()} == {torch.bfloat16}
    parts = (model.around.text_encoder, model.around.autoencoder, model.around.quantizer)
    assert not any(p.requires_grad for part in parts for p in part.parameters())
    assert not any(part.training for part in parts)
    assert model(pixels).logits.dtype == torch.bfloat16
    model.to("meta")
    assert {p.device.type for part in parts for p in part.parameters()} == {"meta"}


def test_weights_are_drawn_small_at_gates_and_head(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"width": 48, "depth": 2, "heads": 2, "hidden": 96, "condition": 0, "unit_length": True}
    made = NextScaleTransformer({**sizes, "codes": 8, "code_width": 4, "scales": [1, 2]})
    made.draw_weights()
    std = (1 / 48 / 3) ** 0.5
    block: Any = made.blocks[0]
    for found, times in (
        (block.fc1.weight, 1.0),
        (block.fc2.weight, 0.5),
        (block.attn.out_proj.weight, 0.5),
        (made.head.weight, 0.02),
        (block.modulation.weight[:96], 1e-5),
        (block.modulation.weight[96:], 0.5),
    ):
        assert float(found.std()) == pytest.approx(std * times, rel=0.1)
    assert not any(p.any() for n, p in made.named_parameters() if n.endswith(".bias"))
