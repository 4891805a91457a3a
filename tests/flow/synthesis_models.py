"""Writers and painters of engine fake that misbehave, for test_synthesis.py."""

import hashlib
import io

import numpy as np
from PIL import Image

from s4v_core.engines.requests import Drawing, Generation, Request, refuse
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.synthesis import scripted

WRONG = {
    "empty": lambda prompt: "",
    "refusal": lambda prompt: "I'm sorry, but I cannot help with that.",
    "prompt_changed": lambda prompt: f"{prompt}, 4k\nA description.",
    "wrong_number_of_lines": lambda prompt: f"{prompt}\nOne line.\nAnother line.",
    "brackets_in_answer": lambda prompt: f"{prompt}\nA ((thing)) is there.",
    "other_language": lambda prompt: f"{prompt}\nDas ist ein roter Kreis auf einem Bild und mehr",
    "too_long": lambda prompt: f"{prompt}\n{'x' * 100_000}",
    "truncated": lambda prompt: f"{prompt}\nA description that never",
    "engine_refused:content_filter": lambda prompt: "",
}
"""Answers in a wrong form, by the reason that they are rejected for."""


def write_wrongly(request: Request, sampling: SamplingConfig) -> Generation:
    """Answers in the form that the row's id names; `late` is right at the third attempt."""
    prompt = request.prompt.rsplit("Prompt: ", 1)[-1]
    form = request.key.partition("/")[0]
    right = Generation(f"{prompt}\nA circle is there.", "stop", 9, 9)
    if form == "right" or (form == "late" and sampling.seed >= 2):
        return right
    if form.startswith("engine_refused"):
        return refuse("content_filter")
    text = WRONG.get(form, WRONG["empty"])(prompt)
    return Generation(text, "length" if form == "truncated" else "stop", 9, 9)


def write_little(request: Request, sampling: SamplingConfig) -> Generation:
    """The scripted writer with a poor fantasy: one prompt in two is the same."""
    if "You may choose the keywords" not in request.prompt:
        return scripted.write(request, sampling)
    if int(request.key.rpartition("-")[2]) % 2:
        text = "((small red circle top left)), white background"
        return Generation(text, "stop", 9, 9)
    return scripted.write(request, sampling)


def paint_noise(request: Request, sampling: SamplingConfig) -> Generation:
    """A pattern of any prompt; black for prompts about night."""
    seed = int.from_bytes(hashlib.sha256(request.content.encode()).digest()[:4], "big")
    pixels = np.random.default_rng(seed).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    if "night" in request.prompt:
        pixels[:] = 0
    sink = io.BytesIO()
    Image.fromarray(pixels).resize((32, 32), Image.Resampling.NEAREST).save(sink, "PNG")
    return Generation(None, "stop", None, None, drawing=Drawing(sink.getvalue(), seed))
