import json
from collections import Counter
from pathlib import Path

import pytest

from s4v_core.datasets.image_sources import estimate_sam_tar, name_pattern, name_source
from s4v_core.datasets.mixing import mix_captions, parse_quotas
from s4v_core.errors import ConfigError, InputError
from tests.datasets.published import DETAIL, read_captions, read_mixture, write_array

QUOTAS = {"coco": 9, "lcs": 3, "sam": 9, "others": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_array(folder / "mixture.json", read_mixture(665, 30), indent=2)
    write_array(folder / "captions.json", read_captions(1000))
    return folder


def read_lines(path: Path) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_only_detailed_descriptions_are_replaced_within_the_quotas(
    data: Path, tmp_path: Path
) -> None:
    to = tmp_path / "mix.json"
    report = mix_captions(
        str(data / "mixture.json"), str(data / "captions.json"), str(to), QUOTAS, seed=7
    )
    before, after = (json.loads(p.read_text()) for p in (data / "mixture.json", to))
    captions = {r["id"]: r for r in json.loads((data / "captions.json").read_text())}
    changed = [at for at, (b, a) in enumerate(zip(before, after, strict=True)) if a != b]
    assert len(changed) == 23
    assert all(before[at]["conversations"][0]["value"].endswith(DETAIL) for at in changed)
    assert all(after[at] == captions[after[at]["id"]] for at in changed)
    assert len({after[at]["id"] for at in changed}) == 23
    sources = Counter(name_source(after[at]["image"]) for at in changed)
    assert (sources["coco"], sources["lcs"], sources["sam"]) == (9, 3, 9)
    assert sources.total() - 21 == 2
    assert (report.details, report.kept, report.dropped, report.records) == (30, 7, 0, 665)


def test_every_other_record_keeps_its_bytes(data: Path, tmp_path: Path) -> None:
    to = tmp_path / "mix.json"
    mix_captions(str(data / "mixture.json"), str(data / "captions.json"), str(to), QUOTAS, seed=7)
    before = (data / "mixture.json").read_bytes()
    captions = (data / "captions.json").read_text()
    after = to.read_text()
    for line in reversed(read_lines(Path(f"{to}.replaced.jsonl"))):
        # Put each replaced record back where its caption stands: the file is the old one again.
        name = line["caption"]["id"]
        start = captions.index('{\n  "id": "' + name + '"')
        text = captions[start : captions.index("\n }", start) + 3]
        assert after.count(text) == 1
        record = json.loads(before)[line["record"] - 1]
        old = json.dumps(record, ensure_ascii=False, indent=2)
        after = after.replace(text, "\n".join("  " + one for one in old.split("\n")).strip())
    assert after.encode() == before


def test_the_same_seed_gives_the_same_file_and_another_seed_another(
    data: Path, tmp_path: Path
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        args = str(data / "mixture.json"), str(data / "captions.json"), f"{tmp_path}/{name}.json"
        mix_captions(*args, QUOTAS, seed=seed)
    a, b, c = ((tmp_path / f"{name}.json").read_bytes() for name in "abc")
    assert a == b != c
    lines = (tmp_path / "a.json.replaced.jsonl").read_bytes()
    assert lines == (tmp_path / "b.json.replaced.jsonl").read_bytes()


def test_a_smaller_scale_takes_a_part_of_the_same_captions(data: Path, tmp_path: Path) -> None:
    found = {}
    for scale in (1.0, 1 / 3):
        to = f"{tmp_path}/{scale:.1f}.json"
        quotas = parse_quotas(["coco=9", "lcs=3", "sam=9"], scale)
        mix_captions(str(data / "mixture.json"), str(data / "captions.json"), to, quotas, seed=1)
        found[scale] = {line["caption"]["id"] for line in read_lines(Path(f"{to}.replaced.jsonl"))}
    assert len(found[1.0]) == 21
    assert len(found[1 / 3]) == 7
    assert found[1 / 3] < found[1.0]


@pytest.mark.parametrize("form", ["json", "jsonl", "parquet"])
def test_surplus_detailed_descriptions_can_be_dropped_in_every_form(
    data: Path, tmp_path: Path, form: str
) -> None:
    to = f"{tmp_path}/mix.{form}"
    report = mix_captions(
        str(data / "mixture.json"),
        str(data / "captions.json"),
        to,
        QUOTAS,
        seed=1,
        surplus="drop",
    )
    from s4v_core.datasets.record_files import read_record_file

    found = [span.value for span in read_record_file(to) if span.text]
    assert len(found) == report.records == 665 - 7
    assert report.dropped == 7
    lines = read_lines(Path(f"{to}.replaced.jsonl"))
    assert sum(line["caption"] is None for line in lines) == 7
    assert len(lines) == 30


def test_too_few_captions_or_descriptions_are_named(data: Path, tmp_path: Path) -> None:
    args = str(data / "mixture.json"), str(data / "captions.json"), f"{tmp_path}/mix.json"
    with pytest.raises(InputError, match=r"found 30 detailed descriptions .* needed 31"):
        mix_captions(*args, {"coco": 31}, seed=1)
    with pytest.raises(InputError, match=r"needed 9,000 captions of sam, found sam [0-9]+, others"):
        mix_captions(*args, {"sam": 9000}, seed=1)
    with pytest.raises(InputError, match="found 0 detailed"):
        mix_captions(*args, {"sam": 1}, seed=1, questions=["Who?"])
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_exists_ends_before_any_work(data: Path, tmp_path: Path) -> None:
    (tmp_path / "mix.json.replaced.jsonl").write_text("mine")
    args = str(data / "mixture.json"), str(data / "captions.json"), f"{tmp_path}/mix.json"
    with pytest.raises(ConfigError, match=r"replaced\.jsonl exists"):
        mix_captions(*args, QUOTAS, seed=1)


def test_quotas_are_read_and_refused() -> None:
    assert parse_quotas(["coco=9000", "other: flickr/=2"], 0.5) == {
        "coco": 4500,
        "other: flickr/": 1,
    }
    for text in ("coco", "coco=", "=3", "coco=-1", "coco=1.5"):
        with pytest.raises(ConfigError, match="quota: found"):
            parse_quotas([text])
    with pytest.raises(ConfigError, match="quota"):
        parse_quotas(["sam=1", "sam=2"])


@pytest.mark.parametrize(
    ("image", "source", "pattern"),
    [
        ("coco/train2017/000000000009.jpg", "coco", "coco/train#/#.jpg"),
        (
            "llava/llava_pretrain/images/00453/004539375.jpg",
            "lcs",
            "llava/llava_pretrain/images/#/#.jpg",
        ),
        ("sam/images/sa_570590.jpg", "sam", "sam/images/sa_#.jpg"),
        ("share_textvqa/images/00a1.jpg", "textcaps", "share_textvqa/images/*.jpg"),
        ("textvqa/train_images/0054c91397f2fe05.jpg", "textvqa", "textvqa/train_images/*.jpg"),
        ("web-celebrity/images/Choi_Min-sik.jpg", "celebrity", "web-celebrity/images/*.jpg"),
        ("vg/VG_100K_2/2.jpg", "vg", "vg/VG_#K_#/#.jpg"),
        ("flickr/1.png", "other: flickr/", "flickr/#.png"),
        ("1.png", "other", "#.png"),
    ],
)
def test_sources_and_patterns_are_told_by_the_path(image: str, source: str, pattern: str) -> None:
    assert (name_source(image), name_pattern(image)) == (source, pattern)
    assert name_source(None) == "text only"


def test_the_tar_of_a_sam_image_is_estimated() -> None:
    tars = [estimate_sam_tar(f"sam/images/sa_{n}.jpg") for n in (1, 223_750, 570_590, 570_591, 0)]
    assert tars == [0, 19, 50, None, None]
    assert estimate_sam_tar("coco/train2017/1.jpg") is None


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_mixture_of_665058_records_gets_23000_captions(tmp_path: Path) -> None:
    mixture = write_array(tmp_path / "mixture.json", read_mixture(665_058, 23_240))
    captions = write_array(tmp_path / "captions.json", read_captions(120_000))
    to = f"{tmp_path}/mix.json"
    quotas = {"coco": 9000, "lcs": 3000, "sam": 9000, "others": 2000}
    report = mix_captions(str(mixture), str(captions), to, quotas, seed=0)
    assert report.replaced == quotas
    assert report.records == 665_058
    places = {line["record"] for line in read_lines(Path(f"{to}.replaced.jsonl"))}
    assert len(places) == 23_000
    from s4v_core.datasets.record_files import read_record_file

    pairs = zip(read_record_file(str(mixture)), read_record_file(to), strict=True)
    for number, (old, new) in enumerate(pairs, 1):
        assert (new.text != old.text) == (number in places)
        assert new.before == old.before
