"""openai's own client, responses. They have no stop text, so that one goes by chat completions."""

import openai

from tests.clients.report import Bound, Report, Service, main


def _converse(service: Service) -> Report:
    client = openai.OpenAI(base_url=service.url, api_key=service.key, max_retries=0)
    part = {"type": "input_image", "image_url": service.image, "detail": "auto"}
    about = {"role": "user", "content": [{"type": "input_text", "text": "What is it?"}, part]}
    create, asked = client.responses.create, {"model": service.model, "input": [about]}
    first = create(**asked)
    events = create(**asked, stream=True)
    streamed = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    stopped = create(**asked, extra_body={"stop": " caption"}).output_text
    bound = client.responses.parse(**asked, text_format=Bound).output_parsed
    turns = [about, *first.output, {"role": "user", "content": "And now?"}]
    second = create(model=service.model, input=turns).output_text
    return Report(first.output_text, streamed, stopped, bound.model_dump_json(), second)


if __name__ == "__main__":
    main(_converse)
