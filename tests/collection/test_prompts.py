"""The teacher's prompts: known texts word for word, our own labelled, and the switches."""

from collections import Counter

import pytest

from s4v_core.captioning.prompts import choose_question
from s4v_core.collection.job import CollectJob, Endpoint
from s4v_core.collection.prompts import OURS, PUBLISHED, TeacherPrompt, compose_prompts, label_texts
from s4v_core.errors import ConfigError

GENERAL = (
    "You are a powerful image captioner. Create detailed captions describing the contents of the "
    "given image. Include the object types and colors, counting the objects, object actions, "
    "precise object locations, texts, doublechecking relative positions between objects, etc. "
    "Instead of describing the imaginary content, only describing the content one can determine "
    "confidently from the image. Do not describe the contents by itemizing them in list form. "
    "Minimize aesthetic descriptions as much as possible."
)
TEXT = (
    "You are a powerful image captioner. Create detailed captions describing the contents of the "
    "given image. Pay more attention to the text contents and the information they convey. Instead "
    "of describing the imaginary content, only describing the content one can determine "
    "confidently from the image. Do not describe the contents by itemizing them in list form. "
    "Minimize aesthetic descriptions as much as possible."
)


def _ask(prompts: tuple[TeacherPrompt, ...], source: str, image_id: str = "a") -> str:
    planned = {"source": source, "image_id": image_id, "payload": None}
    return choose_question([prompt.prompt for prompt in prompts], planned).text


def test_published_prompts_are_word_for_word() -> None:
    prompts = compose_prompts(0.0)
    assert {_ask(prompts, source) for source in ("coco", "lcs", "sam", "holiday")} == {GENERAL}
    assert _ask(prompts, "textcaps") == TEXT


@pytest.mark.parametrize("source", ["landmark", "celebrity", "wikiart"])
def test_what_was_never_published_is_labelled_ours(source: str) -> None:
    prompts = compose_prompts(0.0)
    text = _ask(prompts, source)
    assert OURS[f"ours.{source}"] in text
    label = label_texts(prompts)[text]
    assert label == f"head + general + ours.{source} + tail.1 + tail.2 + tail.3"
    assert not PUBLISHED.keys() & OURS.keys()
    assert all(name.startswith("ours.") for name in OURS)


def test_a_stated_share_of_each_source_gets_the_aesthetic_request_and_loses_its_contradiction() -> (
    None
):
    prompts = compose_prompts(0.25)
    labels = label_texts(prompts)
    for source in ("coco", "landmark", "holiday"):
        asked = Counter(labels[_ask(prompts, source, f"{source}/{n}")] for n in range(4000))
        [plain, other] = sorted(asked, key=lambda label: "aesthetic" in label)
        assert abs(asked[other] / 4000 - 0.25) < 0.03
        assert "tail.3" in plain
        assert "tail.3" not in other
        assert "tail.1 + tail.2" in other
    assert {p.weight for p in compose_prompts(1.0)} == {1.0}
    assert all("ours.aesthetic" in p.parts for p in compose_prompts(1.0))


def test_naming_of_real_people_is_switched_by_source() -> None:
    prompts = compose_prompts(0.0, unnamed=("celebrity",))
    assert OURS["ours.celebrity"] not in _ask(prompts, "celebrity")
    assert OURS["ours.unnamed"] in _ask(prompts, "celebrity")
    assert _ask(prompts, "coco") == GENERAL
    everywhere = compose_prompts(0.0, unnamed=("*",))
    assert all(OURS["ours.unnamed"] in _ask(everywhere, s) for s in ("coco", "landmark", "x"))
    assert OURS["ours.landmark"] in _ask(everywhere, "landmark")


def test_other_sources_may_be_left_without_a_prompt() -> None:
    prompts = compose_prompts(0.0, others=None)
    planned = {"source": "holiday", "image_id": "a", "payload": None}
    found = choose_question([prompt.prompt for prompt in prompts], planned)
    assert found.problem == "no_prompt"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"unnamed": ("people",)}, "unnamed: found 'people'"),
        ({"endpoint": Endpoint()}, "endpoint.url: found none"),
        ({"plan": True, "retry_errors": True}, "plan: found --plan and --retry-errors"),
        ({"budget": {"spending": 5.0}}, "budget.spending: needs prices"),
        ({"batch": {"enabled": True}, "ladder": {"temperatures": (0.5,)}}, "batch: found"),
        ({"aesthetic_share": 1.5}, "aesthetic_share"),
    ],
)
def test_settings_that_do_not_fit_are_one_sentence(changes: dict[str, object], words: str) -> None:
    about = {"input": ("images",), "output": "out", "model": "teacher"}
    about |= {"endpoint": {"url": ("http://127.0.0.1:9/v1",)}} | changes
    with pytest.raises(ConfigError, match=words):
        CollectJob(**about)  # type: ignore[arg-type]
