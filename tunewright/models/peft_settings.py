"""What adapter_config.json says, and which of it can be followed: plain low-rank parts, their ranks and scales.

PEFT's file holds every setting that some variant of LoRA ever had. Those that say nothing about what the tensors mean
are passed over, those that are followed are checked, and any other must be off: a setting that is on and not named here
may change the maths, also where it comes from a version of PEFT that is not written yet.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunewright.errors import ModelError
from tunewright.files.regular import regular

CONFIG = "adapter_config.json"
DESCRIBES = frozenset(
    "auto_mapping base_model_name_or_path corda_config eva_config exclude_modules inference_mode layers_pattern "
    "loftq_config lora_ga_config megatron_core peft_type peft_version qalora_group_size revision runtime_config "
    "task_type velora_config".split()
)
"""Settings about where an adapter comes from, how it was started or how it is trained on: they change no product.

What `loftq`, `corda` and `lora_ga` did to the base is told by init_lora_weights."""
FOLLOWED = frozenset(
    "alpha_pattern bias fan_in_fan_out init_lora_weights layers_to_transform lora_alpha lora_dropout modules_to_save r "
    "rank_pattern target_modules target_parameters use_rslora".split()
)
"""Settings that are followed, or whose values are checked here. `fan_in_fan_out` is taken from each layer's kind."""
STARTS = (True, False, "true", "false", "gaussian", "orthogonal", "eva")
"""Values of init_lora_weights that leave the base's weights as they are."""
MERGE = "convert it to plain LoRA, or merge it with PEFT and load the merged model"


def open_config(folder: Path) -> dict[str, Any]:
    """An adapter's settings as they are written. ModelError for what is no JSON object."""
    where = str(folder / CONFIG)
    try:
        config: Any = json.loads(regular(folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"there is no {CONFIG}", where=str(folder), remedy="name the folder of a PEFT adapter"
        ) from None
    except (OSError, ValueError) as e:
        raise ModelError(f"not readable as JSON: {e}", where=where, remedy="save or download the adapter again") from e
    if not isinstance(config, dict):
        raise ModelError("not a JSON object", where=where, remedy="save or download the adapter again")
    return config


def read_config(folder: Path) -> dict[str, Any]:
    """An adapter's settings. ModelError for what is more than low-rank parts, or no LoRA."""
    where, config = str(folder / CONFIG), open_config(folder)
    if config.get("peft_type") != "LORA":
        raise ModelError(
            f"the adapter's type is {config.get('peft_type')}; low-rank parts, LORA, are needed here",
            where=where,
            remedy="merge it with PEFT and load the merged model",
        )
    refuse_more(config, where, FOLLOWED, "low-rank parts")
    check_values(config, where)
    return config


def refuse_more(config: Mapping[str, Any], where: str, followed: frozenset[str], what: str) -> None:
    """ModelError for settings by which the change is another one than `what` its tensors are read as."""
    on = {n: v for n, v in config.items() if n not in DESCRIBES | followed and v not in (None, False, {}, [], "")}
    start = config.get("init_lora_weights", True)
    if start is not None and (start.lower() if isinstance(start, str) else start) not in STARTS:
        on["init_lora_weights"] = start
    if config.get("bias", "none") not in ("none", None):
        on["bias"] = config["bias"]
    if on:
        said = ", ".join(f"{n}: {json.dumps(v)}"[:80] for n, v in on.items())
        raise ModelError(f"the adapter is more than {what} ({said})", where=where, remedy=MERGE)


def check_values(config: dict[str, Any], where: str) -> None:
    """ModelError for values that PEFT would not take either."""

    def number(v: Any) -> bool:
        return isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)

    def rank(v: Any) -> bool:
        return isinstance(v, int) and not isinstance(v, bool) and v > 0

    def patterns(v: Any, of: Any) -> bool:
        return v is None or (isinstance(v, dict) and all(of(x) and _compiles(k) for k, x in v.items()))

    config.setdefault("r", 8)
    check_names(config, where)
    wanted = {
        "r": rank(config["r"]),
        "lora_alpha": number(config.get("lora_alpha", 8)),
        "lora_dropout": (d := config.get("lora_dropout")) is None or (number(d) and 0 <= d < 1),
        "rank_pattern": patterns(config.get("rank_pattern"), rank),
        "alpha_pattern": patterns(config.get("alpha_pattern"), number),
    }
    refuse_wrong(config, wanted, where)


def check_names(config: dict[str, Any], where: str) -> None:
    """ModelError for what names no modules. Target modules that are left out are set to none."""

    def names(v: Any) -> bool:
        return isinstance(v, list) and all(isinstance(x, str) for x in v)

    config.setdefault("target_modules", None)
    wanted = {
        "target_modules": (t := config["target_modules"]) is None
        or names(t)
        or (isinstance(t, str) and (t == "all-linear" or _compiles(t))),
        "modules_to_save": (m := config.get("modules_to_save")) is None or names(m),
        "target_parameters": (p := config.get("target_parameters")) is None or names(p),
    }
    refuse_wrong(config, wanted, where)


def refuse_wrong(config: Mapping[str, Any], wanted: Mapping[str, bool], where: str) -> None:
    """ModelError for the first setting whose value is none."""
    if wrong := [n for n, fine in wanted.items() if not fine]:
        n = wrong[0]
        raise ModelError(
            f"{n}: {json.dumps(config.get(n))[:80]} is no value of this setting",
            where=where,
            remedy="save or download the adapter again",
        )


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def scale_of(config: Mapping[str, Any], name: str, rank: int) -> float:
    """s of a module's change s B A of that rank."""
    alpha = by_pattern(config.get("alpha_pattern") or {}, name, config.get("lora_alpha", 8))
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def by_pattern(patterns: Mapping[str, Any], name: str, default: Any) -> Any:
    """PEFT's rule: the first key that, as a regular expression, is the name or an ending of it after a dot."""
    return next((v for key, v in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), default)


def targeted(config: Mapping[str, Any], name: str) -> bool:
    """Whether the settings name a module as one that has low-rank parts."""
    targets = config["target_modules"]
    if isinstance(targets, str):
        return targets != "all-linear" and re.fullmatch(targets, name) is not None
    return any(name == t or name.endswith("." + t) for t in targets or ())


def config_of(ranks: Mapping[str, int], scales: Mapping[str, float]) -> dict[str, Any]:
    """PEFT's fields; the commonest rank and alpha stand for all, patterns name the rest by full module name."""
    alphas: dict[str, int | float] = {s: _whole(scales[s] * r) for s, r in ranks.items()}
    rank, alpha = Counter(ranks.values()).most_common(1)[0][0], Counter(alphas.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {s: r for s, r in ranks.items() if r != rank},
        "alpha_pattern": {s: a for s, a in alphas.items() if a != alpha},
        "target_modules": sorted(ranks),
        "use_rslora": False,
        "use_dora": False,
        "lora_dropout": 0.0,
        "bias": "none",
        "modules_to_save": None,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _whole(x: float) -> int | float:
    return round(x) if abs(x - round(x)) < 1e-9 else x
