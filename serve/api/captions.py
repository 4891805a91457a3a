"""Captions images as a batch pass does: with the same decoding, gate and retries."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

from fastapi import Request as HttpRequest

from s4v_core.engines.requests import Request
from serve.api.answers import build_caption_answer, read_request_id
from serve.api.conversations import check_length
from serve.api.model_access import ModelAccess
from serve.api.pictures import Picture, PictureLoader, read_base64
from serve.api.schemas import (
    BatchLine,
    BatchRequest,
    CaptionAnswer,
    CaptionOptions,
    CaptionRequest,
)
from serve.api.texts import blame
from serve.api.uploads import read_caption_request
from serve.engines.client import make_engine_refusal
from serve.engines.models import Model
from serve.front.refusals import Refusal

_BATCH_CONCURRENCY = 8
"""Images of one batch that are worked on at a time: one batch must not fill the engines' queue."""


class Captioner:
    """Makes the captions of one ingress replica."""

    def __init__(self, access: ModelAccess, pictures: PictureLoader) -> None:
        self._access, self._pictures = access, pictures

    async def caption(self, http: HttpRequest) -> CaptionAnswer:
        """Caption the image of a request.

        Raises:
            Refusal: The request cannot be read, or no engine can answer it.
        """
        data, body = await read_caption_request(http)
        async with self._access.limit_time(self._access.find_client(body.model)):
            return await self._caption_image(data, body, read_request_id(http))

    def write_lines(self, body: BatchRequest, http: HttpRequest) -> AsyncIterator[bytes]:
        """Write the lines of a batch, in the order in which its images are finished.

        Raises:
            Refusal: 400, there are too many images; 404, one names a model that is not served.
        """
        limit = self._access.limits.max_batch_images
        if len(body.images) > limit:
            message = f"images: found {len(body.images)}, allowed {limit}."
            raise Refusal(400, "too_many_images", message, param="images")
        images = [_fill_defaults(image, body) for image in body.images]
        for image in images:
            self._access.find_client(image.model)  # an unknown model refuses the whole batch
        return self._write_lines(images, read_request_id(http))

    async def _write_lines(self, images: list[CaptionRequest], name: str) -> AsyncIterator[bytes]:
        slots = asyncio.Semaphore(_BATCH_CONCURRENCY)

        async def caption_line(index: int, image: CaptionRequest) -> BatchLine:
            try:
                async with slots, self._access.limit_time(self._access.find_client(image.model)):
                    answer = await self._caption_image(None, image, f"{name}-{index}")
                return BatchLine(index=index, answer=answer)
            except Refusal as refusal:
                self._access.metrics.count_refusal(refusal.code)
                return BatchLine(index=index, error=json.loads(refusal.body())["error"])

        tasks = [asyncio.create_task(caption_line(n, image)) for n, image in enumerate(images)]
        try:
            for done in asyncio.as_completed(tasks):
                yield (await done).model_dump_json().encode() + b"\n"
        finally:
            for task in tasks:
                task.cancel()

    async def _caption_image(
        self, data: bytes | None, body: CaptionOptions, name: str
    ) -> CaptionAnswer:
        client = self._access.find_client(body.model)
        model = client.model
        prompt = body.prompt or model.config.prompt
        check_length(len(prompt), self._access.limits, "prompt")
        async with client.reserve_slot():
            picture = await self._load_picture(data, body, model)
            request = Request(
                name, picture.sha256, (picture.pixels,), prompt, image_names=(picture.sha256,)
            )
            started = time.monotonic()
            end = await client.caption(request)
        self._access.metrics.count_caption(model.config.id, end.status, end.reason)
        if end.answer:
            self._access.note_answer(model, request, end.answer)
            refusal = make_engine_refusal(end.answer)
            if end.status == "error" and refusal.code == "context_length_exceeded":
                refusal.param = "prompt"
                raise refusal
        generate_ms = 1000 * (time.monotonic() - started)
        return build_caption_answer(request, body, model, picture, end, generate_ms)

    async def _load_picture(
        self, data: bytes | None, body: CaptionOptions, model: Model
    ) -> Picture:
        framing = model.facts.framing
        if isinstance(body, CaptionRequest):
            if body.url is not None:
                with blame("url"):
                    return await self._pictures.load_from_url(body.url, framing)
            with blame("image"):
                data = read_base64(body.image or "")
        with blame("image"):
            return await self._pictures.load_from_bytes(data or b"", framing)


def _fill_defaults(image: CaptionRequest, batch: BatchRequest) -> CaptionRequest:
    """Copy an image with the batch's prompt and model in place of those that it leaves unset."""
    prompt = batch.prompt if image.prompt is None else image.prompt
    model = batch.model if image.model is None else image.model
    return image.model_copy(update={"prompt": prompt, "model": model})
