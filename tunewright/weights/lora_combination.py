"""Exact combination of LoRA adapters: one adapter whose change is the weighted sum of theirs, module by module.

An adapter changes a module by s B A, with A [r, in], B [out, r] and s = alpha / r, or alpha / sqrt(r) for
rank-stabilised ones; ranks and alphas may differ by module. The sum is low-rank itself:

    sum_i w_i s_i B_i A_i = [w_1 s_1 B_1, w_2 s_2 B_2, ...] [A_1; A_2; ...]

of rank r_1 + r_2 + ... and scale 1: exact, where averaging the A and the B by themselves is not. Folded into the base
it is, to rounding, task arithmetic of the folded models (with weights that sum to 1: their linear merge). With a rank
given, every module's sum is cut to the nearest matrix of that rank, and the error is said.

DoRA is refused: it rescales rows of base and change together, so that two changes do not add.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from tunewright.errors import MethodError, ModelError
from tunewright.files.regular import regular
from tunewright.files.tensors import save_tensors
from tunewright.models import peft_format
from tunewright.models.agreement import differing
from tunewright.models.peft_format import PREFIX, WEIGHTS, Parts, stored_pair
from tunewright.models.peft_settings import CONFIG, config_of, read_config
from tunewright.weights.opening import change_in
from tunewright.weights.request import Request
from tunewright.weights.resolving import Operator

if TYPE_CHECKING:
    from tunewright.weights.stream import Merged


class Pair(NamedTuple):
    """A low-rank change scale x B A: A [r, in], B [out, r]."""

    A: Tensor
    B: Tensor
    scale: float

    def change(self) -> Tensor:
        """scale B A [out, in], fp32."""
        return self.scale * (self.B.float() @ self.A.float())


Adapter = Mapping[str, Pair]
"""Pairs by module name. A module that an adapter lacks it does not change."""


def combined(adapters: Sequence[Adapter], weights: Sequence[float]) -> dict[str, Pair]:
    """The weighted sum of adapters, exactly: by module ranks added up, scale 1, fp32. Modules in alphabetical order.

    MethodError for no adapters, another number of weights, or shapes of one module that differ.
    """
    if not adapters or len(adapters) != len(weights):
        raise MethodError(
            f"{len(weights)} weights for {len(adapters)} adapters",
            remedy="give one weight for each of at least one adapter",
        )
    out = {}
    for name in sorted({n for a in adapters for n in a}):
        parts = [(a[name], w) for a, w in zip(adapters, weights, strict=True) if name in a]
        shapes = {(p.B.shape[0], p.A.shape[1]) for p, _ in parts}
        if len(shapes) > 1:
            raise MethodError(f"'{name}' has changes of shapes {sorted(shapes)}", remedy="combine adapters of one base")
        A = torch.cat([p.A.float() for p, _ in parts])
        B = torch.cat([p.B.float() * (w * p.scale) for p, w in parts], dim=1)
        out[name] = Pair(A, B, 1.0)
    return out


def compressed(pair: Pair, rank: int) -> tuple[Pair, float]:
    """(the nearest change of at most that rank, relative Frobenius error ||cut - whole|| / ||whole||; 0 where whole is
    0).

    By two thin QR decompositions and the SVD of their r x r core, in fp64: the out x in product is never formed. The
    singular values are split evenly between A and B.
    """
    qb, rb = torch.linalg.qr(pair.B.double() * pair.scale)
    qa, ra = torch.linalg.qr(pair.A.double().T)
    U, S, Vh = torch.linalg.svd(rb @ ra.T)
    kept, whole = S[:rank].sqrt(), float(S.square().sum())
    cut = Pair((kept[:, None] * (Vh[:rank] @ qa.T)).float(), ((qb @ U[:, :rank]) * kept).float(), 1.0)
    return cut, (float(S[rank:].square().sum()) / whole) ** 0.5 if whole else 0.0


def combine_adapters(
    folders: Sequence[Path | str], out: Path | str, weights: Sequence[float] | None = None, rank: int | None = None
) -> dict[str, float]:
    """Write one PEFT adapter that is the weighted sum of others of one base (weights: all 1). Inputs are not touched.

    `rank`: cut modules whose ranks add up to more. Returns each module's relative error, 0 where nothing was cut.
    ModelError for DoRA, for what is no plain LoRA, for adapters of different bases, and where `out` is there already.
    """
    paths, target = [Path(f) for f in folders], Path(out)
    if target.exists():
        raise ModelError(
            "the folder is there already", where=str(target), remedy="name another folder, or move this one away"
        )
    configs = [_config(p) for p in paths]
    _one_base(paths, configs)
    adapters = [peft_format.read_parts(p) for p in paths]
    head = _one_head(paths, adapters)
    whole = combined([_pairs(a) for a in adapters], list(weights) if weights else [1.0] * len(paths))
    errors = dict.fromkeys(whole, 0.0)
    for name, pair in whole.items():
        if rank is not None and len(pair.A) > rank:
            whole[name], errors[name] = compressed(pair, rank)
    kernels = {n: k for a in adapters for n, k in a.kernels.items()}
    _write(whole, kernels, head, configs, paths[0], target)
    return errors


def merge_adapters(request: Request) -> Merged:
    """`tunewright merge A B --as adapter`: exactly what linear or task-arithmetic makes of the folded models, as one
    adapter.

    MethodError for other methods, for models that are no PEFT adapters, and for a linear merge whose weights do not sum
    to 1.
    """
    from tunewright.weights.stream import Merged

    began, operator = time.perf_counter(), Operator(request)
    if operator.name not in ("linear", "task-arithmetic") or request.then:
        raise MethodError(
            f"what '{operator.name}' makes of adapters is no sum of them, so no adapter holds it exactly",
            where=request.where,
            remedy="write --method linear or task-arithmetic, or --as model, or --as delta",
        )
    folders = []
    for part in request.models:
        folder = change_in(
            Path(
                part.ref.partition("+")[2] if "+" in part.ref and not Path(part.ref).exists() else part.ref
            ).expanduser()
        )
        if folder is None or not (folder / CONFIG).exists():
            raise MethodError(
                f"'{part.ref}' is no PEFT adapter",
                where=request.where,
                remedy="give adapters alone, or write --as model, or --as delta",
            )
        folders.append(folder)
    errors = combine_adapters(folders, request.out, _weights(operator, request))
    with safe_open(request.out / WEIGHTS, framework="pt") as f:
        values = sum(math.prod(f.get_slice(k).get_shape()) for k in f.keys())  # noqa: SIM118 - the file is no mapping
    return Merged(request.out, 2 * len(errors), values, time.perf_counter() - began, None, 0)


def _weights(operator: Operator, request: Request) -> list[float]:
    """One number per model, the same for all tensors."""
    for settings in (operator.shared, *(p.parameters for p in operator.parts)):
        for name, value in settings.items():
            if isinstance(value, list | Mapping):
                raise MethodError(
                    f"{name} differs from tensor to tensor, and an adapter is added with one weight here",
                    where=request.where,
                    remedy="give a number, or write --as delta",
                )
    own, each = operator.at("", 0.0, operator.parts)
    weights = [float(e["weight"]) for e in each]
    total = math.fsum(weights)
    if own["normalize"]:
        if abs(total) < 1e-8:
            raise MethodError(
                f"the weights {weights} sum to 0, so that there is no mean",
                where=request.where,
                remedy="write --normalize false",
            )
        weights = [w / total for w in weights]
    elif operator.name == "linear" and abs(total - 1) > 1e-6:
        raise MethodError(
            f"the weights {weights} do not sum to 1, so that the base would be scaled too",
            where=request.where,
            remedy="write --method task-arithmetic",
        )
    return [w * float(own.get("lambda_", 1.0)) for w in weights]


def _config(folder: Path) -> dict[str, Any]:
    try:
        read = json.loads(regular(folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        read = {}
    if isinstance(read, dict) and read.get("use_dora"):
        raise ModelError(
            "a DoRA adapter rescales rows of base and change together, so that its change does not add to another one",
            where=str(folder / CONFIG),
            remedy="fold each adapter into its base, and merge the folded models",
        )
    return read_config(folder)


def _pairs(parts: Parts) -> dict[str, Pair]:
    return {n: Pair(A, B, parts.scales[n]) for n, (A, B) in parts.pairs.items()}


def _one_head(folders: Sequence[Path], adapters: Sequence[Parts]) -> Mapping[str, Tensor]:
    """The whole tensors that the adapters carry (a head). MethodError where they differ, for they do not add."""
    first = adapters[0].values
    for folder, parts in zip(folders[1:], adapters[1:], strict=True):
        if different := differing(first, parts.values):
            raise MethodError(
                f"'{different[0]}', which both adapters carry whole, is not the same in {folders[0].name}",
                where=str(folder),
                remedy="merge their models: write --as model, or --as delta",
            )
    return first


def _one_base(folders: Sequence[Path], configs: Sequence[Mapping[str, Any]]) -> None:
    """ModelError where adapters name different weights (by hash where both have one, else by name) or layouts."""
    first = _base_of(folders[0], configs[0])
    for folder, config in zip(folders[1:], configs[1:], strict=True):
        other = _base_of(folder, config)
        same = first[0] == other[0] if first[0] and other[0] else first[1] == other[1]
        if not same:
            raise ModelError(
                f"made for another base than {folders[0].name}: {other[1] or other[0]}, not {first[1] or first[0]}",
                where=str(folder / CONFIG),
                remedy="combine adapters of one base",
            )


def _base_of(folder: Path, config: Mapping[str, Any]) -> tuple[str, str]:
    return peft_format.stored_base(folder), str(config.get("base_model_name_or_path") or "")


def _write(
    pairs: Mapping[str, Pair],
    kernels: Mapping[str, tuple[int, ...]],
    head: Mapping[str, Tensor],
    configs: Sequence[Mapping[str, Any]],
    source: Path,
    target: Path,
) -> None:
    like = configs[0]
    tensors = {f"{PREFIX}{n}": t for n, t in head.items()}
    for name, pair in pairs.items():
        tensors |= stored_pair(name, pair.A, pair.B, kernels.get(name, ()))
    config = config_of({n: len(p.A) for n, p in pairs.items()}, {n: p.scale for n, p in pairs.items()})
    config |= {n: like.get(n) for n in ("base_model_name_or_path", "modules_to_save", "task_type")}
    config["fan_in_fan_out"] = any(bool(c.get("fan_in_fan_out")) for c in configs)
    by_weight = {p for c in configs for p in c.get("target_parameters") or ()}
    if by_weight:
        config["target_parameters"] = sorted(by_weight)
        config["target_modules"] = [n for n in config["target_modules"] if f"{n}.weight" not in by_weight]
    begun = target.with_name(f".{target.name}.begun")
    begun.mkdir(parents=True)
    base_hash = peft_format.stored_base(source)
    save_tensors(tensors, begun / WEIGHTS, metadata={"format": "pt", **({"base_hash": base_hash} if base_hash else {})})
    (begun / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    begun.rename(target)
