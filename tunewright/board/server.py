"""The server: loopback alone, GET and HEAD, pages that may load nothing but the board's own files.

A page of another site cannot read what is served here (no CORS); a name made to point here is refused by the
Host header. Reports come from folders of anyone: they are shown in a sandbox of their own, where no script runs but the
report's own, told by its hash.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes, urlsplit

from tunewright.board import library, runs, starting
from tunewright.board.index import Index, opened
from tunewright.board.shell import MAY_START, message
from tunewright.board.starting import Starter
from tunewright.errors import FolderError, RecipeError, TunewrightError
from tunewright.finished.folders import Held
from tunewright.report.page import policy
from tunewright.runs.folder import RECIPE

_LOG = logging.getLogger(__name__)
STATIC = {
    "report.css": ("tunewright.report", "templates/report.css"),
    "plots.css": ("tunewright.report", "templates/plots.css"),
    **{name: ("tunewright.board", f"static/{name}") for name in ("board.css", "board.js", "curves.js", "scatter.js")},
    **{name: ("tunewright.board", f"static/{name}") for name in ("uplot.js", "uplot.css", "uplot.LICENSE.txt")},
}
TYPES = {"css": "text/css", "js": "text/javascript", "txt": "text/plain"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
LONGEST_BODY = 16 << 10
"""Bytes of a request's body."""
WAIT = 10.0
"""Seconds that a client may take to say what it wants."""


def _sandbox() -> str:
    """The policy of a report: what reports may load at all, and nothing of the board's (its origin is none)."""
    return f"sandbox allow-scripts; {policy()}; frame-ancestors 'self'"


class Board(ThreadingHTTPServer):
    """The server over one folder. FolderError where there is none, RecipeError where the port is taken."""

    daemon_threads = True
    allow_reuse_address = os.name == "posix"  # on Windows another process could take the port, too

    def __init__(self, folder: Path, port: int = 0, *, allow_run: bool = False):
        if not folder.is_dir():
            raise FolderError(
                "there is no such folder",
                where=str(folder),
                remedy="name a folder of runs; `tunewright run quickstart` makes runs/ (the default)",
            )
        self.index = Index(folder)
        self.starter = Starter(self.index.root) if allow_run else None
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except OSError as error:
            raise RecipeError(
                f"port {port} cannot be had: {error.strerror}", where="--port", remedy="write --port 0 for a free one"
            ) from error
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}
        self.reading = self.index.begin()

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        return f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        _LOG.debug("a client went away", exc_info=True)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Board
    server_version, sys_version = "Tunewright", ""
    protocol_version = "HTTP/1.1"
    timeout = WAIT

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_HEAD(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self.close_connection = True
        self._answer(self._post)

    def _answer(self, how: Callable[[str, dict[str, str]], None]) -> None:
        MAY_START.set(self.server.starter is not None)
        if self.headers.get("Host", "") not in self.server.hosts:
            said = f"The board answers at {self.server.address} alone."
            return self._page(HTTPStatus.MISDIRECTED_REQUEST, message("Not here", said))
        try:
            parts = urlsplit(self.path)
            path = os.fsdecode(unquote_to_bytes(parts.path))
            query = dict(parse_qsl(parts.query, max_num_fields=20))
        except ValueError:
            return self._page(HTTPStatus.BAD_REQUEST, message("Not understood", "This is no address."))
        try:
            how(path, query)
        except TunewrightError as error:
            self._page(HTTPStatus.UNPROCESSABLE_ENTITY, message("It cannot be shown", str(error)))
        except (ConnectionError, TimeoutError):
            raise
        except FileNotFoundError:  # it went while the page was made
            self._missing()
        except Exception as error:
            _LOG.exception("the page %r failed", path)
            said = f"{type(error).__name__}: {error}. The other pages go on."
            self._page(HTTPStatus.INTERNAL_SERVER_ERROR, message("A defect of the board", said))

    def _get(self, path: str, query: dict[str, str]) -> None:
        pages: dict[str, Callable[[], str]] = {
            "/": lambda: runs.listed(self.server.index, query),
            "/compare": lambda: runs.scattered(self.server.index),
            "/papers": lambda: library.papers(query),
            "/methods": lambda: library.methods(query),
            "/benchmarks": library.benchmarks,
        }
        if path in ("/", "/compare", "/data/points"):
            self.server.index.refresh()
        if path in pages:
            return self._page(HTTPStatus.OK, pages[path]())
        if path == "/data/points":
            return self._json(runs.points(self.server.index))
        if path == "/start" and self.server.starter is not None:
            return self._page(HTTPStatus.OK, starting.page(self.server.starter))
        if path == "/data/started" and self.server.starter is not None:
            return self._json(self.server.starter.told())
        kind, _, name = path[1:].partition("/")
        if kind == "data":
            deeper, _, name = name.partition("/")
            kind = f"data/{deeper}"
        answer = {
            "static": self._static,
            "run": self._run,
            "report": self._report,
            "comparison": self._comparison,
            "papers": lambda name: self._found(library.paper(name)),
            "methods": lambda name: self._found(library.method(name)),
            "data/metrics": lambda name: self._growth(name, query.get("since", "")),
            "data/recipe": lambda name: self._file(name, RECIPE, "text/plain; charset=utf-8"),
            "data/report": lambda name: self._file(name, "report.json", "application/json"),
        }.get(kind)
        return answer(name) if answer is not None and name else self._missing()

    def _post(self, path: str, query: dict[str, str]) -> None:
        starter = self.server.starter
        if path != "/start" or starter is None:
            headers = {"Allow": "GET, HEAD"}
            said = "The board only reads. Started with --allow-run, it starts runs, too."
            return self._page(HTTPStatus.METHOD_NOT_ALLOWED, message("Not allowed", said), headers)
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LONGEST_BODY:
            return self._json({"error": "the request is too long, or does not say its length"}, HTTPStatus(413))
        body = self.rfile.read(int(length))
        status, told = starter.asked(
            body,
            token=self.headers.get("X-Tunewright-Token", ""),
            kind=self.headers.get("Content-Type", ""),
            origin=self.headers.get("Origin", ""),
            origins={f"http://{host}" for host in self.server.hosts},
        )
        self._json(told, HTTPStatus(status))

    def _static(self, name: str) -> None:
        if name not in STATIC:
            return self._missing()
        package, file = STATIC[name]
        data = resources.files(package).joinpath(file).read_bytes()
        kind = TYPES[name.rsplit(".", 1)[1]]
        self._send(HTTPStatus.OK, data, f"{kind}; charset=utf-8", {"Cache-Control": "no-cache"})

    def _held(self, name: str) -> tuple[Held, Path] | None:
        self.server.index.refresh()
        run, folder = self.server.index.runs().get(name), self.server.index.folder(name)
        return None if run is None or folder is None else (run, folder)

    def _run(self, name: str) -> None:
        found = self._held(name)
        self._found(None if found is None else runs.one(self.server.index, name, *found))

    def _growth(self, name: str, since: str) -> None:
        found = self._held(name)
        if found is None:
            return self._json({"error": "there is no such run"}, HTTPStatus.NOT_FOUND)
        run, folder = found
        self._json(runs.growth(self.server.index, folder, since, run.state))

    def _report(self, name: str) -> None:
        self.server.index.refresh()
        self._framed("report", name, self.server.index.folder(name), "report.html")

    def _comparison(self, name: str) -> None:
        self.server.index.refresh()
        file = self.server.index.comparisons().get(name)
        self._framed("comparison", name, None if file is None else file.parent, "compare.html")

    def _framed(self, kind: str, name: str, folder: Path | None, file: str) -> None:
        """A page that a folder has, in a frame of ours: it can lead the browser nowhere else, whoever wrote it."""
        path = opened(self.server.index.root, folder, file) if folder is not None else None
        if path is None:
            return self._missing()
        if self.headers.get("Sec-Fetch-Dest", "") == "document":
            return self._page(HTTPStatus.OK, runs.framed(kind, name))
        more = {"Content-Security-Policy": _sandbox(), "X-Frame-Options": "SAMEORIGIN"}
        self._send(HTTPStatus.OK, path.read_bytes(), "text/html; charset=utf-8", more)

    def _file(self, name: str, file: str, kind: str) -> None:
        """A file of a run that the index knows; no other path is ever opened."""
        self.server.index.refresh()
        folder = self.server.index.folder(name)
        path = opened(self.server.index.root, folder, file) if folder is not None else None
        if path is None:
            return self._missing()
        self._send(HTTPStatus.OK, path.read_bytes(), kind, {})

    def _found(self, page: str | None) -> None:
        self._missing() if page is None else self._page(HTTPStatus.OK, page)

    def _missing(self) -> None:
        said = "Nothing has this address. A run may have been moved or removed."
        self._page(HTTPStatus.NOT_FOUND, message("Not found", said))

    def _json(self, value: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(status, json.dumps(value, allow_nan=False).encode(), "application/json", {})

    def _page(self, status: HTTPStatus, text: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, text.encode("utf-8", "replace"), "text/html; charset=utf-8", headers or {})

    def _send(self, status: HTTPStatus, data: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        told = {"Content-Type": kind, "Content-Length": str(len(data)), "Content-Security-Policy": POLICY}
        for name, value in {**HEADERS, **told, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses: methods that are not GET or HEAD, and what is no HTTP."""
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        self.close_connection = True
        if not hasattr(self, "command") or self.command is None:
            self.command = ""
        self._send(status, f"{status.phrase}\n".encode(), "text/plain", {"Allow": "GET, HEAD", "Connection": "close"})

    def log_message(self, format: str, *args: Any) -> None:
        _LOG.debug(format, *args)
