"""LangChain's ChatOpenAI."""

from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI

from tests.clients.report import Bound, Report, Service, main


def _converse(service: Service) -> Report:
    chat = ChatOpenAI(model=service.model, base_url=service.url, api_key=service.key, max_retries=0)
    part = {"type": "image_url", "image_url": {"url": service.image}}
    about = HumanMessage([{"type": "text", "text": "What is it?"}, part])
    first = chat.invoke([about])
    streamed = "".join(chunk.content for chunk in chat.stream([about]))
    stopped = chat.invoke([about], stop=[" caption"]).content
    bound = chat.with_structured_output(Bound, method="json_schema").invoke([about])
    second = chat.invoke([about, first, HumanMessage("And now?")]).content
    return Report(first.content, streamed, stopped, bound.model_dump_json(), second)


if __name__ == "__main__":
    main(_converse)
