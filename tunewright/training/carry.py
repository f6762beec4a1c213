"""What a stage starts from, and what becomes of the deltas it starts with.

A finished stage is a folder `stages/<name>/` of present values (not differences: they go back bit for bit) and the
deltas' settings. Every start is read from files, so that an interrupted run and an uninterrupted one do the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunewright.contract.left import Earlier, Left, from_files, to_files
from tunewright.contract.method import Plan, Setup, begun
from tunewright.errors import CheckpointError, MethodError, ModelError
from tunewright.files import checkpoint
from tunewright.files.regular import regular
from tunewright.loading.locate import own_base
from tunewright.models import delta_format
from tunewright.models import deltas as forms
from tunewright.models.adapted import Adapted
from tunewright.models.nf4 import quantise_sites
from tunewright.models.peft_format import load_adapter
from tunewright.models.peft_prompts import read_before_rows
from tunewright.models.peft_settings import CONFIG
from tunewright.models.surgeries import replayed
from tunewright.recipe import yaml_text
from tunewright.training.divided import gathered
from tunewright.training.trained import Trained


def save_stage(folder: Path, adapted: Adapted, more: dict[str, Any], left: Sequence[Left] = ()) -> None:
    """Write a finished stage: everything that differs from the base, and what methods leave to later stages."""
    described = {
        site: {n: {"form": d.form, "settings": d.settings(), "strength": d.strength} for n, d in by_name.items()}
        for site, by_name in adapted.deltas().items()
    }
    by = adapted.wrapped_by
    quantised = {n: m.twice for n, m in adapted.quantised().items()}
    state = {
        "surgery": adapted.surgeries(),
        "quantised": quantised,
        "deltas": described,
        "base_hash": adapted.base_hash,
        "wrapper": {**by.method, "data": by.state.data} if by else None,
        **more,
    }
    tensors = {
        "trained": gathered(adapted, Trained(adapted, {}).changed()),
        "wrapper": dict(by.state.state_dict()) if by else {},
    }
    if left:
        state["left"], tensors["left"] = to_files(left)
    if by is not None:  # what its method leaves by name is written once
        both = named_in(tensors["wrapper"], by.method["name"], tensors.get("left", {}))
        tensors["wrapper"] = {n: t for n, t in tensors["wrapper"].items() if n not in both}
        state["wrapper"]["left"] = both
    checkpoint.write_folder(folder, state, tensors)


def named_in(held: Mapping[str, Any], method: str, left: Mapping[str, Any]) -> dict[str, str]:
    """Names of a state's tensors (`state_dict`) that its method left as well, with what they are called there."""
    found = {}
    for name in held:
        parts = name.replace("/", ".").split(".")
        for i in range(1, len(parts) + 1):
            key = "|".join([method, ".".join(parts[:i]), *([".".join(parts[i:])] if i < len(parts) else [])])
            if key in left and left[key].shape == held[name].shape:
                found[name] = key
    return found


def earlier_of(folders: Mapping[str, Path]) -> Earlier:
    """What the methods of finished stages left: stage -> its folder, in the order in which they ended."""
    found: list[Left] = []
    for name, folder in folders.items():
        if not (folder / checkpoint.MANIFEST).exists():
            continue
        saved = checkpoint.read(folder)
        found += from_files(name, saved.state.get("left", {}), saved.tensors.get("left", {}))
    return Earlier(tuple(found))


def load_stage(folder: Path, adapted: Adapted) -> dict[str, Any]:
    """Put a finished stage onto the untouched base. CheckpointError for another base or a damaged file."""
    saved = checkpoint.read(folder)
    if saved.state["base_hash"] != adapted.base_hash:
        raise CheckpointError(
            (
                f"this stage was trained on another base (weights {saved.state['base_hash'][:12]}, the model here has "
                f"{adapted.base_hash[:12]})"
            ),
            where=str(folder),
            remedy=f"write model: {own}, which its run began with"
            if (own := own_base(folder.parent)) is not None
            else "use the model that the stage's run names in its recipe.yaml",
        )
    for record in saved.state.get("surgery", ()):
        adapted.operate(replayed(record))
    for double in (False, True):
        sites = [adapted.structure.site(n) for n, kind in saved.state.get("quantised", {}).items() if kind is double]
        if quantise_sites(adapted.model, sites, double):
            adapted.rediscover()
    for site_name, by_name in saved.state["deltas"].items():
        site = adapted.structure.site(site_name)
        for name, d in by_name.items():
            delta = forms.form_class(d["form"]).rebuild(d["settings"], site)
            delta.strength = d["strength"]
            forms.attach(site, name, delta)
    Trained(adapted, {}).restore(saved.tensors["trained"])
    if saved.state.get("wrapper"):
        by = dict(saved.state["wrapper"])
        both = {n: saved.tensors["left"][key] for n, key in by.pop("left", {}).items()}
        _rewrap(adapted, by, {**saved.tensors["wrapper"], **both})
    return saved.state


def _rewrap(adapted: Adapted, by: dict[str, Any], tensors: dict[str, Any]) -> None:
    """Build the wrapper of a finished stage again: the method as it was named there, its state as it was left."""
    from tunewright.catalogue import load_method
    from tunewright.contract.combining import bind, restore_tensors
    from tunewright.training.setting_up import wrap

    plan = Plan(**by["plan"])
    methods = bind([(by["name"], load_method(by["name"])(**by["parameters"]))], 0, plan.stage)
    (bound,) = methods
    bound.state = begun(bound.method, Setup(adapted, plan, by["task"], bound.state.rng), bound.name)
    if missing := sorted(bound.state.state_dict().keys() - tensors.keys()):
        raise CheckpointError(
            f"the state of '{by['name']}' lacks {', '.join(missing)}",
            where=f"stages.{plan.stage}",
            remedy="run the stage again: its folder was changed or is of another version",
        )
    bound.state.place(adapted.device)
    restore_tensors(bound.state, tensors)  # a method may have kept more than its `setup` begins with
    bound.state.data = by["data"]
    bound.state.requires_grad_(False)
    wrap(adapted, methods, bound, plan, by["task"])
    adapted.outer.eval()  # a fresh module begins in training mode, and what is read back is read to be used


def load_any_adapter(adapted: Adapted, folder: Path) -> None:
    """Put a PEFT adapter onto a model: changes of layers, or what stands before rows, as its method ends with it."""
    before = read_before_rows(folder, adapted)
    if before is None:
        load_adapter(adapted, folder)
        return
    plan = asdict(Plan(0, 0, folder.name, 0, 0.0, 0))
    by = {"name": before.method, "parameters": before.parameters, "plan": plan, "task": before.task}
    _rewrap(adapted, by | {"data": before.data}, before.tensors)


def begin(adapted: Adapted, start: str, carry: str, run: Path, where: str) -> None:
    """Bring the model to a stage's start: "base", "stages.<name>", or the folder of a run, of a finished stage or of a
    PEFT adapter.
    """
    # Always from the base and from files, though the model may hold the earlier stage already: an interrupted run has
    # only the files, and both must begin with the same bits.
    adapted.forget_changes()
    if start == "base":
        return
    name, folder = (
        (start.removeprefix("stages."), run / "stages" / start.removeprefix("stages."))
        if start.startswith("stages.")
        else result_of(Path(start), where)
    )
    if (folder / delta_format.HOW).exists():
        delta_format.load_delta(adapted, folder)
    elif (folder / CONFIG).exists():
        load_any_adapter(adapted, folder)
    else:
        load_stage(folder, adapted)
    apply_carry(adapted, carry, name)


def apply_carry(adapted: Adapted, carry: str, name: str) -> None:
    """fold: into the weights. frozen: they stay and do not train. training: they go on training. drop: taken away.

    What wraps the model stays with `frozen`, until a stage of the same method wraps anew (`setting_up.wrap`); with
    `training` as well, where it leaves all that it trained by name.
    """
    if adapted.wrapped_by is not None and carry == "training" and not list(adapted.wrapped_by.state.parameters()):
        adapted.unwrap()  # it only runs what the deltas are: the method of the next stage wraps anew
    by = adapted.wrapped_by
    if by is not None and (carry == "fold" or (carry == "training" and not by.goes_on)):
        raise wrapped(by.method["name"], name, carry, "carry")
    for p in by.state.parameters() if by is not None else ():
        p.requires_grad_(False)  # what goes on with it wraps anew
    if carry == "drop":
        adapted.unwrap()
        adapted.unquantise()
    if carry == "fold":
        adapted.fold()
    if carry == "drop" or (carry == "fold" and not adapted.deltas()):
        for site in adapted.structure.every_site:
            forms.detach(site)
        return
    for site_name, by_name in adapted.deltas().items():
        site = adapted.structure.site(site_name)
        for old, delta in by_name.items():
            # a later stage may attach a delta of the same method: carried ones take their stage's name along
            forms.rename(site, old, f"{name}-{old}")
            for p in delta.parameters():
                forms.set_frozen(p, carry != "training")


def wrapped(method: str, stage: str, carry: str, where: str) -> MethodError:
    """What is said where a stage would fold or train what a method of an earlier one wraps the model in."""
    return MethodError(
        f"'{method}' of the stage '{stage}' wraps the model: it cannot be "
        f"{'folded' if carry == 'fold' else 'trained on'}",
        where=where,
        remedy="write carry: frozen (it stays as it is) or carry: drop",
    )


def seen_from(base: Path, name: str) -> Path:
    """A folder that a recipe names: from its own folder where there is one, else from where the program runs."""
    return base / name if (base / name).exists() else Path(name)


def result_of(run: Path, where: str) -> tuple[str, Path]:
    """A finished stage's or an adapter's folder, or what a run's own recipe says is its result: the last stage, or what
    the steps after it left. Times of files say nothing: a copy may have others.
    """
    if (run / checkpoint.MANIFEST).exists() or ((run / CONFIG).is_file() and not (run / "recipe.yaml").is_file()):
        return run.name, run
    asked = f"{where}: {run}"
    if not (run / "recipe.yaml").is_file() or not (run / "stages").is_dir():
        raise ModelError(
            "this is neither a run's folder nor a finished stage nor an adapter",
            where=asked,
            remedy="name a run's folder (runs/...), or give a plain model folder as `model:`",
        )
    file = run / "recipe.yaml"
    try:
        text = regular(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ModelError(f"the run's recipe cannot be read: {e}", where=str(file), remedy="put the file back") from e
    recipe: Any = yaml_text.read(text, str(file)).tree
    try:
        last, changed = str(recipe["stages"][-1]["name"]), bool(recipe.get("after"))
    except (TypeError, KeyError, IndexError):
        raise ModelError(
            "its recipe.yaml names no stages: a run did not write it",
            where=asked,
            remedy=f"name a finished stage: {run / 'stages'}/NAME",
        ) from None
    if not (run / "stages" / last / checkpoint.MANIFEST).exists() or changed and not (run / "report.json").exists():
        there = sorted(p.parent.name for p in (run / "stages").glob("*/" + checkpoint.MANIFEST))
        beside = f", or name a stage: {run / 'stages' / there[-1]}" if there else ""
        raise ModelError(
            f"this run is not finished: its recipe ends with {'steps after ' if changed else ''}the stage '{last}'",
            where=asked,
            remedy=f"finish it with `tunewright resume {run}`{beside}",
        )
    return last, run if changed and (run / delta_format.HOW).exists() else run / "stages" / last
