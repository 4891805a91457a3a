"""LoRA adapters as further model ids on one engine, up to what vLLM is told about them."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s4v_core.engines.vllm_arguments import _make_room_for_adapters
from s4v_core.errors import ConfigError
from serve.engines.client import ReplicaClient
from serve.engines.models import Model, check_models
from serve.settings import ModelConfig
from tests.serve.stub_service import Stub, StubHandle, ask


def write_adapter(folder: Path, rank: int) -> str:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    return str(folder)


def check(**more: Any) -> tuple[Model, ...]:
    base = {"id": "base", "path": "demo", "settings": {"cpus": 1}}
    return check_models((ModelConfig.model_validate(base | more),))


@pytest.fixture
def tuned(tmp_path: Path) -> Model:
    adapters = [
        {"id": f"tuned-{rank}", "path": write_adapter(tmp_path / str(rank), rank)}
        for rank in (4, 48)
    ]
    [found] = check(adapters=adapters)
    return found


def test_each_adapter_is_a_model_of_its_own_on_the_same_engine(tuned: Model) -> None:
    served = tuned.list_served()
    assert [model.config.id for model in served] == ["base", "tuned-4", "tuned-48"]
    assert [model.adapter for model in served] == ["", "tuned-4", "tuned-48"]
    assert {id(model.spec) for model in served} == {id(tuned.spec)}
    assert [name for name, _, _ in tuned.spec.adapters] == ["tuned-4", "tuned-48"]


def test_vllm_makes_room_for_the_largest_and_for_all_at_once(tuned: Model, tmp_path: Path) -> None:
    room = _make_room_for_adapters(tuned.spec)
    assert room == {"enable_lora": True, "max_loras": 2, "max_lora_rank": 64}
    own = write_adapter(tmp_path / "own", 200)
    settings = tuned.spec.settings.replace(adapter=own)
    room = _make_room_for_adapters(replace(tuned.spec, settings=settings))
    assert room == {"enable_lora": True, "max_loras": 3, "max_lora_rank": 256}
    assert _make_room_for_adapters(replace(tuned.spec, adapters=())) == {}


def test_a_request_names_the_adapter_of_its_model(tuned: Model, tmp_path: Path) -> None:
    async def work() -> list[str]:
        service = Stub(tmp_path)
        [handle] = service.handles
        for model in tuned.list_served():
            service.ingress._clients[model.config.id] = ReplicaClient(model, handle)  # type: ignore[arg-type]
        async with service.client() as client:
            for name in ("base", "tuned-48", "tuned-4"):
                for is_streamed in (False, True):
                    body = ask(model=name, stream=is_streamed)
                    answer = await client.post("/v1/chat/completions", json=body)
                    assert answer.status_code == 200
        assert isinstance(handle, StubHandle)
        return [request.adapter for request in handle.requests]

    assert asyncio.run(work()) == ["", "", "tuned-48", "tuned-48", "tuned-4", "tuned-4"]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"adapters": [{"id": "base", "path": "{}"}]}, "found the id base twice"),
        ({"adapters": [{"id": "x", "path": "/nowhere"}]}, "no such folder: /nowhere"),
        ({"adapters": [{"id": "a/b", "path": "{}"}]}, "id: found 'a/b'"),
        ({"adapters": [{"id": "x", "path": "{}"}], "engine": "fake"}, "only engine vllm serves"),
    ],
)
def test_adapters_that_cannot_be_served_are_refused_in_one_sentence(
    more: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "adapter", 8)
    more["adapters"] = [
        one | {"path": one["path"].format(folder)} if one["path"] == "{}" else one
        for one in more["adapters"]
    ]
    with pytest.raises(ConfigError, match=sentence) as error:
        check(**more)
    assert "\n" not in str(error.value)


def test_chats_keep_images_and_prefixes_on_vllm_alone() -> None:
    [real] = check()
    [fake] = check(engine="fake")
    assert (real.spec.shares_images, fake.spec.shares_images) == (True, False)
