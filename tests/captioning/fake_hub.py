"""A small Hugging Face hub on a local port: one dataset repository, without large-file storage."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

REPOSITORY = "me/captions"


class FakeHub(ThreadingHTTPServer):
    """Holds the files of REPOSITORY.

    Attributes:
        files: Content by path.
        commits: Paths of each commit; deleted ones begin with `-`.
        moves_on: Whether somebody else commits between every check and commit.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.commits: list[list[str]] = []
        self.moves_on = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def head(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()


@contextmanager
def run_hub() -> Iterator[FakeHub]:
    """Run a hub until the block ends."""
    hub = FakeHub()
    thread = Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith(f"/datasets/{REPOSITORY}/resolve/"):
            return self._send_file(path.split("/", 6)[6])
        if path.startswith(f"/api/datasets/{REPOSITORY}"):
            rest = path.removeprefix(f"/api/datasets/{REPOSITORY}")
            if rest.startswith("/tree/"):
                return self._send_tree(rest.removeprefix("/tree/").partition("/")[2])
            return self._send({"id": REPOSITORY, "sha": self.server.head, "private": False})
        return self._send({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        if path == "/api/validate-yaml":
            return self._send({"errors": [], "warnings": []})
        if not self.headers.get("Authorization"):
            return self._send({"error": "Invalid credentials"}, 401)
        verb = path.removeprefix(f"/api/datasets/{REPOSITORY}/").partition("/")[0]
        if verb == "paths-info":
            paths = self._read_paths(body)
            return self._send([self._entry(p) for p in paths if p in self.server.files])
        if verb == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return self._send({"files": files})
        if verb == "commit":
            return self._commit([json.loads(line) for line in body.splitlines()])
        return self._send({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def _read_paths(self, body: bytes) -> list[str]:
        if self.headers["Content-Type"].startswith("application/json"):
            return json.loads(body)["paths"]
        return parse_qs(body.decode())["paths"]

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        parent = lines[0]["value"].get("parentCommit")
        if self.server.moves_on:
            self.server.files["theirs.txt"] = b"theirs"
        if parent and parent != self.server.head:
            return self._send({"error": "A commit has happened since. Please refresh."}, 412)
        changed = []
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                self.server.files[value["path"]] = base64.b64decode(value["content"])
                changed.append(value["path"])
            else:
                del self.server.files[value["path"]]
                changed.append(f"-{value['path']}")
        self.server.commits.append(changed)
        url = f"{self.server.address}/datasets/{REPOSITORY}/commit/{self.server.head}"
        return self._send({"success": True, "commitOid": self.server.head, "commitUrl": url})

    def _send_tree(self, folder: str) -> None:
        start = f"{folder}/" if folder else ""
        below = [path for path in self.server.files if path.startswith(start)]
        if folder and not below:
            return self._send({"error": "no entry"}, 404, {"X-Error-Code": "EntryNotFound"})
        folders = {start + p.removeprefix(start).split("/")[0] for p in below} - set(below)
        entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": f} for f in folders]
        is_deep = "recursive=true" in urlsplit(self.path).query.lower()
        direct = [path for path in below if is_deep or "/" not in path.removeprefix(start)]
        return self._send([*entries, *map(self._entry, direct)])

    def _entry(self, path: str) -> dict[str, Any]:
        data = self.server.files[path]
        entry: dict[str, Any] = {"type": "file", "oid": "0" * 40, "size": len(data), "path": path}
        if path.endswith(".parquet"):  # as the hub does with files in large-file storage
            oid = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"oid": oid, "size": len(data), "pointerSize": 130}
        return entry

    def _send_file(self, path: str) -> None:
        data = self.server.files.get(path)
        if data is None:
            return self._send({"error": "no entry"}, 404, {"X-Error-Code": "EntryNotFound"})
        etag = f'"{hashlib.sha1(data).hexdigest()}"'
        headers = {"ETag": etag, "X-Repo-Commit": self.server.head, "Accept-Ranges": "bytes"}
        wanted = self.headers.get("Range")
        status = 200
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            end = min(int(last or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{end}/{len(data)}"
            data, status = data[int(first) : end + 1], 206
        return self._send(data, status, headers)

    def _send(self, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        for name, value in {"Content-Type": kind, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
