"""A small OpenAI-compatible server on loopback: what it says, and how it fails, is decided by the test."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Said = tuple[int, dict[str, str], Any]
"""Status, headers, and the body: JSON values, bytes, or an iterator of bytes, as they are sent."""
Answer = Callable[[str, dict[str, Any], dict[str, str]], Said]
"""(path, the request's body, its headers) -> what is said. It may sleep, or raise to break the connection."""


class Server:
    """The address of a server, and every request that it was sent: (path, body, headers)."""

    def __init__(self, url: str):
        self.url = url
        self.requests: list[tuple[str, dict[str, Any], dict[str, str]]] = []


def says(text: str | None, *, reason: str = "stop", **message: Any) -> Said:
    """An ordinary answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": reason}
    usage = {"prompt_tokens": 7, "completion_tokens": len((text or "").split())}
    return 200, {}, {"choices": [choice], "usage": usage}


def went_on(text: str) -> Said:
    """An answer to a text that is gone on with."""
    return (
        200,
        {},
        {"choices": [{"index": 0, "text": text, "finish_reason": "stop"}], "usage": {"completion_tokens": 2}},
    )


@contextmanager
def serving(answer: Answer) -> Iterator[Server]:
    """Within, a server answers on a free port of this machine."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = (self.path, body, dict(self.headers))
            with lock:
                server.requests.append(asked)
            try:
                status, headers, said = answer(*asked)
            except ConnectionError:
                self.close_connection = True
                self.connection.close()
                return
            data = said if isinstance(said, bytes | Iterator) else json.dumps(said).encode()
            length = {"Content-Length": str(len(data))} if isinstance(data, bytes) else {}
            try:
                self.send_response(status)
                for name, value in {**length, **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                for part in [data] if isinstance(data, bytes) else data:
                    self.wfile.write(part)
                    self.wfile.flush()
            except OSError:  # the client did not wait
                return

        def log_message(self, *given: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    server = Server(f"http://127.0.0.1:{httpd.server_address[1]}/v1")
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
