"""The base of low-rank methods: what a third party writes conforms, what cannot work is refused before training."""

from __future__ import annotations

import random
from typing import ClassVar

import pytest
import torch
from pydantic import Field
from torch import Tensor, nn

from tests import tiny
from tunewright import catalogue
from tunewright.conformance import check_method
from tunewright.contract.class_check import check_class
from tunewright.contract.method import Method, Needs, Plan, Setup, State, torch_generator
from tunewright.errors import MethodError
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import LowRank
from tunewright.models.nf4 import quantise_sites
from tunewright.pieces.low_rank import LowRankChange, LowRankMethod, PatternedLowRank, Start, kaiming

OURS = ("lora", "qlora", "corda", "codyra", "allora", "lae", "dora", "pissa", "olora", "lora-fa")


class Orthonormal(LowRankMethod):
    """LoRA whose A starts with orthonormal rows."""

    full_rank_at_most: ClassVar[bool] = True
    conformance: ClassVar[dict[str, object]] = {"rank": 4}

    def initial(self, start: Start) -> tuple[Tensor, Tensor]:
        drawn = torch.randn(start.site.in_features, start.rank, generator=torch_generator(start.rng))
        return torch.linalg.qr(drawn).Q.T, torch.zeros(start.site.out_features, start.rank)


class Principal(LowRankMethod):
    """PiSSA's start: the largest singular directions of W, taken off again."""

    alpha: ClassVar[None] = None  # type: ignore[misc]
    default_scale: ClassVar[float] = 1.0
    offset: ClassVar[bool] = True
    quantised: ClassVar[bool] = False
    conformance: ClassVar[dict[str, object]] = {"rank": 4}

    def initial(self, start: Start) -> tuple[Tensor, Tensor]:
        U, S, Vt = torch.linalg.svd(start.site.matrix().detach().float(), full_matrices=False)
        root = S[: start.rank].sqrt()
        return root[:, None] * Vt[: start.rank], U[:, : start.rank] * root


def deltas(method: LowRankMethod, model: nn.Module | None = None) -> dict[str, LowRank]:
    """Each site's change as `method` starts it, without the loop."""
    adapted = Adapted(model if model is not None else tiny.llama())
    run = Setup(adapted, Plan(1, 1, "main", 0, 1e-3, 0), "text-generation", random.Random(0))
    state = method.setup(run)
    attached = {s.name: method.attach(s, Needs({}), state, run.rng) for s in adapted.structure.sites}
    return {n: d for n, d in attached.items() if d is not None}


@pytest.mark.parametrize("cls", [Orthonormal, Principal])
def test_a_method_of_another_package_conforms(cls):
    checked = check_method(cls)
    assert {"starts as the identity", "folds as declared", "every field matters"} <= set(checked), checked


def test_the_start_is_the_methods_own():
    for delta in deltas(Orthonormal(rank=4)).values():
        torch.testing.assert_close(delta.lora_A @ delta.lora_A.T, torch.eye(4))
        assert delta.scale == 2.0 and not delta.lora_B.any()
    for name, delta in deltas(Principal(rank=4)).items():
        W = tiny.llama().get_submodule(name).weight
        assert float(delta.change().detach().abs().max()) < 1e-6 and delta.scale == 1.0
        left = torch.linalg.matrix_norm(W - delta.lora_B @ delta.lora_A, 2)
        torch.testing.assert_close(left, torch.linalg.svdvals(W)[4], rtol=1e-4, atol=1e-5)


def test_alpha_follows_one_rule():
    class Half(LowRankMethod):
        """Half."""

        default_scale: ClassVar[float] = 0.5

    for method, scale in (
        (LowRankMethod(), 2.0),
        (LowRankMethod(rank=3), 2.0),
        (LowRankMethod(rank=4, alpha=2), 0.5),
        (Half(rank=8), 0.5),
        (Half(rank=8, alpha=8), 1.0),
        (PatternedLowRank(rank=8, rank_pattern={"q_proj": 2}), 8.0),
        (PatternedLowRank(rank=8, alpha=4, alpha_pattern={"layers.0.self_attn.q_proj": 1}), 0.125),
    ):
        delta = deltas(method)["model.layers.0.self_attn.q_proj"]
        assert delta.scale == scale and method.dropout == delta.dropout == 0.0, method
    for name in OURS:
        cls = catalogue.load_method(name)
        assert issubclass(cls, LowRankChange)
        field = cls.model_fields.get("alpha")
        if field is not None and field.default is None:
            assert field.description.endswith(f", s = {cls.default_scale:g}"), name


def test_which_layers():
    names = set(deltas(LowRankMethod(target_modules=("q_proj", "layers.1.mlp.up_proj"))))
    assert names == {"model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj"}
    assert len(deltas(LowRankMethod())) == len(Adapted(tiny.llama()).structure.linear_sites())
    with pytest.raises(MethodError, match="(?s)'q_prj' is no module.*q_proj"):
        deltas(LowRankMethod(target_modules="q_prj"))
    with pytest.raises(MethodError, match="rank_pattern, alpha_pattern: the pattern 'k_proj' names no targeted"):
        deltas(PatternedLowRank(target_modules="q_proj", rank_pattern={"k_proj": 2}))


def test_layers_that_cannot_have_it_are_refused_at_set_up():
    with pytest.raises(MethodError, match="low-rank delta cannot hang on 'model.embed_tokens', which is a embedding"):
        deltas(LowRankMethod(target_modules="embed_tokens"))
    with pytest.raises(MethodError, match="'lowrankmethod' found no site to attach to"):
        deltas(LowRankMethod(), tiny.efficientnet())
    narrow = min(min(s.out_features, s.in_features) for s in Adapted(tiny.llama()).structure.linear_sites())
    assert deltas(Orthonormal(rank=narrow)) and deltas(LowRankMethod(rank=narrow + 1))
    with pytest.raises(MethodError, match=rf"(?s)orthonormal's rank {narrow + 1} exceeds .*write rank: {narrow} or"):
        deltas(Orthonormal(rank=narrow + 1))


def test_a_method_that_reads_the_weights_is_refused_where_an_earlier_stage_put_them_into_few_bits():
    model = tiny.llama()
    quantise_sites(model, Adapted(model).structure.linear_sites(), False)
    assert deltas(LowRankMethod(), model)
    with pytest.raises(MethodError, match="(?s)principal starts from the weight of .* 4 bits.*carry: drop"):
        deltas(Principal(), model)


def test_a_start_of_the_wrong_shape_is_refused():
    class Turned(LowRankMethod):
        """A and B of each other's shape."""

        def initial(self, start: Start) -> tuple[Tensor, Tensor]:
            A, B = kaiming(start.site, start.rank, torch_generator(start.rng))
            return B, A

    with pytest.raises(MethodError, match=r"(?s)Turned.initial gave A \[.*give A \[rank, in\]"):
        deltas(Turned())


def test_a_parameter_that_is_fixed_is_no_parameter_and_no_slip():
    check_class(Principal)
    assert "alpha" not in Principal.model_fields and "dropout" in Principal.model_fields
    with pytest.raises(ValueError, match="Extra inputs"):
        Principal(alpha=3)

    class Slip(LowRankMethod):
        """A slip of the pen."""

        alfa: ClassVar[None] = None

    with pytest.raises(MethodError, match="'alfa'.*neither a slot"):
        check_class(Slip)


def test_a_change_that_hangs_itself_fills_no_slot():
    class Own(LowRankChange):
        """Hangs its deltas itself."""

        share: float = Field(1.0, description="share")

        def penalty(self, state: State) -> Tensor:
            return torch.zeros(())

    assert Own.slots() == ("penalty",) and issubclass(Own, Method)
