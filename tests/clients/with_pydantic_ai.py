"""pydantic-ai: chat completions, and responses for the second turn."""

import base64

from pydantic_ai import Agent, BinaryContent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.report import Bound, Report, Service, main


def _converse(service: Service) -> Report:
    provider = OpenAIProvider(base_url=service.url, api_key=service.key)
    agent = Agent(OpenAIChatModel(service.model, provider=provider))
    image = BinaryContent(
        base64.b64decode(service.image.partition(",")[2]), media_type="image/jpeg"
    )
    about = ["What is it?", image]
    first = agent.run_sync(about)
    stopped = agent.run_sync(about, model_settings={"stop_sequences": [" caption"]}).output
    bound = agent.run_sync(about, output_type=NativeOutput(Bound)).output
    newer = Agent(OpenAIResponsesModel(service.model, provider=provider))
    second = newer.run_sync("And now?", message_history=first.all_messages()).output
    streamed = "".join(agent.run_stream_sync(about).stream_text(delta=True))
    return Report(first.output, streamed, stopped, bound.model_dump_json(), second)


if __name__ == "__main__":
    main(_converse)
