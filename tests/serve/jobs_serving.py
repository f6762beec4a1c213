"""A server of jobs alone, and a tiny base for them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from openai import OpenAI
from starlette.applications import Starlette

from tests import tiny
from tunewright.serve.app import _api_error
from tunewright.serve.errors import ApiError
from tunewright.serve.jobs.jobs import Jobs
from tunewright.serve.jobs.limits import JobLimits
from tunewright.serve.jobs.routes import routes


def base(folder: Path) -> Path:
    """A folder with a tiny causal model and its tokenizer."""
    tiny.llama().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def chats(count: int = 12) -> bytes:
    """Rows as OpenAI has them."""
    lines = []
    for i in range(count):
        turns = [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"it is {i}"}]
        lines.append(json.dumps({"messages": turns}))
    return ("\n".join(lines) + "\n").encode()


def preferences(count: int = 12) -> bytes:
    """Rows of two answers as OpenAI has them."""
    lines = []
    for i in range(count):
        asked = {"messages": [{"role": "user", "content": f"say {i}"}]}
        sides = [[{"role": "assistant", "content": text}] for text in (f"it is {i}", "no")]
        lines.append(json.dumps({"input": asked, "preferred_output": sides[0], "non_preferred_output": sides[1]}))
    return ("\n".join(lines) + "\n").encode()


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """The address of an application on a free port of this machine."""
    web = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=web.run, daemon=True)
    thread.start()
    while not web.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{web.servers[0].sockets[0].getsockname()[1]}"
    finally:
        web.should_exit = True
        thread.join(120)


@contextmanager
def served(folder: Path, model: Path | str = "nano", **how: Any) -> Iterator[tuple[Jobs, OpenAI]]:
    """(jobs, a client of them) of a real server; the base is called "tiny"."""
    limits = JobLimits(**how.pop("limits", {}))
    with Jobs(folder, {"tiny": str(model)}, limits=limits, **how) as jobs:
        app = Starlette(routes=routes(jobs), exception_handlers={ApiError: _api_error})
        with serving(app) as address:
            yield jobs, OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=300)


def uploaded(client: OpenAI, content: bytes, name: str = "rows.jsonl") -> str:
    return client.files.create(file=(name, content), purpose="fine-tune").id


def until(what: Callable[[], Any], seconds: float = 240.0) -> Any:
    """What becomes true, once it is."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if given := what():
            return given
        time.sleep(0.1)
    raise AssertionError("it never came")


def ended(client: OpenAI, job: str, among: Sequence[str] = ("succeeded", "failed", "cancelled")) -> Any:
    def look() -> Any:
        found = client.fine_tuning.jobs.retrieve(job)
        return found if found.status in among else None

    return until(look)
