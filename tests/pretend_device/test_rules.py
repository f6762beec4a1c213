"""Each rule of the pretended device: a wrong program fails, the right one passes. A real GPU runs the same programs."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

MIXED = "Expected all tensors to be on the same device|same device|on cpu|device"


def on(*shape: int) -> Tensor:
    return torch.ones(shape, device="cuda")


def cpu(*shape: int) -> Tensor:
    return torch.ones(shape)


def ids(*values: int, device: str = "cpu") -> Tensor:
    return torch.tensor(values, device=device)


def written_to(a: Tensor, b: Tensor) -> Tensor:
    a += b
    return a


def put(x: Tensor, i: Tensor, value: Tensor) -> Tensor:
    x[i] = value
    return x


WRONG = {
    "a sum": lambda: on(3) + cpu(3),
    "a sum, the other way": lambda: cpu(3) + on(3),
    "a number on the device with a tensor that is not": lambda: cpu(3) * on(),
    "a product of matrices": lambda: on(2, 3) @ cpu(3, 2),
    "a layer that was left behind": lambda: nn.Linear(3, 2)(on(1, 3)),
    "an embedding's indices": lambda: nn.functional.embedding(ids(0, 1), on(3, 2)),
    "cat": lambda: torch.cat([on(2), cpu(2)]),
    "stack, of numbers too": lambda: torch.stack([on(), cpu()]),
    "a total that stays on the CPU, added to in place": lambda: written_to(cpu(), on()),
    "added to in place": lambda: written_to(on(3), cpu(3)),
    "index_select": lambda: on(3).index_select(0, ids(1)),
    "gather": lambda: on(3).gather(0, ids(1)),
    "index_add": lambda: on(3).index_add(0, ids(1), on(1)),
    "scatter": lambda: on(3).scatter(0, ids(1), 2.0),
    "masked_fill": lambda: on(3).masked_fill(torch.tensor([True, False, True]), 0.0),
    "where": lambda: torch.where(torch.tensor([True, False]), on(2), on(2)),
    "indices on the device into the CPU": lambda: cpu(3)[ids(1, device="cuda")],
    "values of another device put by an index": lambda: put(on(3), ids(0, 1), cpu(2)),
    "a loss whose labels stayed": lambda: nn.functional.cross_entropy(on(2, 3), ids(0, 1)),
    "equal": lambda: torch.equal(on(2), cpu(2)),
    "isin": lambda: torch.isin(ids(1, 2, device="cuda"), ids(1)),
    "a list, one by one": lambda: torch._foreach_add([on(2), on(2)], [on(2), cpu(2)]),
    "under inference mode": lambda: torch.inference_mode()(lambda: nn.functional.linear(on(1, 3), cpu(2, 3)))(),
    "an output given beforehand": lambda: torch.add(on(2), on(2), out=cpu(2)),
}


@pytest.mark.parametrize("program", WRONG.values(), ids=WRONG)
def test_what_mixes_devices_is_refused(cuda, program):
    with pytest.raises(RuntimeError, match=MIXED):
        program()


RIGHT = {
    "a sum": lambda: on(3) + on(3),
    "a number of the CPU goes along": lambda: on(3) * cpu(),
    "two numbers": lambda: cpu() + on(),
    "a Python number": lambda: on(3) * 2.0,
    "a layer that was moved": lambda: nn.Linear(3, 2).to("cuda")(on(1, 3)),
    "an embedding": lambda: nn.functional.embedding(ids(0, 1, device="cuda"), on(3, 2)),
    "cat": lambda: torch.cat([on(2), on(2)]),
    "a total on the device": lambda: written_to(on(), on()),
    "a list of indices": lambda: on(3)[[0, 2]],
    "indices on the CPU into the device": lambda: on(3)[ids(0, 2)],
    "a mask on the CPU": lambda: on(3)[torch.tensor([True, False, True])],
    "put by indices on the CPU": lambda: put(on(3), ids(0, 1), on(2)),
    "a number put by an index": lambda: put(on(3), ids(0, 1), cpu()),
    "copied across": lambda: on(3).copy_(cpu(3)),
    "index_select": lambda: on(3).index_select(0, ids(1, device="cuda")),
    "where, with numbers": lambda: torch.where(on(2) > 0, 0.5, on(2)),
    "a loss": lambda: nn.functional.cross_entropy(on(2, 3), ids(0, 1, device="cuda")),
    "attention": lambda: nn.functional.scaled_dot_product_attention(
        on(1, 1, 2, 4), on(1, 1, 2, 4), on(1, 1, 2, 4), is_causal=True
    ),
    "new_zeros": lambda: on(3).new_zeros(2),
    "new_tensor": lambda: on(3).new_tensor([1.0, 2.0]),
    "zeros_like": lambda: torch.zeros_like(on(3)),
    "randn_like": lambda: torch.randn_like(on(3)),
    "tensor": lambda: torch.tensor([1.0], device="cuda"),
    "tensor of a tensor": lambda: on(2).clone().detach(),
    "as_tensor of an array": lambda: torch.as_tensor(np.ones(3), device="cuda"),
    "to, by another tensor": lambda: cpu(3).to(on(1)),
    "to, with a type": lambda: cpu(3).to("cuda", torch.float64),
    "to, by name": lambda: cpu(3).to(device=torch.device("cuda"), dtype=torch.float64),
    "to, by number": lambda: cpu(3).to(0),
    "cuda": lambda: cpu(3).cuda(),
    "type_as": lambda: cpu(3).type_as(on(1)),
    "a view": lambda: on(4).view(2, 2)[0].t(),
    "a type": lambda: on(3).double(),
    "a copy": lambda: copy.deepcopy(on(3)),
    "a parameter": lambda: nn.Parameter(on(3)).detach(),
    "arange": lambda: torch.arange(3, device=on(1).device),
    "under inference mode": lambda: torch.inference_mode()(lambda: nn.functional.linear(on(1, 3), on(2, 3)))(),
    "an output given beforehand": lambda: torch.add(on(2), on(2), out=on(2)),
}


@pytest.mark.parametrize("program", RIGHT.values(), ids=RIGHT)
def test_what_stays_on_the_device_gives_a_tensor_there(cuda, program):
    out = program()
    assert out.device == torch.device("cuda", 0) and out.is_cuda and not out.is_cpu and out.get_device() == 0


BACK = {
    "cpu": lambda: on(3).cpu(),
    "to": lambda: on(3).to("cpu"),
    "to, by another tensor": lambda: on(3).to(cpu(1)),
    "zeros_like elsewhere": lambda: torch.zeros_like(on(3), device="cpu"),
    "new_zeros elsewhere": lambda: on(3).new_zeros(2, device="cpu"),
    "made without a device": lambda: torch.full((2,), float(on().item())),
    "copied across": lambda: cpu(3).copy_(on(3)),
    "shapes of another": lambda: cpu(1).expand_as(on(3)),
    "tensor of numbers that are there": lambda: torch.tensor([on(), on()]),
}


@pytest.mark.parametrize("program", BACK.values(), ids=BACK)
def test_what_comes_back_is_on_the_cpu(cuda, program):
    out = program()
    assert out.device.type == "cpu" and not out.is_cuda and (out + cpu(1)).device.type == "cpu"


def test_numpy_reads_only_what_is_on_the_cpu(cuda):
    for wrong in (lambda: on(3).numpy(), lambda: np.asarray(on(3))):
        with pytest.raises(TypeError, match="can't convert cuda"):
            wrong()
    assert on(3).cpu().numpy().tolist() == [1.0] * 3 and on(3).tolist() == [1.0] * 3 and on().item() == 1.0


def test_a_copy_on_the_device_shares_no_memory_with_where_it_came_from(cuda):
    here = np.ones(3, np.float32)
    there, back = torch.as_tensor(here, device="cuda"), on(3)
    again = back.cpu()
    here[0], again[0] = 5.0, 7.0
    assert there.tolist() == [1.0] * 3 and back.tolist() == [1.0] * 3
    assert there.to("cuda") is there and again.cpu() is again and there.to("cuda", copy=True) is not there


def test_there_is_one_gpu(cuda):
    assert torch.cuda.is_available() and torch.cuda.current_device() == 0
    with pytest.raises((RuntimeError, AssertionError), match="device"):
        torch.zeros(1, device="cuda:63")


def test_page_locked_memory(cuda):
    pinned = cpu(3).pin_memory()
    assert pinned.is_pinned() and not cpu(3).is_pinned() and pinned.device.type == "cpu"
    assert torch.zeros(2, pin_memory=True).is_pinned()
    with pytest.raises(RuntimeError, match="cannot pin"):
        on(3).pin_memory()
