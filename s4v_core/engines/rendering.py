"""Requests -> prompt texts and token ids, and generated ids -> answers, the same for every engine
that runs a checkpoint itself."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from s4v_core import chat
from s4v_core.engines.chat_formats import ChatFormat
from s4v_core.engines.requests import Generation, Request
from s4v_core.engines.template_guard import GuardedTemplate
from s4v_core.engines.thinking import (
    ANSWER_MARKS,
    MARKS,
    UNFINISHED,
    UNFINISHED_WORDS,
    is_thinking_open,
    split_thinking,
)
from s4v_core.errors import ConfigError

OWN_TEMPLATE = "model"
"""Template name that means the checkpoint's own chat template."""

_NO_PIXELS = np.zeros((0, 0, 3), np.uint8)
_PROBE = "Question-for-the-template"


class PromptRenderer:
    """Renders requests with one template, and reads what the model generates for them.

    Attributes:
        tokenizer: The checkpoint's tokenizer.
        image_id: The id that stands for one image in `token_ids`; None if it has none.
    """

    def __init__(
        self,
        model: str,
        template: str,
        tokenizer: Any,
        image_id: int | None,
        find_format: Callable[[GuardedTemplate], ChatFormat] | None = None,
    ) -> None:
        """Args:
        template: Name in `chat.TEMPLATES`, or OWN_TEMPLATE.
        find_format: Finds the format of the checkpoint's own template; needed for that one.

        Raises:
            ConfigError: It has no template, or one that does not work.
        """
        self.tokenizer, self.image_id = tokenizer, image_id
        self._named = None if template == OWN_TEMPLATE else chat.find_template(template)
        self._guard = GuardedTemplate(model, tokenizer.special_tokens_map)
        self._format: ChatFormat | None = None
        if self._named is None:
            assert find_format, "the checkpoint's own template must be found"
            self._format = find_format(self._guard)
        # A bound method would refer back to this object, and so keep the guard's process until the
        # garbage collector comes.
        render = partial(_render_guarded, self._guard, self._format)
        self._render_messages = lru_cache(maxsize=1024)(render)
        self._thought_ends = _find_special_ids(tokenizer, [end for _, end in MARKS])

    def render(self, request: Request) -> str:
        """The text of a request, with one image mark per image.

        Raises:
            ConfigError: A question spells the image mark itself, or the checkpoint's own template
                fails or exceeds a limit.
        """
        if request.is_raw:
            return request.prompt + request.prefill
        if self._named:
            for question in _list_questions(request):
                chat.refuse_image_mark(question)
            return "".join(piece.text for piece in self._cut_pieces(request))
        return self._render_own(request) + request.prefill

    def token_ids(self, request: Request) -> list[int]:
        """Ids with one placeholder per image, and a BOS where the template has one, as vLLM expands
        them.

        Raises:
            ConfigError: A question brings an image token, or the checkpoint's own template fails.
        """
        if request.is_raw:
            piece = chat.Piece(request.prompt + request.prefill)
            return chat.encode([piece], self.tokenizer, self.image_id)[0]
        if self._named:
            return chat.encode(self._cut_pieces(request), self.tokenizer, self.image_id)[0]
        for question in _list_questions(request):
            if self.image_id is not None and self.image_id in self._encode(question):
                raise ConfigError(f"prompt: found an image token of the model in {question!r}")
        return self._encode(self.render(request))

    def question_ids(self, prompt: str) -> list[int]:
        """`token_ids` of one question about one image."""
        return self.token_ids(_ask(prompt))

    def question_text(self, prompt: str) -> str:
        """`render` of one question about one image."""
        return self.render(_ask(prompt))

    @property
    def switches(self) -> tuple[str, ...]:
        """Variables of the template that turn thinking off."""
        return tuple(self._format.switches) if self._format else ()

    def is_thinking_open(self, request: Request) -> bool:
        """Whether the prompt of a request ends inside a thought of the model."""
        has_template = self._format is not None and self._format.template
        return bool(has_template) and is_thinking_open(self.render(request))

    def find_turn_end(self) -> int | None:
        """The special token that the checkpoint's own template writes behind a finished answer;
        None if it writes none, or something else."""
        if self._format is None:
            return None
        asked = Request("", "", (), _PROBE, earlier=((_PROBE, _PROBE[::-1]),))
        messages = self._format.make_messages(asked)[:-1]
        try:
            text = self._render_messages(json.dumps(messages), False)
        except ConfigError:
            return None  # a template that does not like this conversation
        _, found, behind = text.rpartition(_PROBE[::-1])
        ids = self._encode(behind.lstrip()) if found else []
        special = _list_special_ids(self.tokenizer) - {self.image_id}
        is_end = ids and ids[0] in special and self.tokenizer.decode(ids[:1]) not in ANSWER_MARKS
        return ids[0] if is_end else None

    def read_answer(
        self, request: Request, ids: Sequence[int], finish_reason: str | None, prompt_tokens: int
    ) -> Generation:
        """The generation that generated ids amount to: the answer without the model's thoughts.

        Args:
            finish_reason: Why the engine stopped.
            prompt_tokens: Length of the prompt, images included.
        """
        ids = list(ids)
        found = Generation("", finish_reason, prompt_tokens, len(ids))
        ends = [at for at, token in enumerate(ids) if token in self._thought_ends]
        if ends:
            # The mark may be a token that decoding leaves out.
            answer, _ = split_thinking(f"{MARKS[0][1]}{self._decode(ids[ends[-1] + 1 :])}")
            return replace(found, text=answer, thinking_tokens=ends[-1] + 1)
        text = self._decode(ids)
        answer, thought = split_thinking(text, self.is_thinking_open(request))
        if thought is None:
            return replace(found, text=self._put_behind_prefill(request.prefill, ids, text))
        if not answer:
            return replace(
                found,
                text=None,
                reason=UNFINISHED,
                reason_detail=UNFINISHED_WORDS,
                thinking_tokens=len(ids),
            )
        count = len(ids) - len(self._encode(answer))
        return replace(found, text=answer, thinking_tokens=max(count, 0))

    def describe_tokens(self, ids: Sequence[int]) -> tuple[str, ...]:
        """The texts of single tokens."""
        return tuple(map(str, self.tokenizer.convert_ids_to_tokens(list(ids))))

    def close(self) -> None:
        self._guard.close()

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        # An answer that was cut inside a character ends before it, as vLLM's own texts do.
        return text.rstrip("\ufffd").strip()

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _put_behind_prefill(self, prefill: str, ids: list[int], text: str) -> str:
        """The whole answer. It is decoded in one go, because a tokenizer may leave out the space at
        the beginning of a text."""
        if not prefill:
            return text
        begun = self._encode(prefill)
        start = self.tokenizer.decode(begun, skip_special_tokens=True)
        whole: str = self.tokenizer.decode([*begun, *ids], skip_special_tokens=True)
        return (prefill + whole[len(start) :]).rstrip("\ufffd").rstrip()

    def _render_own(self, request: Request) -> str:
        assert self._format, "only the checkpoint's own template is rendered like this"
        return self._render_messages(json.dumps(self._format.make_messages(request)), True)

    def _cut_pieces(self, request: Request) -> list[chat.Piece]:
        assert self._named, "only a named template is cut into pieces"
        turns = [*request.earlier, (request.prompt, None)]
        pieces = self._named.build_pieces(turns, request.turns_of_images, request.system)
        if request.prefill:
            pieces.append(chat.Piece(f"{self._named.answer_lead}{request.prefill}"))
        return pieces


def _render_guarded(
    guard: GuardedTemplate, own: ChatFormat | None, messages: str, is_asked: bool
) -> str:
    """Render with the checkpoint's own template.

    Args:
        messages: As JSON, so that equal conversations are rendered once.
    """
    assert own, "only the checkpoint's own template is rendered like this"
    return guard.render(own.template, json.loads(messages), own.switches, is_asked)


def load_renderer(model: str, template: str) -> tuple[PromptRenderer, Any]:
    """The renderer of a checkpoint by rules that need no vLLM, and its processor, which is its
    tokenizer if it sees no images.

    Raises:
        ConfigError: The checkpoint has no chat template, or one whose form cannot be told.
    """
    from transformers import AutoConfig, AutoProcessor

    from s4v_core.engines.chat_formats import find_chat_format

    processor = AutoProcessor.from_pretrained(model, trust_remote_code=False)
    model_type = AutoConfig.from_pretrained(model, trust_remote_code=False).model_type

    def find_format(guard: GuardedTemplate) -> ChatFormat:
        return find_chat_format(processor, model_type, guard.render)

    image_id = getattr(processor, "image_token_id", None)
    tokenizer = getattr(processor, "tokenizer", processor)
    renderer = PromptRenderer(model, template, tokenizer, image_id, find_format)
    return renderer, processor


def _ask(prompt: str) -> Request:
    return Request("", "", (_NO_PIXELS,), prompt)


def _list_questions(request: Request) -> list[str]:
    return [request.prompt, *(asked for asked, _ in request.earlier)]


def _find_special_ids(tokenizer: Any, texts: Sequence[str]) -> set[int]:
    """Ids of those texts that are one token each."""
    vocabulary = tokenizer.get_added_vocab()
    return {vocabulary[text] for text in texts if text in vocabulary}


def _list_special_ids(tokenizer: Any) -> set[int]:
    """Ids of special tokens, of those too that no setting of the tokenizer names: fine-tunes often
    keep such a token as the end of a turn alone."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
