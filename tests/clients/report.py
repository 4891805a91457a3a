"""The report that each client gives of its conversation, as JSON on the last line."""

import json
import sys
from collections.abc import Callable
from typing import NamedTuple

import pydantic


class Service(NamedTuple):
    """Where and with what a client asks.

    Attributes:
        url: Address with /v1 at its end.
        image: A data: URL.
    """

    url: str
    key: str
    model: str
    image: str


class Report(NamedTuple):
    """The answers to the requests that every client sends.

    Attributes:
        image: About the image.
        streamed: The same, from a stream.
        stopped: The same, with the stop text " caption".
        bound: A JSON object with `answer` and `count`.
        second: In a second turn, to the text "And now?".
    """

    image: str
    streamed: str
    stopped: str
    bound: str
    second: str


class Bound(pydantic.BaseModel):
    """The form of the bound answer."""

    answer: str
    count: int


def main(converse: Callable[[Service], Report]) -> None:
    """Have a conversation with the service that the command line names, and print the report."""
    sys.stdout.write(json.dumps(converse(Service(*sys.argv[1:]))._asdict()) + "\n")
