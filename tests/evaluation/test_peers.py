"""The same answers read by other packages: they agree, or the difference is listed with its cause.

Needs single modules of lmms-eval 0.7.3 and ms-vlmeval 0.0.20, never their requirements: unpack both
wheels (`pip download --no-deps`) into one folder and name it as S4V_PEERS.
"""

import importlib.util
import itertools
import logging
import os
import random
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from s4v_core.evaluation.parsers import parse_letter, parse_mme
from s4v_core.evaluation.vqa_words import normalise_upload, normalise_words

PEERS = Path(os.environ.get("S4V_PEERS", "/nowhere"))
OPTIONS = {"A": "cat", "B": "a running dog", "C": "two birds", "D": "none of these"}


def _load(monkeypatch: pytest.MonkeyPatch, path: str) -> Any:
    file = PEERS / path
    if not file.exists():
        pytest.skip("needs S4V_PEERS")
    logger = logging.getLogger("peer")
    stubs = {
        "loguru": {"logger": logger},
        "vlmeval": {},
        "vlmeval.smp": {},
        "vlmeval.smp.log": {"get_logger": logging.getLogger},
    }
    for name, content in stubs.items():
        stub = types.ModuleType(name)
        stub.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, stub)
    spec = importlib.util.spec_from_file_location("peer", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_uploads_are_normalised_as_by_lmms_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    module = _load(monkeypatch, "lmms_eval/tasks/_task_utils/vqa_eval_metric.py")
    processor = module.EvalAIAnswerProcessor()
    chance = random.Random(0)
    pieces = [*processor.CONTRACTIONS, *processor.PUNCTUATIONS, *processor.ARTICLES, "Two", "man's"]
    pieces += ["1,000", "2.5", "10.", ".", " ", "\n", "'", "x", "cat", "…", "É", "是"]
    texts = ["".join(chance.choices(pieces, k=chance.randint(1, 6))) for _ in range(20_000)]
    texts += list(processor.CONTRACTIONS)
    differing = [text for text in texts if normalise_upload(text) != processor(text)]
    assert differing == []
    assert all(
        normalise_words(wrong) == processor.process_digit_article(wrong)
        for wrong in processor.CONTRACTIONS
    )


# lmms-eval takes a lone letter, and removes periods before it looks at four characters.
OTHER_YES_NO = {"Y": "yes", "y": "yes", "n": "no", "N.": "no", ".. no": "no"}


@pytest.mark.parametrize(
    "reply",
    [
        *("Yes", " yes", "yes.", "No, it is not", "The answer is yes", "Answer: yes", "I know", ""),
        *("not sure", "None", "North", "Nope", "yes and no", "Noodles", "**Yes**", "YES!", "(no)"),
        *("eyes", "know", "A: no", "nonsense", "y e s", "\u202eyes", "是"),
        *OTHER_YES_NO,
    ],
)
def test_yes_and_no_of_mme_are_read_as_by_lmms_eval(
    reply: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = _load(monkeypatch, "lmms_eval/tasks/mme/utils.py").parse_pred_ans(reply)
    assert theirs == OTHER_YES_NO.get(reply, parse_mme(reply) or "other")


LETTERS = [  # reply, VLMEvalKit's can_infer, lmms-eval's extract_mcq_answer, and ours
    ("A", "A", "A", "A"),
    ("A.", "A", "A", "A"),
    ("A. cat", "A", "A", "A"),
    ("(A)", "A", "A", "A"),
    ("The answer is A.", "A", "A", "A"),
    ("Answer: A", "A", "A", "A"),
    ("a", None, None, "A"),  # ours: a lone letter in either case
    ("A cat is shown in it", "A", "A", "A"),
    ("cat", "A", None, "A"),
    ("It is a cat", "A", None, "A"),
    ("A or B", None, "A", None),
    ("**B**", "B", "B", "B"),
    ("", None, None, None),
]


@pytest.mark.parametrize(("reply", "vlmeval", "lmms", "ours"), LETTERS)
def test_letters_are_read_as_in_the_table(
    reply: str,
    vlmeval: str | None,
    lmms: str | None,
    ours: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matching = _load(monkeypatch, "vlmeval/utils/matching_util.py")
    assert (matching.can_infer(reply, dict(OPTIONS)) or None) == vlmeval
    mcq = _load(monkeypatch, "lmms_eval/tasks/_task_utils/mcq_extract.py")
    assert (mcq.extract_mcq_answer(reply, list(OPTIONS)) or None) == lmms
    assert parse_letter(reply, OPTIONS) == ours


def test_plain_letters_are_read_alike_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    matching = _load(monkeypatch, "vlmeval/utils/matching_util.py")
    mcq = _load(monkeypatch, "lmms_eval/tasks/_task_utils/mcq_extract.py")
    forms = ("{}", "{}.", "({})", "{}. {}", "The answer is {}.", "Answer: {}", "{}:", "{}) {}")
    for form, (letter, text) in itertools.product(forms, OPTIONS.items()):
        reply = form.format(letter, text)
        found = parse_letter(reply, OPTIONS)
        assert found == letter
        assert mcq.extract_mcq_answer(reply, list(OPTIONS)) == letter
        assert matching.can_infer(reply, dict(OPTIONS)) == letter
