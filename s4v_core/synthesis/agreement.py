"""Whether images show what their prompts say, by what a captioner sees in them.

An image agrees if one sentence of its caption names every word of the bracketed keyword, in any
inflection and order.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from s4v_core import storage
from s4v_core.synthesis.parsing import find_pair

FindForms = Callable[[str], Sequence[frozenset[str]]]
"""The words of a text, each as the set of words that it may be an inflection of."""

CHECKS_NAME = "agreement.jsonl"

_SMALL = "a an the of in on at to and or with through over under is are by for from its his her"
_SMALL_WORDS = frozenset(_SMALL.split())


@dataclass(frozen=True, slots=True)
class Check:
    """The comparison of an image with its prompt.

    Attributes:
        agrees: None if the image has no caption.
        missing: Words of the bracketed keyword that no one sentence of the caption names.
    """

    image_id: str
    ability: str
    agrees: bool | None
    missing: tuple[str, ...]
    prompt: str
    caption: str | None


def compare_images(
    images: Iterable[tuple[str, str, str]], captions: Mapping[str, str], find_forms: FindForms
) -> list[Check]:
    """Args:
    images: (image id, ability, prompt).
    captions: Captions by image id.
    """
    checks = []
    for image_id, ability, prompt in images:
        caption = captions.get(image_id)
        missing = tuple(find_missing(find_pair(prompt), caption or "", find_forms))
        agrees = None if caption is None else not missing
        checks.append(Check(image_id, ability, agrees, missing, prompt, caption))
    return checks


def find_missing(keyword: str, caption: str, find_forms: FindForms) -> list[str]:
    """The words of a keyword that the sentence nearest to it does not name."""
    words = [word for word in _split(keyword) if word not in _SMALL_WORDS]
    wanted = [(word, frozenset().union(*find_forms(word))) for word in words]
    best = [word for word, _ in wanted]
    for sentence in re.split(r"(?<=[.!?;])\s+", caption):
        said = frozenset().union(*find_forms(sentence))
        missing = [word for word, forms in wanted if not forms & said]
        best = min(best, missing, key=len)
    return best


def count_agreement(checks: Iterable[Check]) -> dict[str, tuple[int, int]]:
    """(images that agree, images with a caption) by ability."""
    agree, checked = Counter[str](), Counter[str]()
    for one in checks:
        if one.agrees is not None:
            checked[one.ability] += 1
            agree[one.ability] += one.agrees
    return {name: (agree[name], checked[name]) for name in checked}


def write_checks(output: str, checks: Iterable[Check]) -> None:
    lines = [json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in checks]
    storage.replace(storage.join(output, CHECKS_NAME), "".join(lines).encode())


def read_checks(output: str) -> list[Check]:
    """The checks of a stage; none if it did not run."""
    uri = storage.join(output, CHECKS_NAME)
    if storage.stat(uri) is None:
        return []
    rows = map(json.loads, storage.read(uri).decode().splitlines())
    return [Check(**row | {"missing": tuple(row["missing"])}) for row in rows]


def _split(text: str) -> list[str]:
    plain = re.sub(r"['\N{RIGHT SINGLE QUOTATION MARK}]s\b", "", text.casefold())
    return re.findall(r"[^\W_]+", plain)
