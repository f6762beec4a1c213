"""Which tensors belong to which module and block of a model, by their names; configs for other numbers of blocks."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tunewright.errors import ModelError, RecipeError, did_you_mean

BLOCK = re.compile(r"^(?:(.*?)\.)?(\d+)\.")
FIRST = re.compile(r"embed|wte|wpe|\bshared\.|patch|position|class_token|cls_token|conv1|stem")
"""What stands before the first block; every other tensor outside blocks stands behind the last one."""
COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth")
_VISION, _PROJECTOR = (
    r"\b(vision|visual|image)\w*\b",
    r"\b(\w*projector|\w*projection|\w*merger\w*|connector|resampler)\b",
)
_SHARED = r"\bshared\b|^lm_head\b"
MODULES: Mapping[str, Callable[[str], bool]] = {
    "default": lambda name: True,
    "multi_modal_projector": lambda name: re.search(_PROJECTOR, name) is not None,
    "vision_tower": lambda name: re.search(_VISION, name) is not None and re.search(_PROJECTOR, name) is None,
    "text_decoder": lambda name: re.search(f"{_VISION}|{_PROJECTOR}", name) is None,
    "encoder": lambda name: re.search(r"\bencoder\b", name) is not None,
    "decoder": lambda name: re.search(rf"\bencoder\b|{_SHARED}", name) is None,
    "shared": lambda name: re.search(_SHARED, name) is not None,
}
"""mergekit's names of modules; every other name is the beginning of its tensors' names."""
ALSO = {"vision_model": "vision_tower", "visual": "vision_tower", "text_model": "text_decoder"}


def block_of(name: str) -> tuple[str, int] | None:
    """(the list of blocks, the block's index) of a tensor; None outside blocks."""
    match = BLOCK.match(name)
    return (match[1] or "", int(match[2])) if match else None


def in_module(names: Iterable[str], module: str, where: str) -> list[str]:
    """The tensors of a module. RecipeError where there is none."""
    belongs = MODULES.get(ALSO.get(module, module), lambda name: name.startswith(module))
    listed = list(names)
    if not (found := [n for n in listed if belongs(n)]):
        starts = sorted({n.rpartition(".")[0].split(".layers")[0] for n in listed})
        raise RecipeError(
            f"the model has no module '{module}'", where=where, remedy=did_you_mean(module, [*MODULES, *starts[:20]])
        )
    return found


def blocks(names: Iterable[str], config: Mapping[str, Any], where: str) -> tuple[str, int]:
    """(name, length) of the list of blocks that layers are counted in: the only one, or that of the config's length.

    RecipeError where there is none, or several of one length.
    """
    found: dict[str, int] = {}
    for n in names:
        if (block := block_of(n)) is not None:
            found[block[0]] = max(found.get(block[0], 0), block[1] + 1)
    stated = {c[k] for c in (config, *_parts(config)) for k in COUNTS if isinstance(c.get(k), int)}
    fitting = found if len(found) == 1 else {s: n for s, n in found.items() if n in stated}
    if len(fitting) != 1:
        what = f"blocks lie in {len(fitting)} lists: {', '.join(fitting)}" if fitting else "no blocks are found"
        raise RecipeError(
            f"it is not clear which layers are meant: {what}",
            where=where,
            remedy="name the module: modules: {text_decoder: {slices: [...]}, vision_tower: {models: [...]}}",
        )
    return next(iter(fitting.items()))


def _parts(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [v for v in config.values() if isinstance(v, Mapping)]


def with_layers(
    config: dict[str, Any], old: int, taken: Sequence[tuple[Mapping[str, Any], int, int]], module: str
) -> None:
    """Put the number of blocks into a config whose model had `old`: `taken` says of which config each run of blocks is.

    Lists with an entry a block (`layer_types`) are put together from the same runs.
    """
    total = sum(stop - start for _, start, stop in taken)
    path = _counted(config, old, module)
    if path is None:
        if total == old:
            return
        raise ModelError(
            f"config.json states no number of layers that is {old}, so that {total} cannot be put in its place",
            where=module,
            remedy="take as many layers as the model has",
        )
    place = config[path[0]] if len(path) == 2 else config
    kinds = [(c.get(path[0]) or {}) if len(path) == 2 else c for c, _, _ in taken]
    for key, value in list(place.items()):
        if isinstance(value, list) and len(value) == old and all(isinstance(k.get(key), list) for k in kinds):
            runs = (k[key][start:stop] for k, (_, start, stop) in zip(kinds, taken, strict=True))
            place[key] = copy.deepcopy([x for run in runs for x in run])
    place[path[-1]] = total


def _counted(config: Mapping[str, Any], old: int, module: str) -> tuple[str, ...] | None:
    """Where a config states a module's number of blocks."""
    kind = ALSO.get(module, module)
    sub = {"vision_tower": "vision_config", "text_decoder": "text_config"}.get(kind)
    own = {
        "encoder": ("encoder_layers", "num_hidden_layers", "num_layers"),
        "decoder": ("decoder_layers", "num_decoder_layers", *COUNTS),
    }.get(kind, COUNTS)
    for name in dict.fromkeys([sub, None, "text_config"]):
        place = config if name is None else config.get(name) if name else None
        for key in own:
            if isinstance(place, Mapping) and place.get(key) == old:
                return (key,) if name is None else (name, key)
    return None
