"""uvicorn as we start it: it says when it serves, and tells who waits before it closes connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.concurrency import run_in_threadpool

GRACE = 5
"""Seconds that connections have to be read to their end once the server is stopped."""


class Web(uvicorn.Server):
    """Serves an application of `build`. `ready` is told the address."""

    def __init__(self, app: Any, host: str, port: int, ready: Callable[[str], None] = lambda address: None):
        self._app, self._host, self._ready = app, host, ready
        config = uvicorn.Config(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=GRACE)
        super().__init__(config)

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            at = self.servers[0].sockets[0].getsockname()[1]
            self._ready(f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{at}")

    async def shutdown(self, sockets: Any = None) -> None:
        # before connections are waited for: a stream would else be cut without a word
        await run_in_threadpool(self._app.state.server.stop)
        await super().shutdown(sockets)
