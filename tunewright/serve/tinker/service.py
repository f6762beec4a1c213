"""Sessions, changes that train, and what they left, for clients of Tinker's protocol.

Every verb answers at once with the number of a request; a thread does them in the order in which they came, and the
client asks for the result. A request that is sent again, with the same number of its model, is the one before.
"""

from __future__ import annotations

import logging
import queue
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunewright.errors import TunewrightError
from tunewright.files.checkpoint import write_text
from tunewright.models.deltas import LowRank
from tunewright.serve import errors
from tunewright.serve.adapters import Variant
from tunewright.serve.errors import ApiError
from tunewright.serve.requests import Request
from tunewright.serve.sampling import Sampling
from tunewright.serve.server import Server
from tunewright.serve.tinker import asked, learner, wire
from tunewright.serve.tinker.coserving import CoServing
from tunewright.serve.tinker.learner import Change, Datum, Learner, Shape

log = logging.getLogger(__name__)
MOST_SESSIONS, MOST_MODELS, MOST_SAMPLERS, MOST_RESULTS, MOST_WAITING = 1000, 64, 64, 4096, 1024
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
MODEL = r"[0-9a-f]{24}:train:[0-9]{1,9}"
PATH = re.compile(rf"tinker://({MODEL})/(weights|sampler_weights)/({NAME})")
Answer = dict[str, Any] | bytes


@dataclass
class Model:
    """A change that one client trains. `done`: the numbers of its requests -> theirs here."""

    id: str
    change: Change
    done: OrderedDict[tuple[str, int], str] = field(default_factory=OrderedDict)


@dataclass
class Sampler:
    """What a client samples from: an adapter of the server (none: the base), and its deltas."""

    variant: Variant | None
    deltas: dict[str, LowRank]
    path: str | None = None


class Tinker:
    """The protocol's verbs over a server; weights are kept below `folder`. A context: verbs are done inside."""

    def __init__(self, server: Server, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.server, self.folder = server, folder.resolve()
        self.learner = Learner(server.engine.model.model)
        self.coserving = CoServing(server.engine)
        self._vocabulary = server.prompts.vocabulary
        self._sessions: OrderedDict[str, None] = OrderedDict()
        self._models: dict[str, Model] = {}
        self._samplers: OrderedDict[str, Sampler] = OrderedDict()
        self._results: OrderedDict[str, Future[Answer]] = OrderedDict()
        self._work: queue.Queue[tuple[Future[Answer], Callable[[], Answer]] | None] = queue.Queue(MOST_WAITING)
        self._lock, self._stopping = threading.RLock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="tunewright-tinker", daemon=True)

    def __enter__(self) -> Tinker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End with the request that is being done; those that wait get an error."""
        self._stopping.set()
        while True:
            try:
                self._work.put(None, timeout=0.1)
                break
            except queue.Full:
                continue
        self._thread.join()

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            future, do = item
            if self._stopping.is_set():
                future.set_exception(ApiError(503, "The server is shutting down."))
                continue
            try:
                future.set_result(do())
            except Exception as error:
                future.set_exception(error)

    # -- requests and their results ---------------------------------------------------------------------------------

    def _later(self, do: Callable[[], Answer], model: Model | None = None, key: tuple[str, int] | None = None) -> str:
        """The number of a request that will be done; of one that came before, its own."""
        with self._lock:
            if model is not None and key is not None and key in model.done:
                return model.done[key]
            given, future = self._new()
            try:
                self._work.put_nowait((future, do))
            except queue.Full:
                del self._results[given]
                raise ApiError(429, f"{MOST_WAITING} requests wait already.", code="queue_full") from None
            if model is not None and key is not None:
                model.done[key] = given
                while len(model.done) > MOST_RESULTS:
                    model.done.popitem(last=False)
            return given

    def _new(self) -> tuple[str, Future[Answer]]:
        given, future = f"req-{secrets.token_hex(12)}", Future[Answer]()
        self._results[given] = future
        while len(self._results) > MOST_RESULTS:
            self._results.popitem(last=False)
        return given, future

    def result(self, given: str) -> Future[Answer]:
        """What becomes of a request. ApiError (404) for one that is not known, or was forgotten."""
        with self._lock:
            if given not in self._results:
                raise ApiError(404, f"There is no request '{given[:100]}'.", param="request_id")
            return self._results[given]

    # -- sessions and models ----------------------------------------------------------------------------------------

    def session(self) -> str:
        """A new session; of very many the oldest is forgotten."""
        given = secrets.token_hex(12)
        with self._lock:
            self._sessions[given] = None
            while len(self._sessions) > MOST_SESSIONS:
                self._sessions.popitem(last=False)
        return given

    def alive(self, session: str) -> None:
        """ApiError (410) for a session that is over."""
        if session not in self._sessions:
            raise ApiError(410, "This session is over.", param="session_id")

    def finish(self, session: str) -> None:
        """Let a session's models go; what they saved stays."""
        with self._lock:
            self._sessions.pop(session, None)
            for name in [m for m in self._models if m.startswith(f"{session}:")]:
                del self._models[name]

    def create(self, given: asked.CreateModel) -> str:
        """Begin a change. ApiError where the base is another, or too many train."""
        self.alive(given.session_id)
        if given.base_model != self.server.name:
            raise ApiError(
                404, f"'{given.base_model[:100]}' is not served here: {self.server.name}.", param="base_model"
            )
        if given.optimizer_config.get("type") != "adamw":
            raise ApiError(400, "adamw alone is served as an optimizer.", param="optimizer_config")
        lora = given.lora_config
        shape = Shape(lora.rank, lora.train_mlp, lora.train_attn, lora.train_unembed)
        name = f"{given.session_id}:train:{given.model_seq_id}"
        seed = lora.seed if lora.seed is not None else secrets.randbits(31)

        def do() -> Answer:
            self._keep(name, lambda: self.learner.begin(shape, seed))
            return {"model_id": name, "type": "create_model"}

        return self._later(do)

    def _keep(self, name: str, make: Callable[[], Change]) -> Model:
        with self._lock:
            if name not in self._models:
                if len(self._models) >= MOST_MODELS:
                    raise ApiError(429, f"{MOST_MODELS} models train already. Unload one, or close a session.")
                self._models[name] = Model(name, make())
            return self._models[name]

    def model(self, given: str) -> Model:
        """ApiError (404) where no such model trains."""
        model = self._models.get(given)
        if model is None:
            raise ApiError(404, f"There is no model '{given[:100]}'.", param="model_id")
        return model

    def unload(self, given: asked.OfModel) -> str:
        model = self.model(given.model_id)

        def do() -> Answer:
            with self._lock:
                self._models.pop(model.id, None)
            return {"model_id": model.id, "type": "unload_model"}

        return self._later(do)

    # -- training ---------------------------------------------------------------------------------------------------

    def forward_backward(self, body: bytes) -> str:
        """Add gradients, or give log-probabilities alone (`forward_only`)."""
        message = wire.forward_backward(body)
        model = self.model(message.model_id)
        data = wire.data_of(message, self._vocabulary, self.server.limits.max_length)
        config = {k: v.number for k, v in message.loss_fn_config_v2.items()} or dict(message.loss_fn_config)

        def do() -> Answer:
            change = model.change
            if message.forward_only:
                read = self.learner.log_probs(change.deltas, data)
            else:
                read = self.learner.learn(change, data, message.loss_fn, config, self.coserving.run)
            losses = [learner.loss_of(message.loss_fn, x, d.given, config) for x, d in zip(read, data, strict=True)]
            return wire.learnt(read, {"loss:sum": float(sum(float(x) for x in losses))})

        return self._later(do, model, ("forward_backward", message.seq_id))

    def optim_step(self, given: asked.OptimStep) -> str:
        model, params = self.model(given.model_id), given.adam_params
        do: Callable[[], Answer] = lambda: {"metrics": self.learner.step(model.change, params)}  # noqa: E731
        return self._later(do, model, None if given.seq_id is None else ("optim_step", given.seq_id))

    # -- weights ----------------------------------------------------------------------------------------------------

    def _place(self, path: str) -> tuple[Path, str]:
        """(folder, kind) of what a path names. ApiError where it is none that the server gives."""
        match = PATH.fullmatch(path)
        if match is None:
            raise ApiError(400, "A path is tinker://MODEL/weights/NAME, as save_weights gave it.", param="path")
        model, kind, name = match.groups()
        return self.folder / model.replace(":", "-") / kind / name, kind

    def save(self, given: asked.SaveWeights, kind: str) -> str:
        """Write weights, those to be gone on with with their optimizer; a sampler's may be kept in memory alone."""
        model = self.model(given.model_id)
        name = given.path
        if name is not None and not re.fullmatch(NAME, name):
            raise ApiError(400, "A name has letters, digits and . _ - alone, up to 100.", param="path")

        def do() -> Answer:
            if name is None and kind == "sampler_weights":
                return {"sampling_session_id": self._sampler(model.change.copied()), "type": "save_weights_for_sampler"}
            path = f"tinker://{model.id}/{kind}/{name or f'step-{model.change.steps}'}"
            folder, _ = self._place(path)
            replace = given.overwrite or name is None or kind == "sampler_weights"
            if folder.exists() and not replace:
                raise ApiError(
                    400, f"Weights are saved as '{name}' already: give another name, or overwrite.", param="path"
                )
            learner.save(model.change, folder, moments=kind == "weights", replace=replace)
            write_text(folder.parent.parent / "base", self.server.name)
            return {"path": path, "type": "save_weights" if kind == "weights" else "save_weights_for_sampler"}

        return self._later(do, model, None if given.seq_id is None else (kind, given.seq_id))

    def load(self, given: asked.LoadWeights) -> str:
        """Give a model saved weights, or begin one with them."""
        folder, _ = self._place(given.path)
        if given.model_id is not None:
            name = self.model(given.model_id).id
        elif given.session_id is not None and given.model_seq_id is not None:
            self.alive(given.session_id)
            name = f"{given.session_id}:train:{given.model_seq_id}"
        else:
            raise ApiError(400, "A model, or a session for a new one, is named.", param="model_id")

        def do() -> Answer:
            shape = learner.shape_of(folder)
            model = self._keep(name, lambda: self.learner.begin(shape, 0))
            learner.restore(model.change, folder, moments=given.optimizer)
            return {"path": given.path, "model_id": name, "type": "load_weights"}

        return self._later(do)

    # -- sampling ---------------------------------------------------------------------------------------------------

    def sampler(self, given: str) -> Sampler:
        """ApiError (404) where there is no such sampler, or it was let go for newer ones."""
        sampler = self._samplers.get(given)
        if sampler is None:
            raise ApiError(404, f"There is no sampler '{given[:100]}'.", param="sampling_session_id")
        return sampler

    def _sampler(self, deltas: dict[str, LowRank], path: str | None = None) -> str:
        name = f"sampler-{secrets.token_hex(12)}"
        self.server.library.add(name, deltas)
        with self._lock:
            self._samplers[name] = Sampler(self.server.library.find(name), deltas, path)
            while len(self._samplers) > MOST_SAMPLERS:
                oldest, sampler = self._samplers.popitem(last=False)
                if sampler.variant is not None:
                    self.server.library.unload(oldest)
        return name

    def sampling_session(self, given: asked.SamplingSession) -> str:
        """A session over the base, or over saved weights."""
        self.alive(given.session_id)
        return self._open(given.model_path, given.base_model)

    def _open(self, path: str | None, base: str | None) -> str:
        if path is None:
            if base != self.server.name:
                raise ApiError(404, f"'{str(base)[:100]}' is not served here: {self.server.name}.", param="base_model")
            if "base" not in self._samplers:
                self._samplers["base"] = Sampler(None, {})
            return "base"
        folder, _ = self._place(path)
        try:
            change = self.learner.begin(learner.shape_of(folder), 0)
            learner.restore(change, folder, moments=False)
        except TunewrightError as error:
            raise errors.of(error, param="model_path") from None
        return self._sampler(change.copied(), path)

    def sample(self, given: asked.Sample) -> str:
        """Write answers, by the engine that serves; what it wrote becomes the request's result."""
        if given.topk_prompt_logprobs or given.topk_sample_logprobs or given.prompt_alt_tokens_k:
            raise ApiError(400, "Log-probabilities are given of the tokens themselves alone.")
        if given.sampling_params.top_k > 0:
            raise ApiError(400, "top_k is not served; top_p is.", param="sampling_params")
        if any(c.type != "encoded_text" for c in given.prompt.chunks):
            raise ApiError(400, "Text alone is read.", param="prompt")
        name = given.sampling_session_id or self._open(given.model_path, given.base_model)
        sampler = self.sampler(name)
        tokens = [t for c in given.prompt.chunks for t in c.tokens]
        wire.check_tokens(tokens, "prompt", self._vocabulary, self.server.limits.max_length - 1)
        handle = self.server.engine.submit(self._request(given, tokens, sampler))
        with self._lock:
            number, future = self._new()

        def finish() -> None:
            try:
                results = handle.result()
                shares = self._of_prompt(sampler, tokens) if given.prompt_logprobs else None
                future.set_result(wire.sampled(results, shares, handle.cached))
            except Exception as error:
                future.set_exception(error)

        threading.Thread(target=finish, daemon=True).start()
        return number

    def _request(self, given: asked.Sample, tokens: list[int], sampler: Sampler) -> Request:
        params, stop = given.sampling_params, given.sampling_params.stop
        texts = (stop,) if isinstance(stop, str) else tuple(s for s in stop or () if isinstance(s, str))
        ends = self.server.ends if stop is None or texts else frozenset(t for t in stop if isinstance(t, int))
        room = self.server.limits.max_length - len(tokens)
        sampling = Sampling(
            min(params.max_tokens or room, room),
            params.temperature,
            params.top_p,
            params.seed,
            texts,
            ends,
            0,
        )
        return Request(tokens, sampling, sampler.variant, given.num_samples, True, self.server.limits.seconds)

    def _of_prompt(self, sampler: Sampler, tokens: list[int]) -> list[float]:
        """log p of each token of a prompt; nan of the first."""
        import torch

        if len(tokens) < 2:
            return [float("nan")]
        datum = Datum(tokens[:-1], torch.tensor(tokens[1:]), {})
        future = Future[Answer]()
        said: list[float] = []

        def do() -> Answer:
            said.extend(self.learner.log_probs(sampler.deltas, [datum])[0].tolist())
            return {}

        self._work.put((future, do))
        future.result()
        return [float("nan"), *said]
