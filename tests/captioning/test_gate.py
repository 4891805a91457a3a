"""The gate names the fault of bad captions and accepts good captions of every style."""

import json
import random
from collections.abc import Callable, Iterator
from itertools import islice

import pytest

from s4v_core import prompts
from s4v_core.captioning.gate import RULES, Gate
from s4v_core.demo import texts
from s4v_core.demo.scenes import draw_scenes
from s4v_core.errors import ConfigError
from tests.conftest import SHARED_DATA

GOOD = (
    "The image captures a busy street in the rain. People with umbrellas, most of them black, "
    "hurry past a shop window, while a red bus waits at the corner.",
    "A donut shop is full of different flavors of donuts.",
    "In the centre of the image stands a wooden table. On the table is a vase, and in the vase are "
    "three white roses. Behind the table there is a window; through the window, hills are visible.",
    "A sign reads \u201c\u0421\u0442\u043e\u043f\u201d in Cyrillic letters, next to a "
    "caf\u00e9 called Chez Ren\u00e9e.",
    "a young boy barefoot holding an umbrella",
    "A page from a book with the words: \"very, very, very good\" printed on it in large letters.",
)  # fmt: skip
PROMPT = prompts.CAPTION

PlantFault = Callable[[str, random.Random], tuple[str, str]]


def _sentences(text: str) -> list[str]:
    return [part.strip() + "." for part in text.split(".") if part.strip()]


REFUSALS = (
    "I'm sorry, but I can't describe this image.",
    "I cannot assist with identifying people in pictures.",
    "Sorry, I am unable to help with that image.",
    "I\u2019m unable to provide a description of this picture.",
)
BOILERPLATE = (
    " The description is based on the visible content of the image.",
    " This caption does not contain any imaginary content.",
)
FAULTS: dict[str, tuple[str, PlantFault]] = {
    "nothing": ("empty", lambda text, chance: ("", "stop")),
    "white space": ("empty", lambda text, chance: (" \n" * chance.randint(1, 9), "stop")),
    "one word": ("too_short", lambda text, chance: (text.split()[0], "stop")),
    "two words": ("too_short", lambda text, chance: (" ".join(text.split()[:2]), "stop")),
    "cut": (
        "truncated_caption",
        lambda text, chance: (text[: chance.randint(20, len(text))], "length"),
    ),
    "a word over and over": (
        "looping",
        lambda text, chance: (f"{text} {' '.join(['the'] * chance.randint(8, 60))}", "length"),
    ),
    "a phrase over and over": (
        "looping",
        lambda text, chance: (text + " and a small dog" * chance.randint(5, 40), "length"),
    ),
    "a sentence over and over": (
        "looping",
        lambda text, chance: (
            " ".join([*_sentences(text), *[_sentences(text)[0]] * chance.randint(4, 20)]),
            "stop",
        ),
    ),
    "stopped by the engine": ("looping", lambda text, chance: (text, "repetition")),
    "a sign over and over": (
        "looping",
        lambda text, chance: (text + chance.choice("!.-a") * chance.randint(12, 99), "stop"),
    ),
    "boilerplate": (
        "boilerplate",
        lambda text, chance: (text + chance.choice(BOILERPLATE), "stop"),
    ),
    "an answer to the asker": (
        "boilerplate",
        lambda text, chance: (f"Sure! Here is a detailed description: {text}", "stop"),
    ),
    "refusal": ("refusal", lambda text, chance: (chance.choice(REFUSALS), "stop")),
    "a model of itself": (
        "refusal",
        lambda text, chance: (f"As an AI language model, I see: {text}", "stop"),
    ),
    "no picture": (
        "refusal",
        lambda text, chance: ("It seems that no image was provided. Please upload it.", "stop"),
    ),
    "another script": (
        "wrong_script",
        lambda text, chance: (
            "\u5728\u8fd9\u5f20\u56fe\u7247\u4e2d\u6709\u4e00\u4e2a\u4eba\u3002" * 2 + text[:8],
            "stop",
        ),
    ),
    "slipping into another script": (
        "wrong_script",
        lambda text, chance: (
            f"{text[:60]} " + "\u0441\u043e\u0431\u0430\u043a\u0430 " * 6,
            "stop",
        ),
    ),
    "bytes that are no text": (
        "garbled",
        lambda text, chance: (text.replace(" ", " \ufffd", chance.randint(1, 9)), "stop"),
    ),
    "numbers": (
        "garbled",
        lambda text, chance: (
            " ".join(str(chance.random())[2:] for _ in range(chance.randint(3, 30))),
            "stop",
        ),
    ),
    "the question": ("prompt_echo", lambda text, chance: (f"{PROMPT} {text}", "stop")),
    "the next turn": (
        "leaked_markup",
        lambda text, chance: (f"{text} USER: And the background?", "stop"),
    ),
    "marks of a template": (
        "leaked_markup",
        lambda text, chance: (text + chance.choice(["</s>", "<image>", "<|im_end|>"]), "stop"),
    ),
    "data": ("leaked_markup", lambda text, chance: (json.dumps({"caption": text}), "stop")),
}


def test_the_gate_names_at_least_99_of_100_planted_faults() -> None:
    chance, gate = random.Random(0), Gate()
    good = [*GOOD, *_demo_captions(20)]
    named = planted = 0
    for kind, (reason, fault) in FAULTS.items():
        for _ in range(50):
            text, finish = fault(chance.choice(good), chance)
            found = gate.judge(text, finish, PROMPT)
            assert found is not None, f"{kind}: {text!r} passed"
            planted += 1
            named += found == reason
    assert planted >= 1000
    assert len(FAULTS) >= 20
    assert named >= 0.97 * planted  # a text may be wrong in two ways


def _demo_captions(count: int) -> list[str]:
    return [texts.write_caption(scene) for scene, _ in islice(draw_scenes(3), count)]


@pytest.mark.parametrize("text", [*GOOD, *_demo_captions(30)])
def test_good_captions_pass(text: str) -> None:
    assert Gate().judge(text, "stop", PROMPT) is None


def human_and_model_captions() -> Iterator[str]:
    folder = SHARED_DATA / "benchmarks" / "captions"
    for name in ("iiw400", "iiw_dci_test", "iiw_docci_test"):
        for line in (folder / f"{name}.jsonl").read_text().splitlines():
            record = json.loads(line)
            yield from (record[k] for k in ("IIW", "IIW-P5B", "DOCCI", "DCI") if record.get(k))
    for line in (folder / "caps_boxes_coco2014_val_80.jsonl").read_text().splitlines():
        yield from json.loads(line)["captions"]
    for line in (folder / "coco2014_val_gpt4_qa_30x3.jsonl").read_text().splitlines():
        yield json.loads(line)["output"]
    for record in json.loads((folder / "captions_val2014_fakecap_results.json").read_text()):
        yield record["caption"]
    format_folder = SHARED_DATA / "benchmarks" / "sharegpt4v_format"
    for record in json.loads((format_folder / "gpt4v_captions_5.json").read_text()):
        yield from (turn["value"] for turn in record["conversations"] if turn["from"] == "gpt")


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="needs the captions of the shared data")
def test_at_most_one_in_two_hundred_captions_of_people_and_models_is_rejected() -> None:
    captions = list(human_and_model_captions())
    assert len(captions) >= 2000
    rejected = [text for text in captions if Gate().judge(text, "stop", PROMPT)]
    assert len(rejected) <= 0.005 * len(captions), rejected


def test_a_gate_can_have_other_rules_or_none() -> None:
    assert Gate(enabled=False).judge("", "length") is None
    assert Gate(script="CJK").judge("\u5728\u8fd9\u5f20\u56fe\u7247\u4e2d\u3002", "stop") is None
    assert Gate(max_words=3).judge("A cat and a dog.", "stop") == "too_long"
    assert Gate(allow_truncated=True).judge("A cat and a", "length") is None
    with pytest.raises(ConfigError, match="found KLINGON, allowed LATIN"):
        Gate(script="KLINGON")


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_a_switch(rule: str) -> None:
    chance = random.Random(1)
    kinds = [fault for reason, fault in FAULTS.values() if reason == rule]
    kinds = kinds or [lambda text, chance: (text, "stop")]  # too_long
    strict = Gate(max_words=20 if rule == "too_long" else None)
    off = strict.replace(skip=(f" {rule} ",))
    for fault in kinds:
        text, finish = fault(GOOD[0], chance)
        assert strict.judge(text, finish, PROMPT) == rule
        assert off.judge(text, finish, PROMPT) != rule


def test_switches_are_named_one_by_one_or_with_commas() -> None:
    text, finish = '{"caption": "A cat"}', "length"
    assert Gate().judge(text, finish) == "leaked_markup"
    assert Gate(skip=("leaked_markup",)).judge(text, finish) == "truncated_caption"
    assert Gate(skip=("leaked_markup, truncated_caption",)).judge(text, finish) is None
    with pytest.raises(ConfigError, match="skip: found 'leaked', allowed looping, leaked_markup"):
        Gate(skip=("leaked",))
    with pytest.raises(ConfigError, match="skip: found 'empty'"):
        Gate(skip=("empty",))


@pytest.mark.parametrize(
    "text",
    [
        '{"caption": "A cat sits on a mat", "n": [1, 2, 3, 4, 5, 6, 7, 8, 9]}',
        '["a small cat", "a red mat"]',
        '```json\n{"caption": "A cat on a mat"}\n```',
        "```\nA cat sits on a mat.\n```",
    ],
)
def test_json_and_fences_pass_where_they_are_wanted(text: str) -> None:
    assert Gate().judge(text, "stop") in ("leaked_markup", "garbled")
    assert Gate(allow_json=True).judge(text, "stop") is None
    assert Gate(allow_json=True).judge("A cat on a mat.</s>", "stop") == "leaked_markup"
    assert Gate(allow_json=True).judge(GOOD[0], "stop") is None
