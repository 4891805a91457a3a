"""openai's own client, chat completions."""

import openai

from tests.clients.report import Bound, Report, Service, main


def _converse(service: Service) -> Report:
    client = openai.OpenAI(base_url=service.url, api_key=service.key, max_retries=0)
    assert [model.id for model in client.models.list()] == [service.model]
    part = {"type": "image_url", "image_url": {"url": service.image}}
    about = {"role": "user", "content": [{"type": "text", "text": "What is it?"}, part]}
    create, asked = client.chat.completions.create, {"model": service.model, "messages": [about]}
    first = create(**asked)
    chunks = create(**asked, stream=True, stream_options={"include_usage": True})
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    stopped = create(**asked, stop=" caption").choices[0].message.content
    bound = client.chat.completions.parse(**asked, response_format=Bound).choices[0].message.parsed
    turns = [about, first.choices[0].message, {"role": "user", "content": "And now?"}]
    second = create(model=service.model, messages=turns).choices[0].message.content
    said = first.choices[0].message.content
    return Report(said, streamed, stopped, bound.model_dump_json(), second)


if __name__ == "__main__":
    main(_converse)
