"""`--engine vllm`: the same requests, written by vLLM where that is installed.

What is asked is read and checked by our own `Server` as far as that needs no model (prompts, limits, names), and then
handed over: sampling becomes `vllm.SamplingParams`, an adapter a `vllm.lora.request.LoRARequest`. What vLLM would
answer otherwise than we promise is refused by name. Its own server speaks the same API (`vllm serve`); this one has our
names of runs and adapters, limits and errors.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, ClassVar

from tunewright.errors import MethodError, MissingExtraError, ModelError
from tunewright.finished.servability import adapter_reasons
from tunewright.models import peft_format
from tunewright.serve.errors import ApiError
from tunewright.serve.limits import Limits
from tunewright.serve.requests import Handle, Piece, Request
from tunewright.serve.sampling import Said, Sampling

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM takes for max_lora_rank."""


def need_vllm() -> None:
    """MissingExtraError where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise MissingExtraError(
            "vLLM is not installed", where="--engine vllm", remedy="pip install vllm, or leave --engine out"
        )


def arguments(model: str, root: Path | None, limits: Limits, dtype: str) -> dict[str, Any]:
    """What vLLM's engine is started with. MethodError names an adapter below `root` that it cannot serve."""
    given: dict[str, Any] = {
        "model": model,
        "dtype": dtype,
        "max_model_len": limits.max_length,
        "max_num_seqs": limits.max_batch,
        "enable_prefix_caching": limits.prefix_bytes > 0,
        "trust_remote_code": False,
    }
    ranks = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir()) if root is not None else ():
        config = _config(folder)
        if config is not None:
            ranks.append(max([config["r"], *(config.get("rank_pattern") or {}).values()]))
    if ranks:
        fits = [r for r in RANKS if r >= max(ranks)]
        if not fits:
            raise MethodError(
                f"vLLM serves ranks up to {RANKS[-1]}, and an adapter has {max(ranks)}", where="--adapters"
            )
        given |= {"enable_lora": True, "max_lora_rank": fits[0], "max_loras": min(len(ranks), limits.max_batch)}
    return given


def refuse_adapter(folder: Path, strength: float) -> Path:
    """Where vLLM reads an adapter from. ApiError (400) says why it cannot serve this one as it is."""
    config = _config(folder)
    why = ""
    if config is None:
        why = "vLLM serves PEFT adapters alone"
    elif strength != 1.0:
        why = "vLLM serves adapters at full strength alone"
    elif reasons := adapter_reasons(config, ranks_count=False):
        why = f"vLLM cannot serve it: {reasons[0]}"
    if why:
        raise ApiError(400, f"The adapter '{folder.name}' is not served by this engine: {why}.", param="model")
    return folder / "adapter" if (folder / "adapter").is_dir() else folder


def _config(folder: Path) -> dict[str, Any] | None:
    for place in (folder / "adapter", folder):
        if (place / peft_format.CONFIG).is_file():
            try:
                found: dict[str, Any] = json.loads((place / peft_format.CONFIG).read_text(encoding="utf-8"))
            except ValueError as error:
                raise ModelError(f"not readable as JSON: {error}", where=str(place / peft_format.CONFIG)) from None
            return found
    return None


def sampling_params(request: Request) -> dict[str, Any]:
    """The arguments of `vllm.SamplingParams` for a request."""
    s: Sampling = request.sampling
    given: dict[str, Any] = {
        "n": request.n,
        "max_tokens": s.max_tokens,
        "temperature": s.temperature,
        "top_p": s.top_p,
        "presence_penalty": s.presence_penalty,
        "frequency_penalty": s.frequency_penalty,
        "stop": list(s.stop),
        "stop_token_ids": sorted(s.ends),
        "skip_special_tokens": not request.special,
        "logprobs": s.logprobs,
    }
    given |= {"seed": s.seed} if s.seed is not None else {}
    return given | ({"logit_bias": dict(s.logit_bias)} if s.logit_bias else {})


class VllmEngine:
    """Takes requests as `Engine` does, and has vLLM's own asynchronous engine write them.

    `given`: as `arguments` has it; `folder_of(name)` gives the folder of an adapter.
    """

    full_strength: ClassVar[bool] = True  # it dials no adapter

    def __init__(self, given: dict[str, Any], folder_of: Callable[[str], Path]):
        need_vllm()
        from vllm import AsyncEngineArgs, AsyncLLMEngine

        self._engine = AsyncLLMEngine.from_engine_args(AsyncEngineArgs(**given))
        self._folder_of, self._count = folder_of, 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tunewright-vllm", daemon=True)

    def start(self) -> VllmEngine:
        self._thread.start()
        return self

    def stop(self) -> None:
        if not self._thread.is_alive():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        if hasattr(self._engine, "shutdown"):
            self._engine.shutdown()

    @property
    def load(self) -> dict[str, int]:
        """vLLM counts its own."""
        return {}

    def submit(self, request: Request) -> Handle:
        """Hand a request over. ApiError for what vLLM cannot serve as we would."""
        if request.guide is not None:
            raise ApiError(400, "response_format is not served by this engine.", param="response_format")
        lora = None if request.variant is None else self._lora(request.variant)
        handle = Handle(request)
        self._count += 1
        asyncio.run_coroutine_threadsafe(self._write(handle, lora, f"tunewright-{self._count}"), self._loop)
        return handle

    def _lora(self, variant: Any) -> Any:
        from vllm.lora.request import LoRARequest

        folder = refuse_adapter(self._folder_of(variant.adapter.name), variant.strength)
        return LoRARequest(variant.adapter.name, variant.adapter.number, str(folder))

    async def _write(self, handle: Handle, lora: Any, name: str) -> None:
        from vllm import SamplingParams

        request = handle.request
        try:
            params = SamplingParams(**sampling_params(request))
            stream: AsyncIterator[Any] = self._engine.generate(
                {"prompt_token_ids": list(request.prompt)}, params, name, lora_request=lora
            )
            told = [(0, 0)] * request.n
            async for output in stream:
                if handle.cancelled.is_set():
                    await self._engine.abort(name)
                    break
                for one in output.outputs:
                    told[one.index] = _tell(handle, one, told[one.index])
            handle.fail(ApiError(503, "The engine ended before the answer did."))
        except Exception as error:
            handle.fail(ApiError(500, f"vLLM failed on this request ({type(error).__name__})."))


def _tell(handle: Handle, one: Any, told: tuple[int, int]) -> tuple[int, int]:
    """Push what is new of an answer; (characters, tokens) that are told by now."""
    text, tokens = one.text[told[0] :], list(one.token_ids)[told[1] :]
    if not text and not tokens and one.finish_reason is None:
        return told
    said = [Said(t) for t in tokens]
    if handle.request.sampling.logprobs is not None and one.logprobs is not None:
        said = [_said(t, at) for t, at in zip(tokens, one.logprobs[told[1] :], strict=True)]
    reason = "length" if one.finish_reason == "length" else "stop" if one.finish_reason is not None else None
    handle.push(Piece(one.index, text, tuple(said), reason))  # type: ignore[arg-type]
    return len(one.text), len(one.token_ids)


def _said(token: int, at: Any) -> Said:
    best = sorted(((t, p.logprob) for t, p in at.items() if t != token or p.rank == 1), key=lambda x: -x[1])
    return Said(token, at[token].logprob, tuple(best))
