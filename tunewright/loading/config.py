"""A folder's config.json as transformers reads it, for a model that serves the task, without what would choose code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.errors import MethodError, ModelError, nearest
from tunewright.loading import pipelines
from tunewright.loading.guard import said, without_chosen_code
from tunewright.loading.locate import Located, read_config
from tunewright.loading.positions import scale
from tunewright.loading.quantised import refuse_quantised
from tunewright.loading.quiet import quiet
from tunewright.tasks import _detectors, _embedded
from tunewright.tasks._forecasters import refuse
from tunewright.tasks._parts import DETECTION, FEATURES, FORECASTING, PLAYING

if TYPE_CHECKING:
    from tunewright.contract.task import Task


def config_for(located: Located, task: Task) -> Any:
    """The folder's config, of a model type that serves the task. ModelError otherwise."""
    import transformers

    folder = located.folder
    if task.draws or pipelines.is_pipeline(folder):
        return pipelines.config_of(located, task)
    written = read_config(folder)
    stored = refuse_quantised(written, folder)
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as e:  # its validators raise classes of their own
        kind = written.get("model_type")
        if "auto_map" in written:
            raise ModelError(
                f"this model ('{kind}') needs code that comes with it, and such code is never run here",
                where=str(folder),
                remedy="use a model whose class transformers has",
            ) from e
        known = [str(k) for k in transformers.CONFIG_MAPPING]
        if kind in known:
            raise ModelError(
                f"this is no config of a {kind} model: {said(e)}",
                where=str(folder / "config.json"),
                remedy="put the value right, or download the model again",
            ) from e
        near = ", ".join(nearest(str(kind), known)) if kind else ""
        raise ModelError(
            f"transformers {transformers.__version__} does not know the model type '{kind}'",
            where=str(folder / "config.json"),
            remedy=(f"near: {near}; " if near else "")
            + "a newer transformers may know it: pip install -U transformers",
        ) from e
    if task.is_a(FORECASTING):
        refuse(config, str(folder))
    if task.is_a(DETECTION):
        _detectors.refuse(config, str(folder / "config.json"))
    _serves(config, task, folder)
    if task.is_a(FEATURES) and (note := _embedded.whole_pictures(config)):
        located.notes.append(note)
    if located.rope is not None:
        located.notes.append(scale(config, located.rope, folder))
    if stored is not None:
        config.quantization_config = {**written["quantization_config"], "dequantize": True}
        located.notes.append(f"the weights are stored as {stored}, and were made whole as they were read")
    if chosen := without_chosen_code(config):
        located.notes.append(f"config.json's {', '.join(chosen)} is left out: a model's file does not choose code")
    if getattr(config, "apply_spec_augment", False):
        config.apply_spec_augment = False  # it draws from numpy's global generator, which no resumed run could repeat
        located.notes.append("SpecAugment is off: its draws could not be repeated (apply_spec_augment)")
    if getattr(config, "rescale_every", 0):
        config.rescale_every = 0  # RWKV would divide its own weights when it is first evaluated, and multiply them back
    return config


def drawn(cls: Any, config: Any, dtype: Any) -> Any:
    """The freshly drawn model of a config, of one of transformers' automatic classes or of a model's own class."""
    if hasattr(cls, "from_config"):
        return cls.from_config(config, dtype=dtype, trust_remote_code=False)
    return cls._from_config(config, dtype=dtype)


def _serves(config: Any, task: Task, folder: Path) -> None:
    import transformers

    from tunewright.tasks import get_task, names

    def usable(name: str) -> Task | None:
        """A task that the model may do; none where another package's cannot be had."""
        try:
            other = get_task(name)
        except MethodError:
            return None
        return other if hasattr(getattr(transformers, other.auto_class, None), "_model_mapping") else None

    def has(auto_class: str) -> bool:
        cls = getattr(transformers, auto_class)
        return (
            type(config) in cls._model_mapping if hasattr(cls, "_model_mapping") else type(config) is cls.config_class
        )

    if not hasattr(getattr(transformers, task.auto_class, None), "_model_mapping"):
        raise MethodError(
            f"the task {task.name} loads its models by '{task.auto_class}', which transformers does not have",
            where=type(task).__module__,
            remedy="write auto_class = the name of a class of transformers such as AutoModelForTokenClassification",
        )
    # an encoder's causal class exists for use as a decoder; without the causal mask it would see what it predicts
    encoder = has("AutoModelForMaskedLM") and not getattr(config, "is_decoder", False)
    seen = _embedded.sees_alone(config)
    able = seen if task.is_a(FEATURES) else has(task.loads_by(config))
    if able and not (task.auto_class == "AutoModelForCausalLM" and encoder):
        return
    # what can be a reward model is a classifier of texts: it is named once
    doing = {n: t for n in names() if (t := usable(n)) is not None and (not t.scores or task.scores)}
    reads = has("AutoModelForMaskedLM")
    doing = {n: t for n, t in doing.items() if _makes_vectors(t, encoder_of_texts=reads, sees=seen)}
    does = [n for n, t in doing.items() if has(t.loads_by(config)) and not (n == "text-generation" and encoder)]
    raise ModelError(
        f"a {config.model_type} model does not do {task.name}",
        where=str(folder),
        remedy=("it does: " + ", ".join(does)) if does else "use a causal or masked language model, or a classifier",
    )


def _makes_vectors(task: Task, *, encoder_of_texts: bool, sees: bool) -> bool:
    """Whether a model may do a task as far as vectors go: those of texts, or those of pictures."""
    if task.auto_class != "AutoModel" or task.is_a(PLAYING):
        return True
    return sees if task.is_a(FEATURES) else encoder_of_texts
