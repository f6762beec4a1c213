"""RoSTE: fine-tune a model in the few bits in which it will run, rotated where that lowers the rounding error (Wei et
al. 2025, arXiv:2502.09003; papers: roste).

Every targeted layer computes as if its weight [out, in] and its input were whole numbers of few bits, and keys and
values as if they were cached so (`models/fake_quantised.py`):

    y = q(x H) q(W H)^T + b        H: Walsh-Hadamard, or none

and all of the model's weights train through it, the rounding passing gradients as they are (straight-through, also
where it cuts): dL/dW = (dL/dq) H^T. Before training H is chosen for each layer, and kept: it stands where

    mean (q(W H) - W H)^2 + mean (q(x H) - x H)^2  <  mean (q(W) - W)^2 + mean (q(x) - x)^2

on a few rows; for the cached outputs of keys and values likewise, by their own errors. Beside another method on
`attach`, whose deltas then train, weights stay as they are.

It is measured as it was trained, in few bits, and cannot be folded: plain weights compute in whole numbers. The report
says which layers are rotated and how many bits the weights take.

Defaults: 4 bits each, symmetric, nothing clipped (the authors' search and script); 16 rows are looked at (ours). Peak
rate: as for full fine-tuning.
Raises MethodError for a base in 4 bits, and for modules that are not there.
Differs from the paper in: a layer's whole input is rotated, wherever it lies (there R1 rotates the residual stream once
for all layers, folded into the weights beside it, R2 and R4 the inputs of attention's output and the down projection),
so that nothing has to be fused and any architecture is served, and all rotations are made while it runs; keys are
rounded before their positions are put in (there R3 rotates them after it); each choice is of one layer; widths that
are no power of two are rotated in blocks. The authors' script compares errors as texts of four digits; here numbers.
Source: quanwei0/RoSTE, README, quant_linear and the search script as noted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from tunewright.contract.found import Found
from tunewright.contract.method import Method, Need, Needs, Setup, State
from tunewright.errors import MethodError
from tunewright.methods.needs.rounding_errors import RoundingErrors, head_widths
from tunewright.models.deltas import check_site
from tunewright.models.fake_quantised import FakeQuantised, rotated, rounded
from tunewright.models.sites import Site
from tunewright.pieces.target_modules import TARGET_MODULES

CACHED = ("k_proj", "v_proj", "key", "value")


class RoSTE(Method):
    """All weights train through a forward in few bits, rotated layer by layer where that rounds less."""

    weight_bits: int = Field(4, ge=2, le=16, description="bits of a weight", examples=[2])
    input_bits: int = Field(4, ge=2, le=16, description="bits of a number of a layer's input", examples=[3])
    cache_bits: int = Field(
        4, ge=0, le=16, description="bits of a number of keys and values; 0: they are not rounded", examples=[2]
    )
    rotations: Literal["adaptive", "always", "never"] = Field(
        "adaptive", description="where layers are rotated: where their error is smaller, everywhere, nowhere",
        examples=["never", "always"],
    )  # fmt: skip
    clip: PositiveFloat = Field(
        1.0, le=1, description="share of the largest number that is still told apart", examples=[0.5]
    )
    data: str = Field("train", description="source of the rows that errors are taken on", examples=["keep"])
    samples: PositiveInt = Field(16, description="rows that errors are taken on", examples=[1])
    target_modules: str | tuple[str, ...] = Field("all-linear", description=TARGET_MODULES, examples=[["q_proj"]])
    cached_modules: tuple[str, ...] = Field(
        CACHED, description="ends of the names of layers whose output is cached", examples=[["q_proj"]]
    )

    category: ClassVar[str] = "whole"
    also: ClassVar[Mapping[str, str]] = {"w_bits": "weight_bits", "a_bits": "input_bits", "kv_bits": "cache_bits"}
    folds: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    quantised: ClassVar[bool] = False
    learning_rates: ClassVar[Mapping[str, float]] = {
        "": 8e-5,
        "text-classification": 1.2e-4,
        "image-classification": 1e-4,
    }
    papers: ClassVar[tuple[str, ...]] = ("roste",)
    # inputs on a fine grid: on a coarse one the last bit of a sum decides between two whole steps
    conformance: ClassVar[dict[str, object]] = {"samples": 4, "input_bits": 16, "cache_bits": 16}

    def needs(self) -> Sequence[Need]:
        if self.rotations != "adaptive":
            return ()
        need = RoundingErrors(
            source=self.data, samples=self.samples, input_bits=self.input_bits, output_bits=self.cache_bits,
            clip=self.clip, target_modules=self.target_modules,
        )  # fmt: skip
        return (need,)

    def setup(self, run: Setup) -> State:
        sites = run.structure.match(self.target_modules)
        for site in sites:
            check_site(site, FakeQuantised)
        widths = head_widths(run.structure)
        return State(heads={s.name: widths.get(s.name, s.out_features) for s in sites}, layers={})

    def attach(self, site: Site, needs: Needs, state: State) -> FakeQuantised | None:
        if site.name not in state.data["heads"]:
            return None
        cached = bool(self.cache_bits) and site.name.rpartition(".")[2] in self.cached_modules
        errors, turned = self._errors(site, needs), (self.rotations == "always",) * 2
        if errors is not None:
            turned = (errors[1] < errors[0], errors[3] < errors[2])
        turned = (turned[0], turned[1] and cached)
        state.data["layers"][site.name] = {
            "turned": list(turned), "cached": cached, "errors": errors,
            "bits": self.weight_bits * site.in_features * site.out_features + 32 * site.out_features,
            "weights": site.in_features * site.out_features,
        }  # fmt: skip
        bits = (self.weight_bits, self.input_bits, self.cache_bits if cached else 0)
        return FakeQuantised(bits, turned, state.data["heads"][site.name], self.clip)

    def _errors(self, site: Site, needs: Needs) -> list[float] | None:
        """Mean squared errors of weight and input as they are and rotated, and of the output likewise."""
        if self.rotations != "adaptive":
            return None
        found = needs.rounding_errors.get(site.name)
        if found is None:
            raise MethodError(
                f"no input reached '{site.name}' in {self.samples} rows",
                where="target_modules",
                remedy="leave it out of target_modules, take more samples, or write rotations: always",
            )
        W = site.matrix().detach().float()
        of_weight = [float((rounded(v, self.weight_bits, self.clip) - v).square().mean()) for v in (W, rotated(W))]
        return [a + b for a, b in zip([*of_weight, 0.0, 0.0], found.tolist(), strict=True)]

    def found(self, state: State) -> Found | None:
        layers = state.data.get("layers")
        if not layers:
            return None
        bits, weights = (sum(of[k] for of in layers.values()) for k in ("bits", "weights"))
        return Found(
            title="Bits and rotations",
            description="Bits a weight of the layers that run in few bits, a scale of 32 bits for each output counted; "
            "the share of layers whose input is rotated; and each layer's mean squared rounding error of weight and "
            "input, as they are and rotated.",
            values={
                "bits a weight": bits / weights,
                "rotated": sum(of["turned"][0] for of in layers.values()) / len(layers),
            },
            columns=["layer", "rotated", "output rotated", "error as it is", "error rotated"],
            rows=[[n, *of["turned"], *(of["errors"] or [None, None])[:2]] for n, of in layers.items()],
        )
