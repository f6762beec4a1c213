"""Views of pictures and texts: nothing changed where nothing is asked for, and each change is what it is called."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from tunewright.conformance.bench import rows_of
from tunewright.contract.unlabelled import Unlabelled
from tunewright.errors import MethodError
from tunewright.pieces.views import Changes, many, pictures, unread, views
from tunewright.tasks import get_task


def rngs(count: int, key: str = "") -> list[random.Random]:
    return [random.Random(f"{key}{i}") for i in range(count)]


def pixels(count: int = 3, side: int = 9) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_without_changes_a_view_is_the_picture() -> None:
    assert torch.allclose(pictures(pixels(), Changes(), rngs(3)), pixels(), atol=1e-5)


def test_a_mirrored_picture_is_mirrored_left_to_right() -> None:
    seen = pictures(pixels(40), Changes(mirror=True), rngs(40))
    same = [torch.allclose(a, b, atol=1e-5) for a, b in zip(seen, pixels(40), strict=True)]
    other = [torch.allclose(a, b.flip(-1), atol=1e-5) for a, b in zip(seen, pixels(40), strict=True)]
    assert all(s != o for s, o in zip(same, other, strict=True)) and 8 < sum(other) < 32


def test_a_crop_shows_its_share_of_the_picture_from_inside_it() -> None:
    ramp = torch.arange(32.0)[None, None, None, :].expand(60, 1, 32, 32)
    seen = pictures(ramp, Changes(area=(0.25, 0.25)), rngs(60))
    width = seen[:, 0, 16, 31] - seen[:, 0, 16, 0]
    assert torch.allclose(width, torch.full((60,), 15.5), atol=0.6), "half of each side"
    assert float(seen.min()) >= 0 and float(seen.max()) <= 31 and float(seen[:, 0, 0, 0].std()) > 2


def test_a_turn_and_a_move_stay_within_what_they_are_given() -> None:
    ramp = torch.arange(32.0)[None, None, None, :].expand(60, 1, 32, 32)
    moved = pictures(ramp, Changes(move=1 / 16), rngs(60))[:, 0, 16, 16] - 16
    assert 1.0 < float(moved.abs().max()) <= 2.01, "a sixteenth of 32 pixels, both ways"
    turned = pictures(ramp, Changes(turn=15.0), rngs(60))
    slope = (turned[:, 0, 16, 20] - turned[:, 0, 16, 12]) / 8
    assert float(slope.min()) == pytest.approx(0.97, abs=0.02), "the cosine of 15 degrees"


def test_light_scales_brightness_and_contrast_and_noise_has_its_deviation() -> None:
    grey = torch.full((30, 3, 16, 16), 2.0)
    bright = pictures(grey, Changes(light=0.3), rngs(30)) / 2
    assert 0.7 <= float(bright.min()) < 0.8 and 1.2 < float(bright.max()) <= 1.3
    noisy = pictures(grey, Changes(noise=0.5), rngs(30)) - 2
    assert float(noisy.std()) == pytest.approx(0.5, rel=0.03)


def test_a_text_keeps_its_ends_and_its_padding() -> None:
    mask = torch.tensor([[1] * 20 + [0] * 4, [1] * 2 + [0] * 22])
    seen = torch.stack([unread(mask, 0.5, rngs(2, f"{k}-")) for k in range(50)])
    assert bool(seen[:, 0, 0].all() and seen[:, 0, 19].all() and seen[:, 1, :2].all()) and not bool(
        seen[:, 0, 20:].any()
    )
    assert float(seen[:, 0, 1:19].float().mean()) == pytest.approx(0.5, abs=0.05)
    assert torch.equal(unread(mask, 0.0, rngs(2)), mask)


@pytest.mark.parametrize("task", ["text-classification", "image-classification"])
def test_a_view_does_not_depend_on_the_rows_beside_it(task: str) -> None:
    rows: Any = rows_of(get_task(task), "stream", 4)
    changes = Changes(area=(0.3, 1.0), mirror=True, light=0.2, noise=0.1, drop=0.5)
    whole = views(Unlabelled.of(get_task(task).collate(rows)), changes, rngs(4))
    name = "pixel_values" if task.startswith("image") else "attention_mask"
    alone = views(Unlabelled.of(get_task(task).collate(rows[2:3])), changes, [random.Random("2")])
    width = alone.inputs[name].shape[-1]
    assert torch.allclose(whole.inputs[name][2][..., :width].float(), alone.inputs[name][0].float(), atol=1e-5)


def test_many_views_begin_with_the_rows_themselves_where_asked() -> None:
    task = get_task("image-classification")
    batch = Unlabelled.of(task.collate(rows_of(task, "stream", 2)))
    changes = Changes(area=(0.3, 0.5))
    made = {plain: many(batch, changes, 3, lambda i: random.Random(i), plain=plain) for plain in (False, True)}
    x = batch.inputs["pixel_values"]
    assert torch.equal(made[True].inputs["pixel_values"][:2], x)
    assert not torch.allclose(made[False].inputs["pixel_values"][:2], x, atol=1e-3)
    assert made[True].row_ids == batch.row_ids * 3 and len(made[True].inputs["pixel_values"]) == 6
    one = many(batch, changes, 3, lambda i: random.Random(5))
    assert torch.allclose(
        one.inputs["pixel_values"], many(batch, changes, 3, lambda i: random.Random(5)).inputs["pixel_values"]
    )


def test_other_inputs_have_no_views() -> None:
    task = get_task("image-classification")
    batch = Unlabelled.of(task.collate(rows_of(task, "stream", 2))).replace(inputs={"input_values": torch.zeros(2, 5)})
    with pytest.raises(MethodError, match="no views of inputs input_values"):
        views(batch, Changes(), rngs(2))
