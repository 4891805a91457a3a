"""Reads an endpoint's own words about a problem out of whatever body it sends.

OpenAI, Azure, Gemini, Mistral, OpenRouter, vLLM and the proxies before them each have a form of
their own. Knows nothing of connections and of what becomes of a request.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

_LONGEST_SENTENCE = 500

_FILTER_WORDS = re.compile(
    r"content.?filter|content.?policy|responsibleaipolicy|moderation|flagged|data.?inspection"
    r"|safety|recitation|prohibited.?content|blocklist",
    re.IGNORECASE,
)
"""Codes, types and finish reasons with which endpoints say that a filter stopped the content."""

_WEATHER_WORDS = re.compile(
    r"rate.?limit|overload|unavailable|time.?d?.?out|server.?error|internal|exhausted|bad.?gateway",
    re.IGNORECASE,
)
_HOPELESS_WORDS = re.compile(
    r"authentication|permission|invalid.?api.?key|unauthori[sz]ed|not.?found|billing|credits",
    re.IGNORECASE,
)
_REQUEST_WORDS = re.compile(r"invalid|bad.?request|unsupported|unknown|context.?length", re.I)


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem as an endpoint describes it.

    Attributes:
        sentence: Its own sentence, on one line.
        parameter: The request's parameter that is to blame, if the body has a field for it.
        codes: Values of the fields code, type and status, however deep they stand.
        is_filtered: A content filter stopped the request; that concerns this content alone.
    """

    sentence: str
    parameter: str | None = None
    codes: tuple[str, ...] = ()
    is_filtered: bool = False

    @property
    def status(self) -> int | None:
        """The HTTP status that says the same; for a problem inside an answer with status 200. None
        if its codes say nothing."""
        numbers = [int(code) for code in self.codes if re.fullmatch(r"[45]\d\d", code)]
        if numbers:
            return numbers[0]
        text = " ".join(self.codes)
        for words, status in (
            (_WEATHER_WORDS, 503),
            (_HOPELESS_WORDS, 401),
            (_REQUEST_WORDS, 400),
        ):
            if words.search(text):
                return status
        return None


def read_problem(body: object) -> Problem:
    """The problem in the body of an answer: JSON in any of the forms in use, a text, or a page."""
    if isinstance(body, str):
        parsed = _parse_json(body)
        return Problem(_flatten(body)) if parsed is None else read_problem(parsed)
    if isinstance(body, list):
        return _read_list(body)
    if not isinstance(body, dict):
        return Problem("no reason given")
    for wrapper in ("error", "detail", "errors"):
        if body.get(wrapper):
            inner = read_problem(body[wrapper])
            return _complete(inner, body)
    return _read_fields(body)


def shorten(text: str) -> str:
    """A text on one line, cut to what a message can hold."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_SENTENCE else line[: _LONGEST_SENTENCE - 3] + "..."


def is_filter_word(word: str) -> bool:
    """Whether a code or finish reason says that a filter stopped the content."""
    return bool(_FILTER_WORDS.search(word))


def _read_fields(body: dict[str, Any]) -> Problem:
    message = next((body[n] for n in ("message", "msg", "error_msg", "reason") if body.get(n)), "")
    nested = read_problem(message) if not isinstance(message, str) else None
    # OpenRouter and others wrap what the model's own server said.
    raw = (body.get("metadata") or {}).get("raw") if isinstance(body.get("metadata"), dict) else 0
    if raw:
        within = read_problem(raw)
        nested = replace(within, sentence=f"{_flatten(str(message))}: {within.sentence}")
    found = nested or Problem(_flatten(message) or shorten(json.dumps(body)))
    return _complete(found, body)


def _complete(found: Problem, body: dict[str, Any]) -> Problem:
    """A problem with what the object around it adds."""
    codes = (*found.codes, *_list_codes(body))
    parameter = found.parameter or body.get("param") or body.get("parameter")
    is_filtered = found.is_filtered or any(map(is_filter_word, codes)) or _is_flagged(body)
    is_named = isinstance(parameter, str)
    return Problem(found.sentence, parameter if is_named else None, codes, is_filtered)


def _list_codes(body: dict[str, Any]) -> Iterator[str]:
    inner = body.get("innererror") or body.get("inner_error")
    for source in (body, inner):
        if isinstance(source, dict):
            for name in ("code", "type", "status"):
                if isinstance(source.get(name), (str, int)):
                    yield str(source[name])


def _is_flagged(body: dict[str, Any]) -> bool:
    metadata = body.get("metadata")
    return isinstance(metadata, dict) and bool(
        metadata.get("flagged_input") or metadata.get("reasons")
    )


def _read_list(body: list[Any]) -> Problem:
    """A list of errors: of pydantic's, each with a place; or, in Gemini's form, of one error."""
    entries = [entry for entry in body if isinstance(entry, dict)]
    if not entries:
        return Problem(_flatten(" ".join(map(str, body))) or "no reason given")
    if "loc" not in entries[0]:
        return read_problem(entries[0])
    places = [[str(part) for part in entry.get("loc", ())] for entry in entries]
    pairs = zip(places, entries, strict=True)
    sentences = (f"{'.'.join(place)}: {entry.get('msg')}" for place, entry in pairs)
    kinds = tuple(str(entry["type"]) for entry in entries if "type" in entry)
    parameter = places[0][-1] if places[0] else None
    return Problem(shorten("; ".join(sentences)), parameter, kinds)


def _parse_json(text: str) -> object:
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


def _flatten(text: str) -> str:
    """A text, or the text of an HTML page, on one line."""
    if re.search(r"<(html|!doctype|body|head)", text, re.IGNORECASE):
        text = re.sub(r"(?is)<(script|style).*?</\1>|<[^>]*>", " ", text)
    return shorten(text)
