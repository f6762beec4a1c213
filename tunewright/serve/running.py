"""The verb `serve`: a base, its adapters, and the web server around them, until it is stopped."""

from __future__ import annotations

import importlib.util
import ipaddress
from collections.abc import Callable

from tunewright.errors import FolderError, MissingExtraError, RecipeError

NEEDED = ("starlette", "uvicorn", "python_multipart")


def need_extra() -> None:
    """MissingExtraError where the web server's libraries are not there."""
    if missing := [n for n in NEEDED if importlib.util.find_spec(n) is None]:
        raise MissingExtraError(
            f"serving needs {' and '.join(missing)}", where="serve", remedy='pip install "tunewright[serve]"'
        )


def check_host(host: str, api_key: str | None) -> None:
    """RecipeError where others than this machine could ask without a key."""
    if api_key is not None and len(api_key) < 8:
        raise RecipeError("a key has at least 8 characters", where="--api-key", remedy="write a longer one")
    if api_key is None and not is_loopback(host):
        raise RecipeError(
            f"others could reach '{host}', and anybody may ask who needs no key",
            where="--host",
            remedy="give it --api-key (or TUNEWRIGHT_API_KEY), or leave --host out",
        )


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def run(app: object, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM, the usual ends. `ready` is told the address. FolderError: a taken port."""
    from tunewright.serve.web import Web

    try:
        Web(app, host, port, ready).run()
    except KeyboardInterrupt:  # uvicorn has shut down, and hands the signal on
        return
    except SystemExit:
        raise FolderError(
            f"{host}:{port} cannot be served on", where="--port", remedy="take another port, or --port 0 for a free one"
        ) from None
