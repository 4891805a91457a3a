"""One tokenisation: training, the exported processor and the engines give the same ids."""

import random
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor, AutoTokenizer

from s4v_core import chat
from s4v_core.engines.rendering import PromptRenderer
from s4v_core.engines.requests import Request
from s4v_core.model.processor import build_processor
from s4v_core.model.tokenizer import add_image_and_pad, load_tokenizer
from tests.model.sentencepieces import draw_turns, encode_apart, write_tokenizer

SETTINGS = [{}, {"legacy": True}, {"legacy": False}, {"use_fast": False, "legacy": False}]


@pytest.fixture(scope="module", params=SETTINGS, ids=["unset", "legacy", "not_legacy", "slow"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a processor that was made from Vicuna's tokenizer files, as conversion makes it."""
    folder = tmp_path_factory.mktemp("processor")
    tokenizer = load_tokenizer(write_tokenizer(folder / "source", **request.param))
    add_image_and_pad(tokenizer)
    build_processor(tokenizer, 336, 14, pad=True).save_pretrained(folder / "exported")
    return folder / "exported"


def _make_messages(turns: list[tuple[str, str | None]], image: int | None) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for number, (question, answer) in enumerate(turns):
        picture = [{"type": "image"}] if number == image else []
        content = [*picture, {"type": "text", "text": question}]
        messages.append({"role": "user", "content": content})
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
    return messages


def test_every_way_to_the_ids_gives_those_of_sentencepiece(exported: Path) -> None:
    processor = AutoProcessor.from_pretrained(exported)
    training = load_tokenizer(exported)  # a stage that starts from the exported model
    renderer = PromptRenderer(
        str(exported), "vicuna_v1", AutoTokenizer.from_pretrained(exported), 2000
    )
    chance = random.Random(0)
    assert training.convert_tokens_to_ids([chat.IMAGE, "<pad>"]) == [2000, 2001]
    for _ in range(200):
        turns, image = draw_turns(chance)
        wanted = encode_apart(turns, image, 2000, chat.VICUNA_V1.system)
        image_turns = () if image is None else (image,)
        pieces = chat.VICUNA_V1.build_pieces(turns, image_turns)
        assert chat.encode(pieces, training, 2000)[0] == wanted
        text = processor.apply_chat_template(
            _make_messages(turns, image), add_generation_prompt=True
        )
        assert processor.tokenizer(text, add_special_tokens=False).input_ids == wanted
        asked = Request(
            "", "", tuple(() for _ in image_turns), turns[-1][0],
            earlier=tuple((question, answer or "") for question, answer in turns[:-1]),
            image_turns=image_turns,
        )  # fmt: skip
        assert renderer.token_ids(asked) == wanted


def test_the_image_and_the_end_have_the_neighbours_that_llava_was_trained_with(
    exported: Path,
) -> None:
    tokenizer = load_tokenizer(exported)
    pieces = chat.VICUNA_V1.build_pieces([("Look.", "A cat."), ("And?", None)], (0,))
    tokens = tokenizer.convert_ids_to_tokens(chat.encode(pieces, tokenizer, 2000)[0])
    image, end = tokens.index(chat.IMAGE), tokens.index("</s>")
    assert tokens[:2] == ["<s>", "\u2581A"]
    assert tokens[image - 1 : image + 3] == ["\u2581", chat.IMAGE, "\u2581", "<0x0A>"]
    assert "".join(tokens[end + 1 :]).startswith("\u2581USER:")


@pytest.mark.parametrize("settings", SETTINGS)
def test_ids_are_those_of_the_whole_text_for_a_tokenizer_that_looks_at_its_beginning(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """Such as that of a LLaVA-1.5 of the hub, which an engine takes as transformers loads it."""
    tokenizer = AutoTokenizer.from_pretrained(write_tokenizer(tmp_path, **settings))
    tokenizer.add_special_tokens({"additional_special_tokens": [chat.IMAGE]})
    chance = random.Random(1)
    for _ in range(100):
        turns, image = draw_turns(chance)
        pieces = chat.VICUNA_V1.build_pieces(turns, () if image is None else (image,))
        whole = tokenizer("".join(piece.text for piece in pieces)).input_ids
        assert chat.encode(pieces, tokenizer, 2000)[0] == whole


@pytest.mark.parametrize("strips", [("image",), ("image", "end")])
def test_marks_take_the_spaces_that_their_special_tokens_take(
    strips: tuple[str, ...], tmp_path: Path
) -> None:
    from tokenizers import AddedToken

    tokenizer = load_tokenizer(write_tokenizer(tmp_path))
    tokenizer.add_tokens([AddedToken(chat.IMAGE, rstrip=True, lstrip=True)], special_tokens=True)
    if "end" in strips:
        tokenizer.add_tokens([AddedToken("</s>", rstrip=True)], special_tokens=True)
    pieces = chat.VICUNA_V1.build_pieces([(" Look.", "A cat. "), (" And?", None)], (0,))
    whole = tokenizer("".join(piece.text for piece in pieces)).input_ids
    assert chat.encode(pieces, tokenizer, 2000)[0] == whole


@pytest.mark.slow
def test_vllm_loads_the_exported_tokenizer_with_the_same_ids(exported: Path) -> None:
    vllm_tokenizers = pytest.importorskip("vllm.tokenizers")
    tokenizer = vllm_tokenizers.get_tokenizer(str(exported))
    processor = AutoProcessor.from_pretrained(exported)
    chance = random.Random(2)
    for _ in range(50):
        turns, image = draw_turns(chance)
        text = processor.apply_chat_template(
            _make_messages(turns, image), add_generation_prompt=True
        )
        wanted = encode_apart(turns, image, 2000, chat.VICUNA_V1.system)
        assert tokenizer.encode(text, add_special_tokens=False) == wanted
