"""As much of the Hub's API as huggingface_hub needs to create a model and push to it, on this machine, with faults."""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LFS_SUFFIXES = (".safetensors", ".bin", ".png", ".pt")


@dataclass
class Fault:
    """What happens to the next `times` requests whose path contains `path`: a status, or None to hang up half-way."""

    path: str
    status: int | None
    times: int = 10**9


@dataclass
class LoopbackHub:
    """A server on a free port. `files` is what the repositories hold by the newest commit of each path."""

    faults: list[Fault] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    repositories: set[str] = field(default_factory=set)
    commits: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)

    def __enter__(self) -> "LoopbackHub":
        hub, self._objects = self, {}

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def fault_of(self, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.path in path and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/api/repos/create":
            name = json.loads(body)["name"]
            repository = f"{json.loads(body).get('organization') or 'me'}/{name}"
            self.repositories.add(repository)
            return 200, {"url": f"{self.url}/{repository}", "name": repository, "id": repository}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = {each["path"]: "lfs" if each["path"].endswith(LFS_SUFFIXES) else "regular" for each in files}
            answer = [{"path": file, "uploadMode": mode, "shouldIgnore": False} for file, mode in modes.items()]
            return 200, {"files": answer}
        if path.endswith("/info/lfs/objects/batch"):
            objects = [self._upload(each["oid"], each["size"]) for each in json.loads(body)["objects"]]
            return 200, {"transfer": "basic", "objects": objects}
        if method == "PUT" and (match := re.fullmatch(r"/lfs/(\w+)", path)):
            if hashlib.sha256(body).hexdigest() != match.group(1):
                return 400, {"error": "this is not what was announced"}
            self._objects[match.group(1)] = body
            return 200, {}
        if "/commit/" in path:
            for line in body.decode().splitlines():
                self._apply(json.loads(line))
            oid = f"{len(self.commits):040d}"
            return 200, {"success": True, "commitOid": oid, "commitUrl": f"{self.url}/x/y/commit/{oid}"}
        return 404, {"error": f"{method} {path} is not played here"}

    def _upload(self, oid: str, size: int) -> dict[str, Any]:
        entry: dict[str, Any] = {"oid": oid, "size": size}
        if oid not in self._objects:  # as on the Hub, what is there need not come again
            entry["actions"] = {"upload": {"href": f"{self.url}/lfs/{oid}"}}
        return entry

    def _apply(self, operation: dict[str, Any]) -> None:
        kind, value = operation["key"], operation["value"]
        if kind == "header":
            self.commits.append(value["summary"])
        elif kind == "file":
            self.files[value["path"]] = base64.b64decode(value["content"])
        elif kind == "lfsFile":
            self.files[value["path"]] = self._objects[value["oid"]]
        else:
            raise AssertionError(f"operation {kind} is not played here")


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        hub = self.hub
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.requests.append(f"{self.command} {self.path}")
        if self.path.startswith("/api/"):
            hub.tokens.add(self.headers.get("Authorization"))
        fault = hub.fault_of(self.path)
        if fault and fault.status is None:
            self.close_connection = True
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"half of an ans")
            return
        status, answer = (fault.status, {"error": "no"}) if fault else hub.answer(self.command, self.path, body)
        content = json.dumps(answer).encode()
        self.send_response(status or 500)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def log_message(self, *_: Any) -> None:
        """Quiet."""
