"""The question of Table 2 as a task of the flow: a model judges each pair in both orders."""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from s4v_core.analysis.preference.question import COMPARABLE, A, B
from s4v_core.engines.requests import Generation, Generator, Picture, Request
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.flow.task import Prepared, Row, Task
from s4v_core.images.guard import GuardedDecoder
from s4v_core.images.policy import DecodeConfig, Framing, Refused
from s4v_core.records.contract import Contract, Words, result_schema

PROMPT = (
    "Here are two descriptions of this image.\n\nText 1:\n{first}\n\nText 2:\n{second}\n\n"
    "Which text describes the image better? Judge what a text says of the image: is it right, and "
    "is what matters there? Neither its length nor its place counts. Answer with 1, 2 or "
    "comparable, and with nothing else."
)

NO_VERDICT = "no_verdict"
"""Reason of a pair about which the judge said neither 1, 2 nor comparable."""

VERDICTS = Contract(
    folder="verdicts",
    schema=result_schema(
        "pair_id",
        # a, b or comparable: what the judge chose with a as text 1, and with b as text 1.
        pa.field("a_first", pa.string()),
        pa.field("b_first", pa.string()),
        # The answer that both orders agree on, else comparable.
        pa.field("verdict", pa.string()),
        pa.field("words", pa.string()),
        pa.field("engine", pa.string()),
    ),
    key="pair_id",
    words=Words(rows="pairs", made="judged", answers="verdicts"),
)

_FRAMING = Framing("fit", 1024)
_TRIES = (SamplingConfig(max_tokens=1024), SamplingConfig(max_tokens=1024, temperature=0.7))
_CHOICES = ("1", "2", COMPARABLE)
_FILLER = re.compile(
    r"an?|and|answer|are|best|better|caption|choice|description|final|image|is|it|my|of|one|option"
    r"|texts?|the|they|this|verdict"
)
"""Words that may stand beside a verdict. Any other one, such as a second number or `not`, may turn
its meaning."""
_LONGEST_WORDS = 500


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """A pair on its way to the judge.

    Attributes:
        reason: Why it cannot be judged; None if it can.
    """

    pair_id: str
    a: str = ""
    b: str = ""
    reason: str | None = None


class JudgePairs(Task[JudgedPair]):
    """Asks a model which of two captions is better, in both orders."""

    contract = VERDICTS
    picture_bytes = _FRAMING.max_bytes

    def prepare(self, planned: dict[str, Any], content: bytes | str | None) -> Prepared[JudgedPair]:
        texts = json.loads(planned["payload"])
        pair_id = planned["pair_id"]
        if not isinstance(content, bytes):
            return Prepared(JudgedPair(pair_id, reason=content or "not_found"))
        decoded = _open_decoder().decode(content)
        if isinstance(decoded, Refused):
            return Prepared(JudgedPair(pair_id, reason=decoded.reason))
        shape = (decoded.pixel_height, decoded.pixel_width, 3)
        picture = np.frombuffer(decoded.pixels, np.uint8).reshape(shape)
        return Prepared(JudgedPair(pair_id, texts["a"], texts["b"]), (picture,))

    async def answer(
        self, about: JudgedPair, pictures: tuple[Picture, ...], engine: Generator
    ) -> Row:
        if about.reason is not None:
            return self.fail(about, about.reason)
        row = self._make_row(about, "ok", None)
        words: list[str] = []
        for column, sides in (("a_first", (A, B)), ("b_first", (B, A))):
            texts = {A: about.a, B: about.b}
            prompt = PROMPT.format(first=texts[sides[0]], second=texts[sides[1]])
            request = Request(f"{about.pair_id} {column}", about.pair_id, pictures, prompt)
            found = await self._ask(request, engine, row)
            row["engine"] = engine.version
            if found.text is None:
                return row | {"status": "error", "reason": found.reason}
            words.append(found.text.strip()[:_LONGEST_WORDS])
            row["words"] = json.dumps(words, ensure_ascii=False)
            choice = read_choice(found.text)
            if choice is None:
                return row | {"status": "rejected", "reason": NO_VERDICT}
            row[column] = COMPARABLE if choice == COMPARABLE else sides[int(choice) - 1]
        is_agreed = row["a_first"] == row["b_first"]
        return row | {"verdict": row["a_first"] if is_agreed else COMPARABLE}

    async def _ask(self, request: Request, engine: Generator, row: Row) -> Generation:
        """The first answer with a verdict in it, or the last one; counts the attempts."""
        for sampling in _TRIES:
            found = await engine.generate(request, sampling)
            row["attempts"] += 1
            if found.text is None or read_choice(found.text):
                break
        return found

    def fail(self, about: JudgedPair, reason: str) -> Row:
        return self._make_row(about, "error", about.reason or reason)

    def _make_row(self, about: JudgedPair, status: str, reason: str | None) -> Row:
        row: Row = dict.fromkeys(("a_first", "b_first", "verdict", "words", "engine"))
        known = {"pair_id": about.pair_id, "status": status, "reason": reason, "attempts": 0}
        return row | known


def read_choice(text: str) -> str | None:
    """The choice that the last line of an answer states: 1, 2 or comparable; None if it states
    none, or says more than that."""
    lines = [line for line in text.splitlines() if line.strip()]
    words = re.findall(r"[\w.,'/-]*\w", lines[-1].lower()) if lines else []
    others = [word for word in words if not _FILLER.fullmatch(word)]
    return others[0] if len(others) == 1 and others[0] in _CHOICES else None


@lru_cache(maxsize=1)
def _open_decoder() -> GuardedDecoder:
    """One child per worker process."""
    return GuardedDecoder(DecodeConfig(), _FRAMING)
