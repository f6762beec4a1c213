"""Models of transformers that forecast: what each reads of a window, and what its outputs say of the values to come.

- PatchTST and PatchTSMixer (`...ForPrediction`): all channels of a window at once, what is missing by a mask; a value
  each, or a distribution (`config.loss: nll`). Their own scaler acts on each window.
- TimesFM (`AutoModelForTimeSeriesPrediction`): one channel; a mean and deciles.

Time Series Transformer, Informer and Autoformer are refused: they read features of time, and a config says how many of
them there were and not which.

Shapes: R rows, C steps of context, P steps to come, K channels, Q quantiles, D size of the states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import NegativeBinomial, Normal, StudentT

from tunewright.errors import ModelError

QUANTILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""The quantiles that forecasts are judged at, as the benchmarks of GluonTS and Chronos have them."""
_MASKS = {"patchtst": "past_observed_mask", "patchtsmixer": "observed_mask"}
"""Type of a model -> what it calls the mask of known values."""
_CLASSES = {"patchtst": "PatchTSTForPrediction", "patchtsmixer": "PatchTSMixerForPrediction"}
"""Types of models that transformers' automatic class does not list -> their own class."""
_TIMESFM = "timesfm"
TYPES = (*_CLASSES, _TIMESFM)
"""Types of forecasters that are read here."""
_TIMED = ("time_series_transformer", "informer", "autoformer")


@dataclass(frozen=True)
class Said:
    """What a model says of windows: `forecast` [R, P, K]; the `parameters` of a distribution of each value, in units of
    the window's `loc` and `scale` [R, 1, K], by its `kind`; or `quantiles` [R, P, K, Q].
    """

    forecast: Tensor
    states: Tensor | None = None
    hidden: tuple[Tensor, ...] | None = None
    kind: str = ""
    parameters: tuple[Tensor, ...] = ()
    loc: Tensor | None = None
    scale: Tensor | None = None
    quantiles: Tensor | None = None


def class_of(config: Any, otherwise: str) -> str:
    """The class of transformers that loads a forecaster of a config."""
    return _CLASSES.get(config.model_type, otherwise)


def refuse(config: Any, where: str) -> None:
    """ModelError for a forecaster that is not read here, with the reason."""
    kind = config.model_type
    if kind in _TIMED:
        raise ModelError(
            f"a {kind} model reads {config.num_time_features} features of time beside the values, and its config does "
            "not say which they were",
            where=where,
            remedy="take a PatchTST, PatchTSMixer or TimesFM model, which read values alone",
        )
    if kind == "patchtst" and not config.share_projection and config.num_input_channels > 1:
        raise ModelError(
            "PatchTST with a head for each channel (share_projection: false) fails in transformers' own forward",
            where=where,
            remedy="take a model with share_projection: true",
        )


def sizes(config: Any) -> dict[str, Any]:
    """Of a model: steps of `context` and `prediction`, its channels (`inputs`), which of them it forecasts (`outputs`;
    none: all), and whether it gives `quantiles`.
    """
    if config.model_type == _TIMESFM:
        return {
            "context": int(config.context_length),
            "prediction": int(config.horizon_length),
            "inputs": 1,
            "outputs": None,
        }
    chosen = getattr(config, "prediction_channel_indices", None)
    return {
        "context": int(config.context_length),
        "prediction": int(config.prediction_length),
        "inputs": int(config.num_input_channels),
        "outputs": [int(k) for k in chosen] if chosen is not None else None,
    }


def gives_quantiles(config: Any) -> bool:
    """Whether a model says more of a value than one number."""
    return config.model_type == _TIMESFM or getattr(config, "loss", "mse") == "nll"


def read(model: nn.Module, inputs: Mapping[str, Tensor], *, hidden: bool = False) -> Said:
    """Run a forecaster over windows: `past_values` and `past_observed_mask` [R, C, K]."""
    config: Any = model.config
    more: dict[str, Any] = {"output_hidden_states": True} if hidden else {}
    if config.model_type == _TIMESFM:
        return _timesfm(model, inputs["past_values"], more)
    states: list[Tensor] = []
    head: Any = model.head
    hook = head.register_forward_pre_hook(lambda module, args: states.append(args[0]))
    try:
        given = {"past_values": inputs["past_values"], _MASKS[config.model_type]: inputs["past_observed_mask"]}
        out = model(**given, **more)
    finally:
        hook.remove()
    layers = tuple(_flat(layer) for layer in out.hidden_states) if hidden else None
    said = out.prediction_outputs
    if isinstance(said, Tensor):
        return Said(said.float(), _flat(states[-1]), layers, loc=out.loc.float(), scale=out.scale.float())
    kind = str(config.distribution_output)
    parameters, loc, scale = tuple(p.float() for p in said), out.loc.float(), out.scale.float()
    if kind == "negative_binomial" and config.model_type == "patchtsmixer":
        scale = torch.ones_like(scale)  # its forward has put the scale into the logits in place
    return Said(_middle(kind, parameters, loc, scale), _flat(states[-1]), layers, kind, parameters, loc, scale)


def walks(config: Any, sizes: Mapping[str, Any], draw: torch.Generator) -> dict[str, Tensor]:
    """Two windows of walks at random, as the model's own forward takes them."""
    shape = (2, int(sizes["context"]), int(sizes["inputs"]))
    values = torch.randn(shape, generator=draw).cumsum(1)
    return {"past_values": values[..., 0] if config.model_type == _TIMESFM else values}


def _timesfm(model: nn.Module, past: Tensor, more: dict[str, Any]) -> Said:
    out = model(past_values=past[..., 0], **more)
    full = out.full_predictions.float()
    return Said(
        out.mean_predictions.float()[..., None],
        out.last_hidden_state,
        tuple(out.hidden_states) if more else None,
        quantiles=full[..., None, 1:],
    )


def _flat(states: Tensor) -> Tensor:
    """[R, K, N, D] of patches as [R, K N, D]."""
    return states.flatten(1, 2) if states.dim() == 4 else states


def _middle(kind: str, parameters: tuple[Tensor, ...], loc: Tensor, scale: Tensor) -> Tensor:
    """[R, P, K] the middle of a distribution: with a gradient where it has one place, else its mean."""
    if kind == "negative_binomial":
        count, logits = parameters
        return count * torch.exp(logits) * scale
    return parameters[-2] * scale + loc


def surprise(said: Said, future: Tensor) -> Tensor:
    """[R, P, K] negative log-density of values under their distributions, in nats."""
    assert said.loc is not None and said.scale is not None
    if said.kind == "negative_binomial":
        count, logits = said.parameters
        kept = NegativeBinomial(count, logits=logits + said.scale.log(), validate_args=False)
        return -kept.log_prob(future)
    made: Any = StudentT if said.kind == "student_t" else Normal
    scaled = (future - said.loc) / said.scale
    return said.scale.log() - made(*said.parameters, validate_args=False).log_prob(scaled)


def quantiles_of(said: Said) -> Tensor | None:
    """[R, P, K, Q] the quantiles of each value, exactly; None of a model that gives one number."""
    if said.quantiles is not None:
        return said.quantiles
    if not said.kind:
        return None
    from scipy import stats

    levels = QUANTILES
    assert said.loc is not None and said.scale is not None
    loc, scale = (x.detach().double().cpu().numpy()[..., None] for x in (said.loc, said.scale))
    given = [p.detach().double().cpu().numpy()[..., None] for p in said.parameters]
    if said.kind == "negative_binomial":
        count, logits = said.parameters
        fails = torch.sigmoid(-(logits + said.scale.log())).detach().double().cpu().numpy()[..., None]
        found = stats.nbinom.ppf(levels, given[0], fails)
    elif said.kind == "student_t":
        found = loc + scale * stats.t.ppf(levels, given[0], given[1], given[2])
    else:
        found = loc + scale * stats.norm.ppf(levels, given[0], given[1])
    return torch.from_numpy(found)
