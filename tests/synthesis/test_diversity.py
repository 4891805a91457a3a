"""Near-duplicate prompts, keywords that nobody wrote, and the split by prompt."""

import json
import re
from collections import Counter

import pytest

from s4v_core.synthesis.assembly import choose_split
from s4v_core.synthesis.diversity import NearDuplicates, find_distinct, measure_coverage
from s4v_core.synthesis.entries import read_entries
from s4v_core.synthesis.production import describe_duplicates
from s4v_core.synthesis.text_stages import sort_entries
from tests.conftest import SHARED_DATA

RELEASED = SHARED_DATA / "benchmarks" / "stablellava" / "color.json"
BASE = "((red panda)), bamboo forest, branch, soft light, realistic, highly detailed, morning mist"


def test_equal_and_near_prompts_are_found_and_others_are_not() -> None:
    known = NearDuplicates(0.8)
    assert known.add("a", BASE) is None
    equal = known.add("b", BASE.upper().replace(", ", ",  "))
    assert equal
    assert (equal.of, equal.similarity) == ("a", 1.0)
    near = known.add("c", f"{BASE}, 4k")
    assert near
    assert near.of == "a"
    assert 0.8 <= near.similarity < 1
    assert known.add("d", "((steam train)), viaduct, mountains, autumn, high resolution") is None
    assert known.add("e", BASE.replace("red panda", "grey wolf").replace("bamboo", "pine")) is None


def test_a_copy_of_a_dropped_prompt_is_dropped_for_the_one_that_was_kept() -> None:
    found = find_distinct([("a", BASE), ("b", f"{BASE}, 4k"), ("c", f"{BASE}, 4k")], 0.8)
    assert found.kept == ["a"]
    assert [twin.of for twin in found.twins] == ["a", "a"]


def test_the_order_decides_and_nothing_else() -> None:
    prompts = [(str(n), f"((thing {n})), place {n % 7}, light {n % 3}, style") for n in range(200)]
    once, again = find_distinct(prompts, 0.8), find_distinct(prompts, 0.8)
    assert once.kept == again.kept
    assert once.twins == again.twins


def test_coverage_counts_whole_keywords_and_names_those_that_are_missing() -> None:
    prompts = [("1", "((Teal-teapot)), kitchen"), ("2", "((scarlet car)), road"), ("3", "((tea))")]
    found = measure_coverage(prompts, ["teal", "car", "tea", "red panda"], {"3": "1"})
    assert (found.named, found.missing) == (3, ("red panda",))
    assert found.curve == ((1, 1), (2, 2), (3, 3))
    assert found.fresh[-1] == (3, pytest.approx(2 / 3))


@pytest.mark.skipif(not RELEASED.exists(), reason="needs the released StableLLaVA file")
def test_the_duplicates_of_the_released_file_are_found() -> None:
    rows = json.loads(RELEASED.read_text())
    counts = Counter(row["prompt"] for row in rows)
    entries = read_entries(str(RELEASED))
    assert len(entries) == len(rows) == 1983
    assert {entry.ability for entry in entries} == {"color"}
    assert all("<image>" not in entry.question for entry in entries)
    kept, distinct = sort_entries(entries, 1.0)
    same_words = {tuple(re.findall(r"[^\W_]+", prompt.casefold())) for prompt in counts}
    assert len(kept) == len(same_words) <= len(counts)
    assert len(kept) + len(distinct.twins) == len(rows)
    text = describe_duplicates(entries, distinct)
    assert f"{len(counts):,} prompts, at most {max(counts.values())} rows of one prompt" in text
    fewer, _ = sort_entries(entries, 0.8)
    assert len(fewer) < len(kept)


def test_all_rows_of_a_prompt_fall_into_the_same_split() -> None:
    prompts = [f"((thing {n})), place, light" for n in range(4000)]
    splits = [choose_split(prompt, 0.1) for prompt in prompts]
    assert splits == [choose_split(prompt.upper().replace(", ", " ,"), 0.1) for prompt in prompts]
    assert 0.07 < splits.count("test") / len(splits) < 0.13
    larger = [choose_split(prompt, 0.2) for prompt in prompts]
    assert all(b == "test" for a, b in zip(splits, larger, strict=True) if a == "test")
    assert {choose_split(prompt, 0.0) for prompt in prompts} == {"train"}
