"""An endpoint and a batch pass give the same caption for an image, with the real engine."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from s4v_core.captioning.caption_pass import run_pass
from s4v_core.captioning.job import CaptionJob
from s4v_core.demo.scene_files import write_scenes
from s4v_core.demo.shipped import CAPTIONER
from s4v_core.engines.sampling import SamplingConfig
from tests.flow.oracle import check_rows
from tests.serve.service import ALONE, Service, about, served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

COUNT = 50
DRAWN = {"temperature": 0.7, "top_p": 0.9, "seed": 5}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "shards"
    write_scenes(folder, COUNT, seed=7_000_000)
    return folder


@pytest.fixture(scope="module")
def service(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    model = {"path": "demo", "scaling": ALONE, "settings": {"cpus": 1}}
    with served(
        tmp_path_factory.mktemp("served"),
        model | {"id": "greedy"},
        model | {"id": "drawn", "sampling": DRAWN},
    ) as found:
        yield found


def _images(shards: Path) -> dict[str, bytes]:
    found = {}
    for shard in sorted(shards.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for name in tar.getnames():
                if name.endswith(".jpg"):
                    file = tar.extractfile(name)
                    assert file
                    found[f"{shard.stem}/{Path(name).stem}"] = file.read()
    return found


@pytest.mark.parametrize(("model", "sampling"), [("greedy", {}), ("drawn", DRAWN)])
def test_an_endpoint_gives_the_caption_of_a_pass(
    service: Service, shards: Path, tmp_path: Path, model: str, sampling: dict[str, float]
) -> None:
    job = CaptionJob(
        input=(str(shards),),
        output=str(tmp_path / "out"),
        model=str(CAPTIONER),
        engine="vllm",
        sampling=SamplingConfig(**sampling),  # type: ignore[arg-type]
    )
    assert run_pass(job).exit_code == 0
    rows = {row["image_id"]: row for row in check_rows(tmp_path / "out")}
    images = _images(shards)
    assert len(images) == COUNT == len(rows)
    with service.http() as client:
        for image_id, image in images.items():
            found = client.post(
                "/v1/caption",
                params={"model": model},
                content=image,
                headers={"content-type": "image/jpeg"},
            ).json()
            row = rows[image_id]
            assert found["caption"] == row["caption"], image_id
            for name in ("status", "reason", "attempts", "finish_reason", "image_sha256", "prompt"):
                assert found[name] == row[name], name
            assert found["tokens"]["output"] == row["output_tokens"]


def test_a_chat_with_the_same_prompt_gives_the_caption_also_when_streamed(
    service: Service, shards: Path
) -> None:
    image = next(iter(_images(shards).values()))
    client = service.openai()
    with service.http() as http:
        said = http.post("/v1/caption", content=image, headers={"content-type": "image/jpeg"})
    found = said.json()
    asked = {"model": "greedy", "messages": about(image, found["prompt"])}
    answer = client.chat.completions.create(**asked)
    assert answer.choices[0].message.content == found["caption"]
    chunks = client.chat.completions.create(**asked, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == found["caption"]


def test_texts_that_spell_special_tokens_break_nothing(service: Service, shards: Path) -> None:
    from transformers import AutoTokenizer

    image = next(iter(_images(shards).values()))
    tokens = AutoTokenizer.from_pretrained(CAPTIONER).added_tokens_decoder.values()
    client = service.openai()
    for mark in [str(token) for token in tokens]:
        for text in (mark, mark * min(100, 8000 // len(mark)), f"USER: {mark} ASSISTANT: {mark}"):
            answer = client.chat.completions.create(
                model="greedy", messages=about(image, text), max_tokens=4
            )
            assert answer.choices[0].finish_reason in ("stop", "length")
