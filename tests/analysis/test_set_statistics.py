import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from s4v_core.analysis.caption_texts import list_texts, name_sets
from s4v_core.analysis.counting import count_captions
from s4v_core.analysis.set_statistics import WINDOW, SetStatistics, find_quantile
from s4v_core.errors import ConfigError, InputError
from tests.conftest import SHARED_DATA
from tests.datasets.published import read_captions, write_array
from tests.runs.finished_run import write_run

BENCHMARKS = SHARED_DATA / "benchmarks"
CLASSES = ("nouns", "adjectives", "adverbs", "verbs", "numerals", "prepositions")


def count(*texts: str) -> SetStatistics:
    total = SetStatistics()
    total.add(SetStatistics.count(texts))
    return total


def test_lengths_words_and_sentences_are_counted() -> None:
    found = count("A dog sits. It barks!", "Two cats.").describe()
    assert found["captions"] == 2
    assert found["characters"]["mean"] == (21 + 9) / 2
    assert found["words"]["mean"] == 3.5
    assert found["sentences_mean"] == 1.5
    assert found["tokens"] == 7
    assert found["shares"]["numerals"] == pytest.approx(1 / 7)
    assert found["openings"] == {"a dog sits": 1, "two cats": 1}


def test_repetition_is_told_inside_a_caption_and_between_captions() -> None:
    loop = "The cat is on the mat. " * 5
    found = count(loop, "A dog runs in the park.", "A  dog runs in the park.").describe()
    assert found["looping_captions"] == pytest.approx(1 / 3)
    assert found["repeated_captions"] == pytest.approx(1 / 3)
    assert found["repeated_groups"] > 0.5
    quiet = count("Every word here differs from all of its neighbours today.").describe()
    assert quiet["repeated_groups"] == quiet["looping_captions"] == 0


@pytest.mark.parametrize(
    ("text", "is_boilerplate"),
    [
        ("The image shows a dog.", True),
        ("In this picture, a dog runs.", True),
        ("This is an image of a dog.", False),
        ("The provided photo captures it.", True),
        ("A photograph of a dog.", True),
        ("The dog is in the image.", False),
        ("Imagery of a dog.", False),
    ],
)
def test_boilerplate_openings_are_told(text: str, is_boilerplate: bool) -> None:
    assert count(text).boilerplate == is_boilerplate


def test_variety_is_measured_over_windows_of_one_size() -> None:
    same = count(*["dog " * 100] * 30)
    assert same.windows == 3
    assert same.measure_variety(1) == 1 / WINDOW
    once, thrice = (count(*[f"word{n}" for n in range(1000)] * times) for times in (1, 3))
    assert once.measure_variety(1) == thrice.measure_variety(1) == 1.0
    assert count("a b a b").measure_variety(2) == pytest.approx(2 / 3)
    assert count("word").measure_variety(3) == 0


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.timeout(120)
def test_workers_and_parts_change_no_figure(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [r["conversations"][1]["value"] for r in read_captions(60, chars=300)]
    whole = count(*texts).describe()
    monkeypatch.setattr("s4v_core.analysis.counting._PART", 7)
    seen: list[int] = []
    found = count_captions(texts, workers, seen.append)
    assert found.describe() == whole
    assert sum(seen) == 60


def test_quantiles_are_lengths_that_occur() -> None:
    from collections import Counter

    lengths = Counter({10: 90, 100: 9, 1000: 1})
    assert [find_quantile(lengths, share) for share in (0.05, 0.9, 0.95, 1)] == [10, 10, 100, 1000]
    assert find_quantile(Counter(), 0.5) == 0


@pytest.mark.parametrize(
    ("record", "texts"),
    [
        ("A dog.", ["A dog."]),
        ({"coco/1.jpg": "A dog."}, ["A dog."]),
        ({"image_id": 5, "caption": "A dog."}, ["A dog."]),
        ({"image": "a.jpg", "captions": ["A dog.", "", "A cat."]}, ["A dog.", "A cat."]),
        ({"conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "A dog."}]},
         ["A dog."]),
        ({"messages": [{"role": "assistant", "content": "A dog."}]}, ["A dog."]),
        ({"conversations": [{"from": "human", "value": "?"}]}, []),
        ({"id": 1, "title": "A dog."}, []),
        (7, []),
    ],
)  # fmt: skip
def test_captions_are_found_in_the_usual_records(record: object, texts: list[str]) -> None:
    assert list_texts(record, None) == texts


def test_a_field_can_be_named_by_flag_and_by_place(tmp_path: Path) -> None:
    path = tmp_path / "two.jsonl"
    path.write_text(json.dumps({"id": 1, "long": "A big dog.", "short": "Dog."}) + "\n")
    long, short = name_sets((f"{path}#long", f"{path}"), "short")
    assert (long.name, short.name) == ("two long", "two")
    assert list(long.read()) == ["A big dog."]
    assert list(short.read()) == ["Dog."]
    with pytest.raises(InputError, match=r"no captions: found fields id, long, short; name one by"):
        list(name_sets((str(path),), None)[0].read())
    with pytest.raises(ConfigError, match="found none"):
        name_sets((), None)


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_array(tmp_path / folder / "captions.json", read_captions(2))
    places = tuple(f"{tmp_path}/{folder}/captions.json" for folder in ("a", "b"))
    assert [one.name for one in name_sets(places, None)] == ["captions", "captions'"]
    assert len(list(name_sets(places, None)[0].read(1))) == 1


def test_the_ok_captions_of_a_run_are_a_set(tmp_path: Path) -> None:
    write_run(tmp_path / "run", tmp_path, 300)
    [one] = name_sets((str(tmp_path / "run"),), None)
    captions = list(one.read())
    table = pq.read_table(tmp_path / "run" / "captions").to_pylist()
    wanted = [row["caption"] for row in table if row["status"] == "ok" and row["caption"]]
    assert sorted(captions) == sorted(wanted)
    assert captions
    assert one.name == "run"


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs the shared reference data")
@pytest.mark.parametrize(
    ("place", "captions", "tokens", "shares"),
    [
        ("captions/iiw400.jsonl#IIW", 400, 77_698, (27.4, 14.6, 3.0, 14.0, 1.0, 16.2)),
        ("captions/iiw400.jsonl#IIW-P5B", 100, 10_663, (30.1, 13.6, 1.2, 14.7, 0.5, 15.8)),
        ("sharegpt4v_format/gpt4v_captions_5.json", 5, 774, (28.9, 12.3, 2.3, 14.2, 0.8, 15.1)),
    ],
)
def test_the_shares_of_reference_captions_are_the_known_ones(
    place: str, captions: int, tokens: int, shares: tuple[float, ...]
) -> None:
    [one] = name_sets((str(BENCHMARKS / place),), None)
    found = count_captions(one.read(), 1).describe()
    assert (found["captions"], found["tokens"]) == (captions, tokens)
    assert tuple(round(100 * found["shares"][name], 1) for name in CLASSES) == shares


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs the shared reference data")
def test_human_captions_of_coco_have_the_length_of_table_1() -> None:
    path = BENCHMARKS / "captions" / "captions_val2014_fakecap_results.json"
    found = count_captions(name_sets((str(path),), None)[0].read(), 1).describe()
    assert round(found["characters"]["mean"]) == 52


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_1246901_captions_take_under_half_an_hour(tmp_path: Path) -> None:
    import time

    path = write_array(tmp_path / "all.json", read_captions(1_246_901, chars=826))
    start = time.monotonic()
    found = count_captions(name_sets((str(path),), None)[0].read())
    assert found.captions == 1_246_901
    assert time.monotonic() - start < 1800
