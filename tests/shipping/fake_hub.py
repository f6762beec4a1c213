"""A hub on loopback: the endpoints that a push speaks to, with what was sent kept in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "t" * 34


class FakeHub:
    """`files` by path, of what was committed; `repos`: name -> private; `calls`: (method, path). `refuse`: a
    status that every call gets."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.repos: dict[str, bool] = {}
        self.calls: list[tuple[str, str]] = []
        self.refuse: int | None = None
        self.objects: dict[str, bytes] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                pass

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Transfer-Encoding") == "chunked":
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                hub.calls.append((self.command, self.path))
                allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}" or self.command == "PUT"
                status, said = (
                    (hub.refuse, {"error": "no"}) if hub.refuse else hub.answer(self.command, self.path, body)
                )
                if not allowed:
                    status, said = 401, {"error": "Invalid credentials"}
                data = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_HEAD = _answer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            if name in self.repos:
                return 409, {"error": "exists", "url": f"{self.url}/{name}"}
            self.repos[name] = bool(asked.get("private") or asked.get("visibility") == "private")
            return 200, {"url": f"{self.url}/{name}"}
        if path == "/api/validate-yaml":
            return 200, {"warnings": [], "errors": []}
        if path.startswith("/put/"):
            self.objects[path.removeprefix("/put/")] = body
            return 200, {}
        if match := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            objects = [
                {**o, "actions": {"upload": {"href": f"{self.url}/put/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        if "/preupload/" in path:
            files = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith((".safetensors", ".gguf")) else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for f in json.loads(body)["files"]
            ]
            return 200, {"files": files}
        if match := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    sent = self.objects[value["oid"]]
                    assert hashlib.sha256(sent).hexdigest() == value["oid"]
                    self.files[value["path"]] = sent
            commit = "c" * 40
            return 200, {"commitUrl": f"{self.url}/{match[1]}/commit/{commit}", "commitOid": commit, "hookOutput": ""}
        if match := re.fullmatch(r"/api/models/([^/]+/[^/?]+)(\?.*)?", path):
            if match[1] not in self.repos:
                return 404, {"error": "Repository not found"}
            return 200, {
                "id": match[1],
                "modelId": match[1],
                "private": self.repos[match[1]],
                "tags": [],
                "siblings": [],
            }
        return 404, {"error": f"no {method} {path}"}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
