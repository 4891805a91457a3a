import unicodedata
from pathlib import Path

import pytest

from s4v_core.datasets.image_index import ImageIndex
from s4v_core.datasets.image_search import normalise_name, search_images
from tests.conftest import photo, write_tar

JPEG = photo(3, (16, 16))
CAFE = "café/é.jpg"

STORES: dict[str, dict[str, dict[str, bytes]]] = {
    "loose": {"": {"coco/train2017/1.jpg": JPEG, "a.jpg": JPEG, "deep/a.jpg": JPEG}},
    "one tar": {"x.tar": {"coco/train2017/1.jpg": JPEG, "./a.jpg": JPEG}},
    "two tars with one name": {"x.tar": {"a.jpg": JPEG}, "y.tar": {"a.jpg": JPEG, "b.jpg": JPEG}},
    "tars in folders": {"p/x.tar": {"a.jpg": JPEG}, "q/x.tar": {"b.jpg": JPEG}},
    "loose and tar": {"": {"a.jpg": JPEG}, "x.tar": {"a.jpg": JPEG}},
    "accents composed": {"": {CAFE: JPEG}},
    "accents decomposed": {"": {unicodedata.normalize("NFD", CAFE): JPEG}},
    "accents in a tar": {"x.tar": {unicodedata.normalize("NFD", CAFE): JPEG}},
}

NAMES = [
    *("a.jpg", "./a.jpg", "b.jpg", "x/a.jpg", "p/x/a.jpg", "q/x/b.jpg", "deep/../a.jpg"),
    *("coco/train2017/1.jpg", "coco//train2017/1.jpg", "train2017/1.jpg", "deep/a.jpg", "x.tar"),
    *(CAFE, unicodedata.normalize("NFD", CAFE), "A.JPG", "a.png", "file://a.jpg", ""),
]


def build_store(folder: Path, files: dict[str, dict[str, bytes]]) -> str:
    for archive, members in files.items():
        if archive:
            write_tar(folder / archive, members)
            continue
        for name, data in members.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    return str(folder)


@pytest.mark.parametrize("store", STORES)
def test_an_audit_and_training_agree_on_every_name(tmp_path: Path, store: str) -> None:
    place = build_store(tmp_path / "store", STORES[store])
    search = search_images(NAMES, [place])
    index = ImageIndex((place,), match_file_names=False)
    found = {name: index.find(name) for name in NAMES}
    wanted = {name: one if isinstance(one, str) else "ok" for name, one in found.items()}
    assert {name: search.judge(name) for name in NAMES} == wanted
    assert "ok" in wanted.values() or "ambiguous_image" in wanted.values()


def test_a_name_that_is_whole_is_the_very_same_text() -> None:
    name = "coco/train2017/000000000009.jpg"
    assert normalise_name(name) is name
    assert normalise_name("./a//b/../c.jpg") == "a/c.jpg"
    assert normalise_name("https://host//a.jpg") == "https://host//a.jpg"


def test_near_misses_of_images_that_are_found_are_not_kept(tmp_path: Path) -> None:
    place = build_store(tmp_path / "s", {"": {"a.jpg": JPEG, "old/a.jpg": JPEG, "old/b.jpg": JPEG}})
    search = search_images(["a.jpg", "b.jpg"], [place])
    assert list(search.near) == []
    place = build_store(tmp_path / "t", {"": {"old/x/b.jpg": JPEG, "a.jpg": JPEG}})
    search = search_images(["x/b.jpg", "a.jpg"], [place])
    assert {name: miss.kind for name, miss in search.near.items()} == {"x/b.jpg": "nested"}


def test_members_of_a_tar_of_a_whole_folder_are_found(tmp_path: Path) -> None:
    place = build_store(tmp_path / "s", {"sa_000000.tar": {"./sam/images/sa_1.jpg": JPEG}})
    assert search_images(["sam/images/sa_1.jpg"], [place]).judge("sam/images/sa_1.jpg") == "ok"
    found = ImageIndex((place,), match_file_names=False).find("sam/images/sa_1.jpg")
    assert not isinstance(found, str)
