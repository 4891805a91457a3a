"""With no setting but the model's name, the engines ask and answer as bare `vllm.LLM.chat` does."""

from typing import Any

import pytest

from s4v_core.engines.thinking import UNFINISHED
from tests.architectures.catalogue import ARCHITECTURES
from tests.architectures.reference import MAX_TOKENS
from tests.architectures.trials import Trials

pytestmark = pytest.mark.timeout(3600)

QUICK = ("joycaption",)
"""Tried in every run of the tests: the layout with the most surprises."""

STOPS = ("second_end", "turn_end")

_PLAIN = [name for name in ARCHITECTURES if name not in STOPS]
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in _PLAIN]
EXACT = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in _PLAIN
    if not ARCHITECTURES[name].thinks
]

TRANSFORMERS_DIFFERS = {
    "paligemma": "transformers lets the whole prompt see itself; vLLM on CPUs is causal",
    "llama4": "7 of 12 captions are the same; the cause is not known",
}
"""Architectures that transformers computes otherwise than vLLM, and why."""


NOT_LOADED = "object has no attribute 'conv_dim'"
"""vLLM 0.32 cannot load LFM2-VL with transformers 5.17, whose config lacks this number."""


def _pictures(answers: dict[str, Any]) -> dict[str, dict[str, Any]]:
    if NOT_LOADED in answers.get("error", ""):
        pytest.skip("this vLLM cannot load the model with this transformers")
    assert "error" not in answers, answers["error"]
    found: dict[str, dict[str, Any]] = answers["pictures"]
    return found


def _allow_reasons(name: str) -> tuple[str | None, ...]:
    """A thought that a random model never ends is rejected; its prompt is compared all the same."""
    return (None, UNFINISHED) if ARCHITECTURES[name].thinks else (None,)


@pytest.mark.parametrize("name", NAMES)
def test_the_prompt_has_the_ids_of_bare_vllm(trials: Trials, name: str) -> None:
    bare, ours = _pictures(trials.ask_bare(name)), _pictures(trials.ask_engine(name, "vllm"))
    assert len(bare) == 12
    for picture, answer in bare.items():
        assert "error" not in answer, answer["error"]
        found = ours[picture]
        assert found.get("reason") in _allow_reasons(name), (picture, found)
        assert found["prompt_ids"] == answer["prompt_ids"], picture
        assert found["prompt_tokens"] == len(answer["prompt_ids"]), picture


@pytest.mark.parametrize("name", NAMES)
def test_a_question_without_a_picture_has_the_ids_of_bare_vllm(trials: Trials, name: str) -> None:
    if ARCHITECTURES[name].template != "model":
        pytest.skip("Vicuna's prompt is this project's own")
    _pictures(trials.ask_bare(name))
    bare, ours = trials.ask_bare(name)["text"], trials.ask_engine(name, "vllm")["text"]
    if "error" in bare:
        pytest.skip(f"bare vLLM cannot answer it: {bare['error']}")
    assert ours.get("reason") in _allow_reasons(name), ours
    assert ours["prompt_ids"] == bare["prompt_ids"]


@pytest.mark.parametrize("name", EXACT)
def test_greedy_captions_are_those_of_bare_vllm(trials: Trials, name: str) -> None:
    bare, ours = _pictures(trials.ask_bare(name)), _pictures(trials.ask_engine(name, "vllm"))
    captions = {picture: answer["text"] for picture, answer in bare.items()}
    assert len(set(captions.values())) >= 6, "the pictures do not decide the captions"
    assert {picture: answer["text"] for picture, answer in ours.items()} == captions
    for picture, answer in bare.items():
        assert ours[picture]["finish_reason"] == answer["finish_reason"], picture
        assert ours[picture]["output_tokens"] <= MAX_TOKENS


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in _PLAIN if not ARCHITECTURES[n].thinks])
def test_transformers_captions_like_vllm(trials: Trials, name: str) -> None:
    if name in TRANSFORMERS_DIFFERS:
        pytest.skip(TRANSFORMERS_DIFFERS[name])
    bare = _pictures(trials.ask_bare(name))
    ours = _pictures(trials.ask_engine(name, "transformers"))
    for picture, answer in bare.items():
        assert ours[picture].get("reason") is None, (picture, ours[picture])
        assert ours[picture]["prompt_tokens"] == len(answer["prompt_ids"]), picture
    same = sum(ours[picture]["text"] == answer["text"] for picture, answer in bare.items())
    assert same >= 11, f"{same} of 12 captions are the same"  # floats are added in another order


@pytest.mark.slow
@pytest.mark.parametrize("name", ["second_end"])
def test_the_second_end_token_of_the_generation_config_ends_an_answer(
    trials: Trials, name: str
) -> None:
    bare, ours = _pictures(trials.ask_bare(name)), _pictures(trials.ask_engine(name, "vllm"))
    stopped = [picture for picture, answer in bare.items() if answer["finish_reason"] == "stop"]
    assert len(stopped) >= 2, "the second end token hardly comes up"
    ends = {bare[picture]["answer_ids"][-1] for picture in stopped}
    assert len(ends) == 1, "only the second end token is to end an answer"
    for picture, answer in bare.items():
        assert ours[picture]["answer_ids"] == answer["answer_ids"], picture
        assert ours[picture]["finish_reason"] == answer["finish_reason"], picture


@pytest.mark.slow
@pytest.mark.parametrize("name", ["turn_end"])
@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_the_end_of_a_turn_that_only_the_template_knows_ends_an_answer(
    trials: Trials, name: str, engine: str
) -> None:
    from tokenizers import Tokenizer

    words = Tokenizer.from_file(str(trials.build(name).checkpoint / "tokenizer.json"))
    end = words.token_to_id("<|im_end|>")
    bare, ours = _pictures(trials.ask_bare(name)), _pictures(trials.ask_engine(name, engine))
    running_on = [p for p, answer in bare.items() if end in answer["answer_ids"][:-1]]
    assert len(running_on) >= 2, "the end of a turn hardly comes up"
    for picture in running_on:
        ids = bare[picture]["answer_ids"]
        text = words.decode(ids[: ids.index(end)], skip_special_tokens=True)
        assert ours[picture]["text"] == text.rstrip("\ufffd").strip(), picture
        assert ours[picture]["finish_reason"] == "stop", picture


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3_vl_thinking"])
def test_a_thought_that_cannot_be_switched_off_is_cut_from_the_caption(
    trials: Trials, name: str
) -> None:
    bare, ours = _pictures(trials.ask_bare(name)), _pictures(trials.ask_engine(name, "vllm"))
    thoughts = 0
    for picture, answer in bare.items():
        found = ours[picture]
        assert "think>" not in (found["text"] or ""), picture
        assert found["answer_ids"] == answer["answer_ids"], picture
        if "</think>" in answer["text"]:
            thoughts += 1
            assert found["text"] == answer["text"].rpartition("</think>")[2].strip(), picture
            assert found["thinking_tokens"] > 0, picture
        else:
            assert not found["text"], picture
    assert thoughts >= 2, "the model hardly ends its thoughts"
