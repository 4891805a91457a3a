"""The files and batches of a teacher: every line of a batch is answered after a while."""

import json
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

Answer = Callable[[dict[str, Any]], tuple[int, dict[str, Any]] | None]
"""Status and body of the answer to a line's request; None if the line expires."""


class BatchServer:
    """OpenAI's Files and Batches, as far as batches of chat completions need them."""

    def __init__(self, answer: Answer, takes_s: float, note: Callable[..., None]) -> None:
        """Args:
        takes_s: Seconds until a batch has ended.
        note: Called with each event.
        """
        self._answer, self._takes_s, self._note = answer, takes_s, note
        self._files: dict[str, bytes] = {}
        self._batches: dict[str, dict[str, Any]] = {}

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/v1/files", self.upload)
        app.router.add_get("/v1/files/{id}/content", self.download)
        app.router.add_post("/v1/batches", self.create)
        app.router.add_get("/v1/batches", self.list_all)
        app.router.add_get("/v1/batches/{id}", self.retrieve)

    async def upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        name, file = f"file-{len(self._files)}", form["file"]
        assert isinstance(file, web.FileField)
        assert form["purpose"] == "batch"
        self._files[name] = file.file.read()
        about = {"id": name, "object": "file", "bytes": len(self._files[name]), "created_at": 0}
        return web.json_response(
            about | {"filename": file.filename, "purpose": "batch", "status": "processed"}
        )

    async def download(self, request: web.Request) -> web.Response:
        return web.Response(body=self._files[request.match_info["id"]])

    async def create(self, request: web.Request) -> web.Response:
        asked = await request.json()
        name = f"batch-{len(self._batches)}"
        lines = self._files[asked["input_file_id"]].splitlines()
        self._note(at=time.monotonic(), event="batch", picture=str(len(lines)), key="")
        self._batches[name] = {
            "id": name,
            "object": "batch",
            "endpoint": asked["endpoint"],
            "input_file_id": asked["input_file_id"],
            "completion_window": asked["completion_window"],
            "metadata": asked["metadata"],
            "created_at": time.time(),
            "status": "in_progress",
        }
        return web.json_response(self._batches[name])

    async def list_all(self, request: web.Request) -> web.Response:
        found = list(reversed(self._batches.values()))
        return web.json_response({"object": "list", "data": found, "has_more": False})

    async def retrieve(self, request: web.Request) -> web.Response:
        batch = self._batches[request.match_info["id"]]
        if batch["status"] == "in_progress" and time.time() > batch["created_at"] + self._takes_s:
            self._end(batch)
        return web.json_response(batch)

    def _end(self, batch: dict[str, Any]) -> None:
        good, bad = list[str](), list[str]()
        for line in self._files[batch["input_file_id"]].splitlines():
            asked = json.loads(line)
            found = self._answer(asked["body"])
            about: dict[str, Any] = {"custom_id": asked["custom_id"], "response": None}
            if found is None:
                about["error"] = {"code": "batch_expired", "message": "too late"}
            else:
                about["response"] = {"status_code": found[0], "body": found[1]}
            is_good = found is not None and found[0] == 200
            (good if is_good else bad).append(json.dumps(about))
        for kind, lines in (("output_file_id", good), ("error_file_id", bad)):
            if lines:
                batch[kind] = f"{batch['id']}-{kind}"
                self._files[batch[kind]] = "\n".join(lines).encode() + b"\n"
        batch["status"] = "completed"
