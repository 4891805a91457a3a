"""The preflight of a checkpoint: what its processor makes of a prompt and a picture, and the length
that they need, before anything is written.

The checkpoint's processor takes seconds and a lot of memory to load, so it runs in a child process;
what it found is kept in this node's scratch space.
"""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from s4v_core.engines.thinking import is_thinking_open
from s4v_core.environment import find_scratch_folder
from s4v_core.errors import ConfigError

_START_LIMIT_S = 300
"""Seconds for the child on a busy machine; a few are usual."""

_TAIL_CHARACTERS = 60
_ROUND_TO = 64
"""Lengths are multiples of this many tokens, as key-value caches are cut into blocks."""

_SMALLEST_STEP = 8192
"""Tokens of an engine's step if nothing larger is needed: 13 prompts of ShareGPT4V-7B, with room to
decode beside them."""


@dataclass(frozen=True, slots=True)
class Question:
    """A checkpoint and the use that is to be made of it.

    Attributes:
        model: Folder or hub id that loaders can open.
        revision: Of the checkpoint, to know it again.
        template: Name of the chat template.
        prompts: Every prompt text of the pass; the longest counts.
        spare_tokens: Room for what columns put into prompts.
        size_px: A picture has at most the square of this many pixels.
        is_fixed: Every picture is a square with that side.
        answer_tokens: Longest answer.
        length: Length that the user asks for; None: what is needed.
        options: Arguments for the processor.
        length_flag: The flag that shortens the longest answer.
    """

    model: str
    revision: str
    template: str
    prompts: tuple[str, ...]
    spare_tokens: int
    size_px: int
    is_fixed: bool
    answer_tokens: int
    length: int | None
    options: dict[str, Any]
    length_flag: str = "--sampling.max-tokens"


@dataclass(frozen=True, slots=True)
class Preflight:
    """The findings about a checkpoint, a picture and a prompt.

    Attributes:
        tail: End of the rendered prompt.
        stops: Tokens that end an answer, as texts.
        switches: Variables of the template that turn thinking off.
        thinks: Whether prompts end inside a thought, which is then cut off from the answer.
        prompt_tokens: Longest prompt, with the picture that takes the most tokens.
        size_px: A picture has at most the square of this many pixels.
        longest: Tokens that the model has positions for.
        max_model_len: Length that prompt and answer need.
        kv_values: Numbers that the model's key-value cache holds per token.
    """

    tail: str
    stops: tuple[str, ...]
    switches: tuple[str, ...]
    thinks: bool
    prompt_tokens: int
    size_px: int
    longest: int
    max_model_len: int
    kv_values: int

    @property
    def max_num_batched_tokens(self) -> int:
        """Tokens of an engine's step that hold any picture whole."""
        return max(_round_up(self.prompt_tokens), _SMALLEST_STEP)


class UntriedError(ConfigError):
    """A preflight that could not be made: engine vllm may know better how to use the checkpoint."""


def check_checkpoint(question: Question) -> Preflight:
    """Run the preflight, or recall what it found.

    Raises:
        UntriedError: transformers cannot load the checkpoint's processor or render its prompt.
        ConfigError: The checkpoint cannot be used like this; one sentence says why.
    """
    kept = find_scratch_folder("preflight") / f"{_digest(question)}.json"
    found = _recall(kept)
    if found is None:
        found = _run_child(question)
        if "problem" in found:
            raise (ConfigError if found["is_final"] else UntriedError)(found["problem"])
        _keep(kept, found)
    return Preflight(**found | {name: tuple(found[name]) for name in ("stops", "switches")})


def measure(question: Question) -> Preflight:
    """The preflight itself, in the process that loads the processor.

    Raises:
        ConfigError: The checkpoint cannot be used like this.
    """
    from s4v_core.engines.model_shape import read_model_shape
    from s4v_core.engines.picture_tokens import PictureTokens
    from s4v_core.engines.rendering import load_renderer

    shape = read_model_shape(question.model)
    try:
        renderer, processor = load_renderer(question.model, question.template)
        prompts = [renderer.question_text(prompt) for prompt in question.prompts]
    except ConfigError as error:
        raise UntriedError(str(error)) from error
    longest_prompt = max(prompts, key=len)
    pictures = PictureTokens(processor, longest_prompt, question.options)
    size_px, tokens = _fit_picture(question, pictures, shape.longest)
    needed = tokens + question.spare_tokens + question.answer_tokens
    length = min(question.length or _round_up(needed), shape.longest)
    found = Preflight(
        tail=longest_prompt[-_TAIL_CHARACTERS:],
        stops=renderer.describe_tokens(_list_ends(question.model, renderer.find_turn_end())),
        switches=renderer.switches,
        thinks=is_thinking_open(longest_prompt),
        prompt_tokens=tokens + question.spare_tokens,
        size_px=size_px,
        longest=shape.longest,
        max_model_len=length,
        kv_values=shape.kv_values,
    )
    renderer.close()
    return found


def _list_ends(model: str, turn_end: int | None) -> list[int]:
    """Ids that end an answer: the checkpoint's, and the one that its template ends turns with."""
    from transformers import AutoConfig, GenerationConfig

    try:
        ends = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:  # no generation_config.json
        ends = AutoConfig.from_pretrained(model).get_text_config().eos_token_id
    found = [] if ends is None else list(ends) if isinstance(ends, list) else [ends]
    return found if turn_end is None or turn_end in found else [*found, turn_end]


def _fit_picture(question: Question, pictures: Any, longest: int) -> tuple[int, int]:
    """The largest side of pictures that fit, and the tokens of the longest prompt with one."""
    from s4v_core.engines.picture_tokens import find_largest_area

    room = min(question.length or longest, longest)
    most = room - question.answer_tokens - question.spare_tokens
    if question.is_fixed:
        tokens = pictures.count((question.size_px, question.size_px))
        area: int | None = question.size_px**2 if tokens <= most else None
    else:
        area = find_largest_area(pictures.count_most, most, question.size_px**2)
        tokens = pictures.count_most(area or question.size_px**2)
    if area is None:
        limit = "--settings.max-model-len" if room < longest else "the model's own limit"
        raise ConfigError(
            f"settings.max_model_len: found {room} ({limit}), needed "
            f"{_round_up(tokens + question.spare_tokens + question.answer_tokens)}: a picture and "
            f"its prompt take up to {tokens + question.spare_tokens} tokens, the answer up to "
            f"{question.answer_tokens} ({question.length_flag})"
        )
    return (question.size_px if question.is_fixed else int(area**0.5)), tokens


def _round_up(tokens: int) -> int:
    return -(-tokens // _ROUND_TO) * _ROUND_TO


def _digest(question: Question) -> str:
    about = asdict(question) | {"transformers": metadata.version("transformers"), "format": 1}
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


def _recall(kept: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(kept.read_text())
    except (OSError, ValueError):
        return None
    return found


def _keep(kept: Path, found: dict[str, Any]) -> None:
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(found))
        partial.replace(kept)
    except OSError:
        pass  # the next run measures again


def _run_child(question: Question) -> dict[str, Any]:
    code = "from s4v_core.engines.preflight import run_child; run_child()"
    try:
        child = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(asdict(question)).encode(),
            capture_output=True,
            timeout=_START_LIMIT_S,
            check=False,
            # The package may only be on this process's path (a job's working dir).
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    except subprocess.TimeoutExpired:
        problem = f"model: the processor of {question.model} did not load in {_START_LIMIT_S} s"
        return {"problem": f"{problem}; is this machine busy?", "is_final": False}
    lines = child.stdout.splitlines()
    if child.returncode or not lines:
        words = child.stderr.decode(errors="replace").strip().splitlines()
        why = words[-1] if words else f"exit code {child.returncode}"
        problem = f"model: {question.model} cannot be read by transformers: {why}"
        return {"problem": problem, "is_final": False}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def run_child() -> None:
    """The child's main: a Question as JSON on stdin, a Preflight or a problem as JSON on stdout."""
    question = Question(**json.load(sys.stdin))
    try:
        found = asdict(measure(question))
    except ConfigError as error:
        found = {"problem": str(error), "is_final": not isinstance(error, UntriedError)}
    except ImportError as error:
        problem = f"model: the processor of {question.model} needs a package: {error}"
        found = {"problem": problem, "is_final": True}
    sys.stdout.write(f"{json.dumps(found)}\n")
