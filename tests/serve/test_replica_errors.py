"""Errors of a call to a replica, in the forms that Ray's actor calls and gRPC give them."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata
from ray.exceptions import ActorUnavailableError, RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError

from s4v_core.errors import EngineError
from tests.serve.stub_service import Stub, StubHandle, ask

CHAT = "/v1/chat/completions"
QUESTION = ask(max_tokens=4)

GONE = [
    pytest.param(lambda: ActorUnavailableError("gone", b"0" * 16), id="actor"),
    pytest.param(
        lambda: AioRpcError(grpc.StatusCode.CANCELLED, Metadata(), Metadata(), "shut down"),
        id="grpc",
    ),
]
UNABLE = [
    pytest.param(lambda: RayTaskError("complete", "", EngineError("m", "gave up")), id="task"),
    pytest.param(lambda: EngineError("m", "gave up"), id="own"),
    pytest.param(lambda: DeploymentUnavailableError(None), id="deployment"),
    pytest.param(asyncio.CancelledError, id="cancelled there"),
]


class FailingHandle(StubHandle):
    """Raises an error as often as `errors` says, and works then."""

    def __init__(self, model: Any, make_error: Any, errors: int) -> None:
        super().__init__(model)
        self._make_error, self._errors, self.calls = make_error, errors, 0

    async def _complete(self, request: Any, sampling: Any) -> Any:
        self.calls += 1
        if self.calls <= self._errors:
            raise self._make_error()
        return await super()._complete(request, sampling)


def _ask(folder: Path, make_error: Any, errors: int, stream: bool = False) -> tuple[Any, int]:
    async def work() -> tuple[Any, int]:
        service = Stub(folder)
        [client] = service.ingress._clients.values()
        handle = FailingHandle(client.model, make_error, errors)
        client._handle = client._streaming = handle  # type: ignore[assignment]
        async with service.client() as http:
            answer = await http.post(CHAT, json=QUESTION | {"stream": stream})
        return answer, handle.calls

    return asyncio.run(work())


@pytest.mark.parametrize("make_error", GONE)
def test_a_request_goes_to_another_replica_if_one_is_gone(tmp_path: Path, make_error: Any) -> None:
    answer, calls = _ask(tmp_path, make_error, errors=2)
    assert (answer.status_code, calls) == (200, 3)


@pytest.mark.parametrize("make_error", [*GONE, *UNABLE])
@pytest.mark.parametrize("stream", [False, True])
def test_no_engine_that_can_answer_is_503_in_openais_form(
    tmp_path: Path, make_error: Any, stream: bool
) -> None:
    answer, _ = _ask(tmp_path, make_error, errors=9, stream=stream)
    assert answer.status_code == 503, answer.text
    assert answer.json()["error"]["code"] == "engine_unavailable"
    assert "retry-after" in answer.headers
