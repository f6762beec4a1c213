"""Modules, gradients, optimizers and files on the pretended device."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load, load_file, save, save_file
from torch import nn
from torch.utils.checkpoint import checkpoint


def model() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 2))


def devices(values) -> set[str]:
    return {t.device.type for t in values}


def test_a_module_moves_whole_and_keeps_its_parameters(cuda):
    m = model()
    m[3].weight = m[0].weight  # any tie will do here
    before = [*m.parameters()]
    m.register_buffer("table", torch.arange(3))
    m.to("cuda")
    assert [*m.parameters()] == before or all(a is b for a, b in zip(m.parameters(), before, strict=True))
    assert devices(m.state_dict().values()) == {"cuda"} and m[3].weight is m[0].weight
    assert devices(copy.deepcopy(m).state_dict().values()) == {"cuda"}
    assert devices(m.cpu().state_dict().values()) == {"cpu"}


def test_gradients_are_where_their_tensors_are(cuda):
    m, x = model().cuda(), torch.ones(3, 4, requires_grad=True)
    m(x.to("cuda")).sum().backward()
    assert devices(p.grad for p in m.parameters()) == {"cuda"} and x.grad.device.type == "cpu"
    (g,) = torch.autograd.grad(m(torch.ones(3, 4, device="cuda")).square().sum(), [m[0].weight], create_graph=True)
    assert g.is_cuda and g.square().sum().requires_grad
    m[0].weight.grad = torch.ones_like(m[0].weight)
    with pytest.raises(RuntimeError, match="gradient|device"):
        m[0].weight.grad = torch.ones(8, 4)


def test_gradients_of_many_operations_stay_on_the_device(cuda):
    """Autograd's own formulas make tensors by the options of others."""
    x = torch.linspace(0.1, 2.0, 12, device="cuda").view(3, 4).requires_grad_()
    for f in (
        lambda: x.topk(2).values,
        lambda: x.max(-1).values,
        lambda: x.sort().values[:, :2],
        lambda: x.gather(1, torch.zeros(3, 1, dtype=torch.long, device="cuda")),
        lambda: x[:, 1:3].prod(-1),
        lambda: x.std(-1),
        lambda: x.norm(dim=-1),
        lambda: x.cumsum(-1).logsumexp(-1),
        lambda: x.masked_select(x > 1.0),
        lambda: x.index_select(0, torch.tensor([2, 0], device="cuda")),
        lambda: x[torch.tensor([2, 0])].unfold(1, 2, 1),
        lambda: torch.linalg.svdvals(x),
        lambda: torch.lerp(x, x.square(), 0.5).flip(0).roll(1, 0).diagonal(),
        lambda: nn.functional.pad(x, (1, 2)).clamp(min=0.5),
    ):
        (g,) = torch.autograd.grad(f().sum(), [x])
        assert g.is_cuda and g.shape == x.shape


def test_hooks_and_recomputation_in_the_backward_pass_see_the_device(cuda):
    m, seen = model().cuda(), []
    inner = copy.deepcopy(m)
    inner[0].weight.register_hook(lambda g: seen.append(g.device.type))

    def block(x):
        seen.append(torch.zeros(1).device.type)  # made in Python, without a device
        return inner(x + torch.zeros(4, device=x.device))

    checkpoint(block, torch.ones(3, 4, device="cuda"), use_reentrant=False).sum().backward()
    assert seen == ["cpu", "cpu", "cuda"] and inner[0].weight.grad.is_cuda


def test_a_hook_that_brings_a_tensor_of_the_cpu_fails(cuda):
    m = model().cuda()
    m[0].weight.register_hook(lambda g: g * torch.ones(8, 4))
    with pytest.raises(RuntimeError, match="same device"):
        m(torch.ones(3, 4, device="cuda")).sum().backward()


@pytest.mark.parametrize("how", [{}, {"foreach": True}, {"fused": True}], ids=str)
def test_adamw_keeps_its_state_on_the_device(cuda, how):
    m = model().cuda()
    optimizer = torch.optim.AdamW(m.parameters(), lr=1e-2, **how)
    for _ in range(2):
        m(torch.ones(3, 4, device="cuda")).square().sum().backward()
        nn.utils.clip_grad_norm_(m.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    moments = [s["exp_avg"] for s in optimizer.state.values()]
    assert len(moments) == 6 and devices(moments) == {"cuda"} and devices(m.parameters()) == {"cuda"}


def test_weights_are_loaded_across_devices_and_saved_from_the_device(cuda, tmp_path):
    m = model().cuda()
    m.load_state_dict(model().state_dict())
    assert devices(m.parameters()) == {"cuda"}
    save_file(m.state_dict(), tmp_path / "m.safetensors")
    for read in (load_file(tmp_path / "m.safetensors"), load(save(m.state_dict()))):
        assert devices(read.values()) == {"cpu"} and torch.equal(read["0.weight"], m[0].weight.cpu())
    assert devices(load_file(tmp_path / "m.safetensors", device="cuda").values()) == {"cuda"}


def test_a_model_of_transformers_generates_there(cuda):
    from tests.tiny import llama

    m = llama().to("cuda")
    said = m.generate(torch.tensor([[3, 4, 5]], device="cuda"), max_new_tokens=4, do_sample=False, use_cache=True)
    assert said.is_cuda and said.shape == (1, 7)
    with pytest.raises(RuntimeError, match="device"):
        m(torch.tensor([[3, 4, 5]]))
