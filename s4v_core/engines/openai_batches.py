"""OpenAI's Batch API: files of requests that are answered within a day for half the price."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from s4v_core.engines.endpoint import WeatherError
from s4v_core.engines.openai import OpenAIClient
from s4v_core.engines.requests import Generation, Request
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSpec
from s4v_core.errors import EngineError

_PATH: Any = "/v1/chat/completions"
_WINDOW: Any = "24h"
_TAG = "s4v"
_RETRIES = 8
"""Times that the library repeats one call, with growing pauses."""

_MOST_LISTED = 1000
"""Newest batches of the account that are searched for one whose number was lost."""

_ENDED = frozenset(["completed", "failed", "expired", "cancelled"])


@dataclass(frozen=True, slots=True)
class BatchState:
    """How a batch stands.

    Attributes:
        files: Ids of the files with its answers and errors.
        problem: The endpoint's words if it refused the batch as a whole.
        is_crowded: Whether it was refused because too much was waiting already.
    """

    status: str
    files: tuple[str, ...] = ()
    problem: str = ""
    is_crowded: bool = False

    @property
    def is_ended(self) -> bool:
        return self.status in _ENDED


class BatchClient:
    """Batches at one endpoint. Every method blocks."""

    def __init__(self, spec: EngineSpec) -> None:
        url, variable = spec.settings.endpoints[0]
        self.single = OpenAIClient(spec, url, variable)
        self._api = self.single.open_blocking(_RETRIES)

    def build_line(self, name: str, request: Request, sampling: SamplingConfig) -> bytes:
        """One request as a line of a batch's file."""
        body = self.single.build_body(request, sampling)
        line = {"custom_id": name, "method": "POST", "url": _PATH, "body": body}
        return json.dumps(line).encode() + b"\n"

    def submit(self, file: Path, tag: str) -> str:
        """Upload a file of requests and start its batch; returns the batch's id."""
        try:
            with file.open("rb") as source:
                uploaded = self._api.files.create(file=source, purpose="batch")
            batch = self._api.batches.create(
                input_file_id=uploaded.id,
                endpoint=_PATH,
                completion_window=_WINDOW,
                metadata={_TAG: tag},
            )
        except openai.OpenAIError as error:
            raise _describe(error) from error
        return batch.id

    def find(self, tag: str) -> str | None:
        """The id of the batch that was started with a tag; None if there is none."""
        try:
            for number, batch in enumerate(self._api.batches.list(limit=100)):
                if (batch.metadata or {}).get(_TAG) == tag:
                    return batch.id
                if number >= _MOST_LISTED:
                    break
        except openai.OpenAIError as error:
            raise _describe(error) from error
        return None

    def look(self, batch_id: str) -> BatchState:
        """How a batch stands now."""
        try:
            batch = self._api.batches.retrieve(batch_id)
        except openai.OpenAIError as error:
            raise _describe(error) from error
        files = tuple(filter(None, (batch.output_file_id, batch.error_file_id)))
        errors = (batch.errors.data or []) if batch.errors else []
        words = "; ".join(filter(None, (one.message for one in errors)))
        is_crowded = any(one.code == "token_limit_exceeded" for one in errors)
        return BatchState(batch.status, files, words, is_crowded)

    def fetch(self, file_id: str, scratch: Path) -> Iterator[tuple[str, Generation]]:
        """Name and answer of each request in a file of answers; those that may be answered
        another time are left out."""
        try:
            self._api.files.content(file_id).write_to_file(scratch)
        except openai.OpenAIError as error:
            raise _describe(error) from error
        with scratch.open(encoding="utf-8") as lines:
            for text in lines:
                if found := self._read_line(text):
                    yield found

    def _read_line(self, text: str) -> tuple[str, Generation] | None:
        try:
            line = json.loads(text)
            name, response = line["custom_id"], line.get("response") or {}
            status, body = response["status_code"], response["body"]
        except (ValueError, KeyError, TypeError):  # expired, cancelled, or cut
            return None
        try:
            return name, self.single.read_response(status, json.dumps(body))
        except WeatherError:
            return None


def _describe(error: openai.OpenAIError) -> EngineError:
    return EngineError("openai", f"Batch API: {type(error).__name__}: {error}")
