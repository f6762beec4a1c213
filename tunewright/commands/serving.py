"""The verb serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tunewright.commands.options import JsonOption, examples

GIB = 1 << 30


@examples(
    "tunewright serve smollm2-135m-instruct --adapters runs",
    "tunewright serve smollm2-135m-instruct --adapters runs --port 8000 --max-batch 64",
    "tunewright serve smollm2-135m-instruct --jobs jobs",
    "tunewright serve smollm2-135m-instruct --host 0.0.0.0 --api-key a-long-secret",
)
def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a built-in, a hub id, a folder, a run")],
    adapters: Annotated[
        Path | None, typer.Option(metavar="DIR", help="runs and adapters in it are models by name")
    ] = None,
    name: Annotated[str | None, typer.Option(help="what the base is called (default: as MODEL ends)")] = None,
    host: Annotated[str, typer.Option(help="others than this machine's own need --api-key")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one")] = 8000,
    api_key: Annotated[
        str | None, typer.Option(envvar="TUNEWRIGHT_API_KEY", help="clients send it as a bearer token")
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, max=1024, help="answers written at the same time")] = 32,
    max_length: Annotated[int, typer.Option(min=8, help="tokens of a prompt and its answer")] = 4096,
    cache_tokens: Annotated[int, typer.Option(min=64, help="tokens that all rows may hold")] = 65536,
    adapter_memory: Annotated[float, typer.Option(min=0.0, help="GiB of adapters in memory")] = 1.0,
    queue: Annotated[int, typer.Option(min=1, help="requests that may wait")] = 256,
    timeout: Annotated[float, typer.Option(min=1.0, help="seconds that a request may take")] = 600.0,
    task: Annotated[
        Literal["text-generation", "sentence-similarity"], typer.Option(help="what MODEL does (default: a run's own)")
    ] = "text-generation",
    engine: Annotated[Literal["own", "vllm"], typer.Option(help="what writes: our own, or vLLM")] = "own",
    jobs: Annotated[
        Path | None, typer.Option(metavar="DIR", help="take fine-tuning jobs, and keep files and jobs there")
    ] = None,
    jobs_at_once: Annotated[int, typer.Option(min=1, help="jobs that train at the same time")] = 1,
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="where the model computes")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Serve a base and many adapters by OpenAI's API, on this machine."""
    import json

    from tunewright.serve import running

    running.check_host(host, api_key)
    running.need_extra()

    from tunewright.models.precision import choose_precision
    from tunewright.serve.app import build
    from tunewright.serve.limits import Limits
    from tunewright.serve.opening import open_server, place_for

    place = place_for(device)
    limits = Limits(
        max_length=max_length,
        max_batch=max_batch,
        cache_tokens=cache_tokens,
        queue=queue,
        adapter_bytes=int(adapter_memory * GIB),
        active_bytes=int(adapter_memory * GIB),
        seconds=timeout,
    )
    if jobs is not None and adapters is None:
        adapters = jobs / "models"
        adapters.mkdir(parents=True, exist_ok=True)
    server = open_server(
        model, adapters, limits, name=name, task=task, engine=engine, device=place, precision=choose_precision(place)
    )

    def ready(address: str) -> None:
        found = len(server.library.names())
        if as_json:
            print(json.dumps({"address": f"{address}/v1", "model": server.name, "adapters": found}), flush=True)
        else:
            beside = f" and {found} adapter{'s' * (found != 1)}" if adapters is not None else ""
            print(f"{server.name}{beside} at {address}/v1 (Ctrl-C ends)", flush=True)

    more: dict[str, Any] = {}
    if jobs is not None:
        from tunewright.serve.jobs.mounting import mounted

        more = mounted(jobs, server, model, adapters, jobs_at_once)
    running.run(build(server, api_key=api_key, **more), host, port, ready)
