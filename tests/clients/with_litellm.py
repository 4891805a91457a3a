"""litellm, as a library."""

import litellm

from tests.clients.report import Bound, Report, Service, main


def _converse(service: Service) -> Report:
    where = {"model": f"openai/{service.model}", "api_base": service.url, "api_key": service.key}
    part = {"type": "image_url", "image_url": {"url": service.image}}
    about = {"role": "user", "content": [{"type": "text", "text": "What is it?"}, part]}
    first = litellm.completion(**where, messages=[about]).choices[0].message
    chunks = litellm.completion(**where, messages=[about], stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    stopped = litellm.completion(**where, messages=[about], stop=[" caption"])
    bound = litellm.completion(**where, messages=[about], response_format=Bound)
    turns = [about, first.model_dump(), {"role": "user", "content": "And now?"}]
    second = litellm.completion(**where, messages=turns)
    others = (answer.choices[0].message.content for answer in (stopped, bound, second))
    return Report(first.content, streamed, *others)


if __name__ == "__main__":
    main(_converse)
