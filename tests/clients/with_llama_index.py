"""llama-index's OpenAILike."""

import base64

from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole, TextBlock
from llama_index.llms.openai_like import OpenAILike

from tests.clients.report import Bound, Report, Service, main


def _converse(service: Service) -> Report:
    where = {"model": service.model, "api_base": service.url, "api_key": service.key}
    chat = OpenAILike(**where, is_chat_model=True, context_window=2048, max_retries=0)
    image = base64.b64decode(service.image.partition(",")[2])
    blocks = [TextBlock(text="What is it?"), ImageBlock(image=image, image_mimetype="image/jpeg")]
    about = ChatMessage(role=MessageRole.USER, blocks=blocks)
    first = chat.chat([about]).message
    streamed = "".join(piece.delta or "" for piece in chat.stream_chat([about]))
    stopped = chat.chat([about], stop=[" caption"]).message.content
    schema = {"name": "bound", "schema": Bound.model_json_schema()}
    form = {"type": "json_schema", "json_schema": schema}
    bound = chat.chat([about], response_format=form).message.content
    again = ChatMessage(role=MessageRole.USER, content="And now?")
    second = chat.chat([about, first, again]).message.content
    return Report(first.content or "", streamed, stopped or "", bound or "", second or "")


if __name__ == "__main__":
    main(_converse)
