"""instructor, whose answers are always bound: it is asked for JSON in both of its forms."""

import instructor
import openai

from tests.clients.report import Bound, Report, Service, main


def _converse(service: Service) -> Report:
    client = openai.OpenAI(base_url=service.url, api_key=service.key, max_retries=0)
    part = {"type": "image_url", "image_url": {"url": service.image}}
    about = {"role": "user", "content": [{"type": "text", "text": "What is it?"}, part]}
    bound = instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA)
    asked = {"model": service.model, "response_model": Bound, "max_retries": 0}
    first = bound.chat.completions.create(**asked, messages=[about])
    parts = bound.chat.completions.create_partial(**asked, messages=[about])
    *_, streamed = parts
    turns = [
        about,
        {"role": "assistant", "content": first.model_dump_json()},
        {"role": "user", "content": "And now?"},
    ]
    second = bound.chat.completions.create(**asked, messages=turns)
    stopped = client.chat.completions.create(model=service.model, messages=[about], stop=" caption")
    said = stopped.choices[0].message.content
    return Report(first.answer, streamed.answer, said, first.model_dump_json(), second.answer)


if __name__ == "__main__":
    main(_converse)
