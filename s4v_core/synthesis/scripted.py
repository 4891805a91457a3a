"""A writer and a painter without models, for the demo world: engine fake calls these functions.

They read the very requests that models get, and stand in where no model is installed.
"""

import hashlib
import io
import random
import re

from s4v_core.demo.scenes import paint_scene
from s4v_core.engines.requests import Drawing, Generation, Request, refuse
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.synthesis.demo_world import ask_about, describe, invent_prompts
from s4v_core.synthesis.scene_prompts import read_scene

WRITER = f"python:{__name__}:write"
PAINTER = f"python:{__name__}:paint"

_TITLE = re.compile(r"(?:related to the|such as) \[([^\]]+)\]")
_OFFERED = re.compile(r"You may choose the keywords from these examples: ([^\n]+)\.\n")


def write(request: Request, sampling: SamplingConfig) -> Generation:
    """Answer a request for prompts, a description or a question about drawn scenes."""
    chance = random.Random(f"{request.content}/{sampling.seed}")
    title = _TITLE.search(request.prompt)
    if title is None:
        return refuse("the scripted writer knows the templates of synthesis alone")
    text = _answer(request.prompt, title[1], chance)
    return Generation(text, "stop", len(request.prompt.split()), len(text.split()))


def paint(request: Request, sampling: SamplingConfig) -> Generation:
    """Draw the scene of a prompt."""
    digest = hashlib.sha256(request.content.encode()).digest()
    seed = int.from_bytes(digest[:6], "big")
    sink = io.BytesIO()
    paint_scene(read_scene(request.prompt), random.Random(seed)).save(sink, "PNG")
    return Generation(None, "stop", None, None, drawing=Drawing(sink.getvalue(), seed))


def _answer(text: str, ability: str, chance: random.Random) -> str:
    offered = _OFFERED.search(text)
    if offered:
        return "\n".join(invent_prompts(ability, offered[1].split(", ")[0], chance))
    prompts = text.rsplit("Prompt: ", 1)[-1].split("\n")
    if "question-answer pair" in text:
        return "\n".join([*prompts, *ask_about(prompts, chance)[:2]])
    return "\n".join([*prompts, describe(ability, prompts)])
