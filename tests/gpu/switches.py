"""A table of the switches of training: tokens/s, utilisation and peak memory with each, on one GPU.

    python -m tests.gpu.switches                 # the 7B shape, under 12 minutes, without Ray
    python -m tests.gpu.switches --small         # a small shape, also on a CPU
    python -m tests.gpu.switches --small --apart # each row in a process of its own, for memory

Weights are random and samples are drawn, so that nothing is read or written. Where a GPU cannot
hold weights, gradients and moments of 7B parameters in fp32 (113 GB), the language model stays
frozen, and the table says so.
"""

import argparse
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import LlavaConfig

from s4v_core.errors import ConfigError
from s4v_core.model.builders import build_sharegpt4v_7b_config
from s4v_core.training.arithmetic.flops import Shape, find_peak_flops
from s4v_core.training.arithmetic.shapes import read_shape
from s4v_core.training.data.collation import Collator, MicroBatch, Sample
from s4v_core.training.lora import Lora
from s4v_core.training.stage import Learning, Optimiser
from s4v_core.training.worker import sharding
from s4v_core.training.worker.attention import choose_kernel
from s4v_core.training.worker.components import build_optimiser
from s4v_core.training.worker.fsdp_units import Switches
from s4v_core.training.worker.loss_module import LossModule
from s4v_core.training.worker.world import World, open_local_world
from tests.gpu.small_shape import small_config

ALL_LEARNS_GB = 130
WARM_UP_STEPS, STEPS = 2, 5


_DEFAULT = Switches()


@dataclass(frozen=True)
class Choice:
    """One row of the table: what differs from the first row."""

    name: str
    switches: Switches = _DEFAULT
    lora: Lora | None = None


CHOICES = (
    Choice("sdpa, checkpointing, reshard"),
    Choice("flash", Switches(kernel="flash")),
    Choice("flex", Switches(kernel="flex")),
    Choice("prefetch 1", Switches(prefetch=1)),
    Choice("no reshard", Switches(reshard_after_forward=False)),
    Choice("LoRA rank 64", lora=Lora(rank=64, alpha=128)),
    Choice("no checkpointing", Switches(activation_checkpointing=False)),
    Choice("compile", Switches(compile=True)),
    Choice("flash, compile", Switches(kernel="flash", compile=True)),
)


@dataclass(frozen=True)
class Measured:
    """The figures of one row; `problem` says why there are none. On a CPU the peak is what the
    process grew by since before the model was built."""

    name: str
    tokens_per_s: float = 0.0
    utilisation: float | None = None
    peak_gib: float = 0.0
    loss: float = float("nan")
    problem: str | None = None


def measure_switches(
    config: LlavaConfig, device: str, samples: int, minutes: float, choices: tuple[Choice, ...]
) -> Iterator[Measured]:
    """Measure row by row; rows for which there is no time left say so.

    Args:
        samples: Number of samples of a step, which is one micro-batch.
    """
    ends = time.monotonic() + 60 * minutes
    language = device == "cpu" or torch.cuda.get_device_properties(0).total_memory > (
        ALL_LEARNS_GB * 1e9
    )
    learning = Learning(vision_from=config.vision_config.num_hidden_layers // 2, language=language)
    batch = draw_batch(config, samples)
    with tempfile.TemporaryDirectory() as folder, open_local_world(device) as world:
        config.save_pretrained(folder)
        longest = 0.0
        for choice in choices:
            started = time.monotonic()
            if started + longest > ends:
                yield Measured(choice.name, problem="not measured: no time left")
                continue
            yield _measure(choice, Path(folder), config, learning, batch, world)
            longest = max(longest, time.monotonic() - started)


def draw_batch(config: LlavaConfig, samples: int) -> MicroBatch:
    """Samples with an image each, and texts of up to 576 tokens at the 7B shape; the first has
    1,382, so that others share a row."""
    vision = config.vision_config
    tokens = (vision.image_size // vision.patch_size) ** 2
    collator = Collator(config.image_token_id, tokens, config.pad_token_id, vision.image_size)
    chance = np.random.default_rng(0)
    found = []
    for number in range(samples):
        length = int(tokens * 2.4 if number == 0 else chance.integers(tokens // 8, tokens))
        ids = chance.integers(3, 1000, length).astype(np.int32)
        ids[1] = config.image_token_id
        pixels = chance.integers(0, 255, (vision.image_size,) * 2 + (3,), dtype=np.uint8)
        found.append(Sample(number, ids, np.arange(length) > length // 3, pixels))
    return collator.collate(found)


def _measure(
    choice: Choice,
    folder: Path,
    config: LlavaConfig,
    learning: Learning,
    batch: MicroBatch,
    world: World,
) -> Measured:
    dtype = torch.bfloat16 if world.device.type == "cuda" else torch.float32
    before = _read_resident_gib("VmRSS") if world.device.type == "cpu" else 0.0
    if choice.switches.kernel == "flex" and world.device.type == "cpu":
        return Measured(choice.name, problem="needs a GPU")
    if choice.lora is not None:
        learning = limit_learning(learning)
    try:
        choose_kernel(choice.switches.kernel, world.device, dtype)
        module = _build(folder, learning, world, dtype, choice)
        loss, seconds = _train(module, batch.to(world.device), world.device)
    except ConfigError:
        return Measured(choice.name, problem="needs a GPU with FlashAttention")
    except torch.OutOfMemoryError:
        return Measured(choice.name, problem="out of memory")
    finally:
        module = None
        gc.collect()
        torch.compiler.reset()
        if world.device.type == "cuda":
            torch.cuda.empty_cache()
    peak = find_peak_flops(torch.cuda.get_device_name()) if dtype == torch.bfloat16 else None
    flops = count_flops(read_shape(config), learning, batch, choice.lora is not None)
    return Measured(
        name=choice.name,
        tokens_per_s=batch.tokens / seconds,
        utilisation=peak and flops / seconds / peak,
        peak_gib=_read_peak_gib(world.device) - before,
        loss=loss,
    )


def limit_learning(learning: Learning) -> Learning:
    """The parts that learn where adapters are used: the vision tower does not."""
    return learning.replace(vision_from=None, language=True)


def count_flops(shape: Shape, learning: Learning, batch: MicroBatch, is_lora: bool) -> float:
    """Operations that the model needs for the step, as the loop counts them."""
    passes = 3 if learning.language and not is_lora else 2
    text = sum(shape.count_language_flops(tokens) for tokens in batch.lengths)
    image = shape.count_image_flops(learning.vision_from, False, learning.projector)
    return passes * text + batch.images * image


def _build(
    folder: Path, learning: Learning, world: World, dtype: torch.dtype, choice: Choice
) -> LossModule:
    """The product's module with random weights in place of those of files."""
    read = sharding._read_weights
    sharding._read_weights = lambda model, folder, family, seed: _draw_weights(model)
    try:
        return sharding.build_sharded_module(
            folder, learning, world.mesh, dtype, choice.switches, choice.lora
        )
    finally:
        sharding._read_weights = read


@torch.no_grad()
def _draw_weights(model: torch.nn.Module) -> None:
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        local = parameter.to_local()
        if name.endswith("lora_B.weight"):
            local.zero_()
        elif "norm" in name:
            local.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            local.normal_(std=0.02)


def _train(module: LossModule, batch: MicroBatch, device: torch.device) -> tuple[float, float]:
    """Loss of the last step, and seconds of a step behind the warm-up."""
    settings = Optimiser(learning_rate=1e-5)
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimiser = build_optimiser(parameters, settings)
    _forget_peak(device)
    started = 0.0
    for step in range(WARM_UP_STEPS + STEPS):
        if step == WARM_UP_STEPS:
            _wait(device)
            started = time.monotonic()
        loss = module(batch) / batch.learnt
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
        optimiser.step()
        optimiser.zero_grad()
    _wait(device)
    return float(loss.detach()), (time.monotonic() - started) / STEPS


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the highest resident set so far


def _read_peak_gib(device: torch.device) -> float:
    """Peak of the GPU's allocated memory; on a CPU that of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return _read_resident_gib("VmHWM")


def _read_resident_gib(name: str) -> float:
    """Resident memory of this process: VmRSS is that of now, VmHWM the highest."""
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith(name)]
    return int(line.split()[1]) / 2**20


def format_row(row: Measured) -> str:
    """A line of a Markdown table."""
    if row.problem:
        return f"| {row.name} | {row.problem} | | | |"
    used = "" if row.utilisation is None else f"{row.utilisation:.1%}"
    return (
        f"| {row.name} | {row.tokens_per_s:,.0f} | {used} | {row.peak_gib:.2f} | {row.loss:.4f} |"
    )


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="measure a small shape")
    parser.add_argument(
        "--minutes", type=float, default=11.0, help="time after which no row begins"
    )
    parser.add_argument("--samples", type=int, default=0, help="samples of a step")
    parser.add_argument("--row", help="measure only the row of this name, and print no head")
    parser.add_argument(
        "--apart", action="store_true", help="measure each row in a process of its own"
    )
    given = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not given.small:
        parser.error("the 7B shape needs a GPU; --small does not")
    config = small_config() if given.small else build_sharegpt4v_7b_config()
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {os.cpu_count()} cores"
    batch = given.samples or (4 if given.small else 16)
    write = sys.stdout.write
    if not given.row:
        write(f"{name}, {'small shape' if given.small else '7B shape'}, {batch} samples a step\n\n")
        write("| switches | tokens/s | MFU | peak GiB | loss |\n|---|---|---|---|---|\n")
    if given.apart:
        sys.stdout.flush()
        rest = [one for one in argv if one != "--apart"]
        for choice in CHOICES:
            command = [sys.executable, "-m", "tests.gpu.switches", *rest, "--row", choice.name]
            subprocess.run(command, check=True)
        return
    choices = tuple(one for one in CHOICES if given.row in (None, one.name))
    for row in measure_switches(config, device, batch, given.minutes, choices):
        write(format_row(row) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
