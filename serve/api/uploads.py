"""Reads the body of /v1/caption: a form, JSON, or the bytes of the image."""

from fastapi import Request as HttpRequest
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from serve.api.schemas import CaptionOptions, CaptionRequest
from serve.front.refusals import Refusal, make_invalid_body_refusal


async def read_caption_request(http: HttpRequest) -> tuple[bytes | None, CaptionOptions]:
    """Read an image's bytes (None if the body is JSON) and the options of its caption.

    Raises:
        Refusal: 400, the body is not well formed; 415, its content type is not supported.
    """
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "multipart/form-data":
            return await _read_form(http)
        if kind == "application/json":
            return None, CaptionRequest.model_validate_json(await http.body())
        if kind.startswith("image/") or kind == "application/octet-stream":
            return await http.body(), CaptionOptions.model_validate(dict(http.query_params))
    except ValidationError as error:
        raise make_invalid_body_refusal(error.errors()) from None
    except ClientDisconnect:
        raise Refusal(400, "disconnected", "The body ended too early.") from None
    raise Refusal(
        415,
        "bad_content_type",
        "Send multipart/form-data, application/json, or the image itself as image/*.",
    )


async def _read_form(http: HttpRequest) -> tuple[bytes, CaptionOptions]:
    try:
        async with http.form(max_files=1, max_fields=8) as form:
            image = form.get("image")
            if not isinstance(image, UploadFile):
                raise Refusal(400, "no_image", "The form has no file named `image`.")
            fields = {name: value for name, value in form.items() if name != "image"}
            return await image.read(), CaptionOptions.model_validate(fields)
    except HTTPException:
        raise Refusal(400, "bad_form", "The multipart body is not well formed.") from None
