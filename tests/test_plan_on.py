"""`plan --on`: machines by name, what a step keeps, and what follows for memory and time."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from tests import small
from tests.options import inputs
from tunewright.errors import RecipeError
from tunewright.machine.on_paper import DEVICES, machines
from tunewright.planning import plan_page
from tunewright.planning.estimated import StageEstimate
from tunewright.planning.held import keeping
from tunewright.planning.on import FAST, SLOW, OnPaper, on_paper
from tunewright.planning.plan import plan

__all__ = ["inputs"]


@pytest.mark.parametrize(
    "text, count, name, memory",
    [
        ("8x H100 80GB", 8, "H100", 80e9),
        ("2 x a100 40gb", 2, "A100", 40e9),
        ("A100", 1, "A100", 80e9),
        ("4×L4", 4, "L4", 24e9),
        ("RTX 4090", 1, "RTX 4090", 24e9),
        ("3090 24 GB", 1, "RTX 3090", 24e9),
        ("NVIDIA GeForce RTX 5090", 1, "RTX 5090", 32e9),
        ("MI300X", 1, "MI300X", 192e9),
    ],
)
def test_machines_are_read_as_people_write_them(text: str, count: int, name: str, memory: float):
    found = machines(text)
    assert (found.count, found.device.name, found.memory) == (count, name, memory)
    assert machines(str(found)) == found


def test_a_device_without_bfloat16_computes_in_float16_at_its_own_speed():
    t4, h100 = DEVICES["T4"], DEVICES["H100"]
    assert [t4.peak(p) for p in ("float32", "float16", "bfloat16")] == [8.1e12, 65e12, None]
    assert h100.peak("float16") == h100.peak("bfloat16") > h100.peak("float32")


@pytest.mark.parametrize(
    "text, said, remedy",
    [
        ("H10", "'H10' is no device", "H100"),
        ("8x", "'' is no device", "8x H100 80GB"),
        ("0x H100", "0 devices", "from 1 on"),
        ("H100 64GB", "no H100 of 64 GB", "H100 80GB"),
        ("A100 60GB", "no A100 of 60 GB", "40GB or 80GB"),
    ],
)
def test_what_is_no_machine_is_told(text: str, said: str, remedy: str):
    with pytest.raises(RecipeError, match=said) as refusal:
        machines(text)
    assert remedy in refusal.value.remedy and refusal.value.where == "--on"


def test_the_larger_a100_has_the_faster_memory_and_all_devices_have_speeds():
    assert machines("A100 80GB").device.bandwidth > machines("A100 40GB").device.bandwidth == 1.555e12
    assert all(d.single > 0 and d.bandwidth > 0 and d.link > 0 and all(d.memory) for d in DEVICES.values())


def test_what_a_backward_keeps_is_counted_once_and_as_it_goes():
    first, second = nn.Linear(10, 20, bias=False), nn.Linear(20, 5, bias=False)
    x = torch.randn(7, 10)
    with keeping([*first.parameters(), *second.parameters()]) as kept:
        hidden = torch.sigmoid(first(x))  # its result is kept by itself and by the next product: once
        out = second(hidden).sum()
        assert kept.now == kept.peak == 4 * (7 * 10 + 7 * 20)
        out.backward()
        assert kept.now == 0
        second(torch.sigmoid(first(x[:2]))).sum().backward()
    assert kept.peak == 4 * (7 * 10 + 7 * 20) and kept.now == 0
    assert torch.equal(second.weight.grad[:, 0] != 0, torch.ones(5, dtype=torch.bool))


def stage(**more: Any) -> StageEstimate:
    plain: dict[str, Any] = {
        "name": "main", "steps": 100, "tokens": 10_000, "exact": True, "set_up": 0.0, "seconds_per_token": 0.0,
        "train": 0.0, "checkpoint": 0, "kept": 0, "losses": [], "result": None, "weights": 2_000_000_000,
        "gradients": 100_000_000, "state": 400_000_000, "kept_for_backward": 8_000_000_000, "micro_tokens": 4096.0,
        "step_tokens": 16384.0, "flops_per_token": 6e9,
    }  # fmt: skip
    return StageEstimate(**plain | more)


def test_memory_is_the_sum_of_its_parts_and_a_process_keeps_its_own_share():
    (one,) = on_paper([stage()], "bfloat16", machines("H100")).stages
    parts = 2_000_000_000 + 100_000_000 + 400_000_000 + 8_000_000_000
    assert one.memory == pytest.approx(parts * 1.1 + 1e9) and one.spare == pytest.approx(parts * 0.1 + 1e9)
    (four,) = on_paper([stage()], "bfloat16", machines("4x H100")).stages
    (eight,) = on_paper([stage()], "bfloat16", machines("8x H100")).stages
    assert four.kept == one.kept and eight.kept == one.kept / 2, "16,384 tokens of 8 processes are 2,048 each"
    assert (four.weights, four.gradients, four.state) == (one.weights, one.gradients, one.state)
    assert not on_paper([stage()], "bfloat16", machines("RTX 3090 24GB")).stages[0].memory > 24e9
    assert not on_paper([stage(kept_for_backward=30_000_000_000)], "bfloat16", machines("RTX 3090")).fits


def test_divided_weights_are_an_nth_in_each_process_with_what_is_brought_together():
    frozen = {"divisible": 1_900_000_000, "together": 300_000_000}
    (eight,) = on_paper([stage(**frozen)], "bfloat16", machines("8x H100"), divided=True).stages
    whole = on_paper([stage(**frozen)], "bfloat16", machines("8x H100")).stages[0]
    assert eight.weights == 2_000_000_000 - 1_900_000_000 * 7 / 8 + 300_000_000
    assert (eight.gradients, eight.state, eight.kept) == (whole.gradients, whole.state, whole.kept)
    gathered = 7 / 8 * 2 * 1_900_000_000 / machines("H100").device.link  # a micro-batch a step, there and back
    assert eight.summing == pytest.approx(whole.summing + 100 * gathered)
    trained = frozen | {"divisible_gradients": 80_000_000}
    found = on_paper([stage(**trained)], "bfloat16", machines("8x H100"), divided=True)
    (full,) = found.stages
    assert full.weights == eight.weights + 300_000_000 and full.gradients == 20_000_000 + 10_000_000
    assert full.state == pytest.approx(400_000_000 * (0.2 + 0.8 / 8)) and found.divided
    (alone,) = on_paper([stage(**trained)], "bfloat16", machines("H100"), divided=True).stages
    assert alone == on_paper([stage(**trained)], "bfloat16", machines("H100")).stages[0]


def test_a_plan_reckons_with_division_where_the_recipe_asks(inputs: Path):
    made = plan(small.write_recipe(inputs, "on-divided", train__fsdp="full_shard"), on="2x RTX 4090", quiet=True)
    (probed,), on = made.estimate.stages, made.on
    assert on.divided and 0 < probed.together <= probed.divisible == 4 * made.model["parameters"]
    assert probed.divisible_gradients == 0 and on.stages[0].weights != probed.weights
    out = io.StringIO()
    plan_page.show(made, console=Console(file=out, width=200))
    assert "for bringing weights together and summing gradients" in out.getvalue()


def test_time_follows_from_operations_and_from_what_is_summed():
    h100 = machines("H100").device
    (one,) = on_paper([stage(flops_per_token=6e11)], "bfloat16", machines("H100")).stages
    computing = 6e11 * 16384 / h100.half
    assert one.fastest == pytest.approx(100 * computing / FAST) and one.summing == 0
    assert one.slowest == pytest.approx(100 * computing / SLOW)
    (eight,) = on_paper([stage(flops_per_token=6e11)], "bfloat16", machines("8x H100")).stages
    summing = 2 * 7 / 8 * 1e8 / h100.link
    assert eight.summing == pytest.approx(100 * summing)
    assert eight.fastest == pytest.approx(100 * (computing / 8 / FAST + summing))


def test_a_small_step_takes_the_time_that_starting_and_reading_take():
    (little,) = on_paper([stage(flops_per_token=1.0, weights=1)], "bfloat16", machines("H100")).stages
    assert (little.fastest, little.slowest) == (pytest.approx(100 * 4 * 0.01), pytest.approx(100 * 4 * 0.05))
    (read,) = on_paper([stage(flops_per_token=1.0, weights=70_000_000_000)], "bfloat16", machines("L4")).stages
    traffic = (3 * 70e9 * 4 + 2 * (4e8 + 1e8)) / machines("L4").device.bandwidth
    assert read.fastest == read.slowest == pytest.approx(100 * traffic)


def test_where_a_device_has_no_bfloat16_float32_is_reckoned_with():
    found = on_paper([stage()], "bfloat16", machines("T4"))
    assert found.precision == "float32" and found.stages[0].weights == 4_000_000_000
    assert on_paper([stage()], "bfloat16", machines("L4")).precision == "bfloat16"


def test_a_plan_says_what_a_recipe_takes_there(inputs: Path):
    recipe = small.write_recipe(inputs, "on", train__micro_tokens=64)
    made = plan(recipe, on="2x RTX 4090", quiet=True)
    (probed,), on = made.estimate.stages, made.on
    assert isinstance(on, OnPaper) and on.fits and on.count == 2 and on.machines == "2x RTX 4090 24GB"
    parameters = made.model["parameters"]
    assert probed.weights >= 4 * parameters and probed.gradients == 4 * probed.result.trainable
    assert probed.state >= 2 * probed.gradients, "Adam's two moments"
    assert probed.kept_for_backward > 0 and probed.micro_tokens <= 64 < probed.step_tokens
    assert probed.flops_per_token > 4 * probed.result.trainable
    whole = plan(small.write_recipe(inputs, "on-whole"), quiet=True).estimate.stages[0]
    assert whole.kept_for_backward > probed.kept_for_backward and whole.micro_tokens == whole.step_tokens
    out = io.StringIO()
    plan_page.show(made, console=Console(file=out, width=200))
    text = out.getvalue()
    assert "On 2x RTX 4090 24GB, on paper, in float32" in text and "it fits" in text and "kept for the backward" in text
    values = json.loads(json.dumps(made.to_json()))["on"]
    assert values["fits"] is True and values["needs"] == values["stages"][0]["memory"] == on.needs
    assert plan(recipe, quiet=True).on is None
