"""Fields of OpenAI's and vLLM's requests that are not taken: ignored where they change nothing, and
refused by name where they would change the answer."""

from collections.abc import Mapping
from typing import Any

from serve.front.refusals import Refusal, write_place

_EMPTY: tuple[Any, ...] = (None, False, 0, "", [], {})
"""Values with which every field changes nothing."""

_NO_TOOLS = "this endpoint calls no tools; leave it out"
_NO_LOGPROBS = "this endpoint returns no probabilities; leave it out"
_NO_SOUND = "this endpoint answers with text only; leave it out"
_ONE_FORM = "send the form of the answer as response_format"
_NO_FINISHING = "a new answer is always begun; send the text to continue to /v1/completions"

_REFUSED: dict[str, tuple[str, tuple[Any, ...]]] = {
    "tools": (_NO_TOOLS, ()),
    "tool_choice": (_NO_TOOLS, ("none", "auto")),
    "functions": (_NO_TOOLS, ()),
    "function_call": (_NO_TOOLS, ("none", "auto")),
    "tool_calls": (_NO_TOOLS, ()),
    "tool_call_id": (_NO_TOOLS, ()),
    "web_search_options": (_NO_TOOLS, ()),
    "mcp_servers": (_NO_TOOLS, ()),
    "logprobs": (_NO_LOGPROBS, ()),
    "top_logprobs": (_NO_LOGPROBS, ()),
    "prompt_logprobs": (_NO_LOGPROBS, ()),
    "audio": (_NO_SOUND, ()),
    "modalities": (_NO_SOUND, (["text"],)),
    "echo": ("the answer never repeats the prompt; leave it out", ()),
    "suffix": ("text is continued at its end only; leave it out", ()),
    "best_of": ("one answer is drawn; leave it out", (1,)),
    "use_beam_search": ("answers are drawn token by token; leave it out", ()),
    "length_penalty": ("it belongs to beam search, which is not done; leave it out", (1,)),
    "stop_token_ids": ("send the texts that end the answer as stop", ()),
    "bad_words": ("send logit_bias instead", ()),
    "allowed_token_ids": ("send logit_bias instead", ()),
    "include_stop_str_in_output": ("an answer ends before its stop text; leave it out", ()),
    "skip_special_tokens": ("special tokens are always left out; leave it out", (True,)),
    "truncate_prompt_tokens": ("prompts are never cut; send a shorter one", (-1,)),
    "chat_template": ("each model has its own; leave it out", ()),
    "chat_template_kwargs": (
        "the only switch of a template is the one that is set already, enable_thinking: false",
        ({"enable_thinking": False}, {"thinking": False}),
    ),
    "documents": ("write them into the messages", ()),
    "continue_final_message": (_NO_FINISHING, ()),
    "add_generation_prompt": (_NO_FINISHING, (True,)),
    "mm_processor_kwargs": ("the model's settings decide how images are read; leave it out", ()),
    "guided_json": (_ONE_FORM, ()),
    "guided_regex": (_ONE_FORM, ()),
    "guided_choice": (_ONE_FORM, ()),
    "guided_grammar": (_ONE_FORM, ()),
    "structured_outputs": (_ONE_FORM, ()),
    "previous_response_id": ("answers are not stored; send the conversation as input", ()),
    "conversation": ("conversations are not stored; send the messages as input", ()),
    "prompt": ("prompts are not stored; send the text as input", ()),
    "background": ("an answer is sent at once; leave it out", ()),
    "max_tool_calls": (_NO_TOOLS, ()),
}
"""Name -> the sentence that refuses it, and values with which it changes nothing all the same."""

_ALWAYS_ON = frozenset(["web_search_options", "audio"])
"""Fields that an empty object switches on."""

_NOT_OFF = frozenset(["add_generation_prompt", "skip_special_tokens"])
"""Fields that are switched on unless they say false."""


def refuse_unsupported(extras: Mapping[str, Any] | None, *place: str | int) -> None:
    """Refuse the first of a request's further fields that would change the answer.

    Args:
        extras: The fields that a body has beyond its schema.
        place: Where the object with these fields stands in the body.

    Raises:
        Refusal: 400, there is one.
    """
    for name, value in (extras or {}).items():
        sentence, harmless = _REFUSED.get(name, ("", ()))
        if sentence and not _is_harmless(name, value, harmless):
            param = write_place((*place, name))
            raise Refusal(400, "unsupported_parameter", f"{param}: {sentence}.", param=param)


def _is_harmless(name: str, value: Any, harmless: tuple[Any, ...]) -> bool:
    if name in _ALWAYS_ON and value == {}:
        return False
    if name in _NOT_OFF:
        return value is None or value in harmless
    return value in _EMPTY or value in harmless


def refuse_lone_surrogates(body: Any) -> None:
    """Refuse a body with half of a surrogate pair in any of its texts: no encoding can hold it, so
    no process could hand it on.

    Raises:
        Refusal: 400, there is one.
    """
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), body)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, dict):
            for name, inner in value.items():
                _refuse_lone_surrogate(name, place)
                waiting.append(((*place, name), inner))
        elif isinstance(value, list):
            waiting += [((*place, number), inner) for number, inner in enumerate(value)]
        elif isinstance(value, str):
            _refuse_lone_surrogate(value, place)


def _refuse_lone_surrogate(text: str, place: tuple[str | int, ...]) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        param = write_place(place)
        message = f"{param or 'body'}: found half of a surrogate pair (\\ud800 to \\udfff), which "
        raise Refusal(
            400, "bad_unicode", f"{message}is no text; send whole characters.", param=param or None
        ) from None
