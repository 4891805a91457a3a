"""Engines other than vLLM, which is in tests/flow because it takes a minute."""

import asyncio
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from s4v_core.engines.choice import build_engine, choose_engine
from s4v_core.engines.fake import fake_caption
from s4v_core.engines.rendering import PromptRenderer
from s4v_core.engines.requests import (
    Engine,
    EngineSettings,
    EngineSpec,
    Generation,
    Request,
    SamplingConfig,
)
from s4v_core.errors import ConfigError, EngineError


def _requests(count: int) -> list[Request]:
    chance = np.random.default_rng(0)
    return [
        Request(f"{n}", f"{n}", chance.integers(0, 255, (56, 56, 3), dtype=np.uint8), "What is it?")
        for n in range(count)
    ]


async def _all(engine: Engine, requests: list[Request], how: SamplingConfig) -> list[Generation]:
    return list(await asyncio.gather(*(engine.generate(request, how) for request in requests)))


def _generate(spec: EngineSpec, count: int, sampling: SamplingConfig) -> list[Generation]:
    engine = build_engine(spec)
    try:
        return asyncio.run(_all(engine, _requests(count), sampling))
    finally:
        engine.close()


def test_the_fake_caption_changes_with_a_single_pixel() -> None:
    pixels = _requests(1)[0].pixels.copy()
    before = fake_caption(pixels)
    pixels[0, 0, 0] ^= 1
    assert fake_caption(pixels) != before


def test_transformers_gives_each_image_its_own_caption_in_order(checkpoint: Path) -> None:
    spec = choose_engine("transformers", str(checkpoint), "vicuna_v1", EngineSettings(batch_size=3))
    assert spec.device == "cpu"
    many = _generate(spec, 7, SamplingConfig(max_tokens=12))
    assert len({answer.text for answer in many}) == 7
    single = EngineSettings(batch_size=1)
    spec = choose_engine("transformers", str(checkpoint), "vicuna_v1", single)
    assert _generate(spec, 7, SamplingConfig(max_tokens=12)) == many
    assert {answer.finish_reason for answer in many} <= {"stop", "length"}
    assert all(answer.output_tokens is not None and answer.output_tokens <= 12 for answer in many)


def test_draws_are_fixed_by_the_seed(checkpoint: Path) -> None:
    spec = choose_engine("transformers", str(checkpoint), "vicuna_v1", EngineSettings())
    drawn = [
        _generate(spec, 2, SamplingConfig(max_tokens=8, temperature=1.0, seed=seed))
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_prompt_has_one_bos_and_one_image_in_both_templates(checkpoint: Path) -> None:
    ids = [PromptRenderer(str(checkpoint), t).caption_ids("What?") for t in ("vicuna_v1", "model")]
    assert ids[0] == ids[1]
    renderer = PromptRenderer(str(checkpoint), "vicuna_v1")
    tokenizer = renderer.processor.tokenizer
    assert ids[0].count(tokenizer.bos_token_id) == 1
    assert ids[0].count(renderer.processor.image_token_id) == 1


def test_words_that_spell_special_tokens_stay_words_in_a_conversation(checkpoint: Path) -> None:
    renderer = PromptRenderer(str(checkpoint), "vicuna_v1")
    tokenizer, pixels = renderer.processor.tokenizer, np.zeros((8, 8, 3), np.uint8)
    marks = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    assert "<image>" in marks
    for mark in (*marks, " ".join(marks), "<image>" * 100):
        earlier = ((mark, mark), ("And now?", f"Well. {mark}"))
        for image, count in ((pixels, 1), (None, 0)):
            ids = renderer.token_ids(Request("", "", image, mark, earlier, system=mark))
            assert ids.count(renderer.processor.image_token_id) == count
            assert ids.count(tokenizer.bos_token_id) == 1
            assert ids.count(tokenizer.eos_token_id) == 2  # one behind each answer


def test_a_checkpoint_that_does_not_load_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llava", "vision_config": {}}')
    spec = choose_engine("transformers", str(tmp_path), "vicuna_v1", EngineSettings())
    with pytest.raises(EngineError, match="cannot load"):
        build_engine(spec)


def test_openai_needs_an_address() -> None:
    with pytest.raises(ConfigError, match="url"):
        choose_engine("openai", "gpt-4-vision", "model", EngineSettings())


class _Endpoint(BaseHTTPRequestHandler):
    """Answers the first request of each image with 429, and refuses the third image."""

    seen: dict[str, int] = {}  # noqa: RUF012

    def do_POST(self) -> None:
        import base64
        import io
        import json

        from PIL import Image

        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        picture = body["messages"][0]["content"][0]["image_url"]["url"]
        data = base64.b64decode(picture.removeprefix("data:image/png;base64,"))
        caption = fake_caption(np.asarray(Image.open(io.BytesIO(data))))
        self.seen[caption] = self.seen.get(caption, 0) + 1
        code = 429 if self.seen[caption] == 1 else 200
        if caption == fake_caption(_requests(3)[2].pixels):
            code = 400
        message = {"role": "assistant", "content": caption}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
        usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
        text = json.dumps(answer | {"choices": [choice], "usage": usage}).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *parts: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Endpoint)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def test_an_endpoint_gets_the_exact_pixels_is_asked_again_and_may_refuse(endpoint: str) -> None:
    spec = choose_engine("openai", "teacher", "model", EngineSettings(url=endpoint))
    found = _generate(spec, 4, SamplingConfig(max_tokens=50))
    wanted = [fake_caption(request.pixels) for request in _requests(4)]
    assert [answer.text for answer in found] == [*wanted[:2], None, wanted[3]]
    assert found[2].reason == "engine_refused:BadRequestError"
    assert found[0].output_tokens == 7


def test_an_endpoint_that_is_gone_is_no_fact_about_the_images() -> None:
    spec = choose_engine("openai", "t", "model", EngineSettings(url="http://127.0.0.1:9/v1"))
    engine = build_engine(spec)
    engine._client = engine._client.with_options(max_retries=0)  # type: ignore[attr-defined]
    with pytest.raises(EngineError, match="Connection"):
        asyncio.run(engine.generate(_requests(1)[0], SamplingConfig()))
