"""Captions that deny what they name are found, and honest ones never are."""

import random
from itertools import islice

import pytest

from s4v_core.captioning.contradictions import find_contradiction
from s4v_core.captioning.gate import Gate
from s4v_core.demo.scenes import draw_scenes
from s4v_core.demo.texts import write_caption
from tests.captioning.test_gate import GOOD, human_and_model_captions
from tests.conftest import SHARED_DATA

CONTRADICTING = (
    (["A man sits on a chair. There are no people in the image."], "man"),
    (["There are no people visible. Two women wait at a bus stop."], "women"),
    (["No cars are visible. A red car is parked at the kerb."], "car"),
    (["There are no dogs or cats in the picture. The small dog sleeps."], "dog"),
    (["A street at night. The scene contains no vehicles.", "a street, a taxi"], "taxi"),
    (["There are no shapes in the image. At the top left is a large red circle."], "circle"),
)

HONEST = (
    "A beach at dawn. No people in the background. A man walks along the water.",
    "A cat lies on a sofa. There are no other animals.",
    "An empty street. There are no people in the image. A sign reads 'No dogs'.",
    "There are no people in the image. A statue looks like a man.",
    "There are no cars on the left side of the road, while a car waits on the right.",
    "A bench made for two people. There is no text.",
    "No man is an island, says a poster next to a man.",
)


@pytest.mark.parametrize(("texts", "named"), CONTRADICTING)
def test_what_is_named_and_denied_is_found(texts: list[str], named: str) -> None:
    found = find_contradiction(texts)
    assert found is not None
    assert found.named == named
    assert named in found.as_text()
    assert find_contradiction(texts[:1]) is None or len(texts) == 1


@pytest.mark.parametrize("text", [*HONEST, *GOOD])
def test_an_honest_caption_is_left_alone(text: str) -> None:
    assert find_contradiction([text]) is None


def test_a_denial_planted_into_captions_of_scenes_is_always_found() -> None:
    chance = random.Random(0)
    for scene, _ in islice(draw_scenes(11), 100):
        text = write_caption(scene)
        assert find_contradiction([text]) is None
        shape = chance.choice(scene.shapes).shape
        assert find_contradiction([f"{text} There is no {shape} in the image."]) is not None


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="needs the captions of the shared data")
def test_at_most_one_in_a_thousand_captions_of_people_and_models_is_flagged() -> None:
    captions = list(human_and_model_captions())
    assert len(captions) >= 2000
    flagged = [text for text in captions if find_contradiction([text])]
    assert len(flagged) <= 0.001 * len(captions), flagged


def test_the_gate_rejects_them_only_when_asked() -> None:
    [text], _ = CONTRADICTING[0]
    assert Gate().judge(text, "stop") is None
    assert Gate(refuse_contradictions=True).judge(text, "stop") == "contradiction"
    assert Gate(refuse_contradictions=True).judge(HONEST[0], "stop") is None
