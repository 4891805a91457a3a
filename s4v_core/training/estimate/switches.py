"""The switches of speed and memory for `--plan`: which this job uses, and which it could use."""

from dataclasses import dataclass

from s4v_core.training.stage import TrainStage

_FLASH_GPUS = ("A100", "A10", "L4", "L40S", "H100", "H200", "B200")
"""GPUs that FlashAttention and bf16 are made for, as Ray names them."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The facts that the switches depend on.

    Attributes:
        is_gpu: Whether the job computes on GPUs.
        has_flash: Whether the GPU has the FlashAttention kernel; None if the GPU is not known.
    """

    is_gpu: bool
    has_flash: bool | None


def find_machine(job: TrainStage) -> Machine:
    """The machine that a job asks for; where it names no GPU, the one that is here."""
    if job.device == "cpu":
        return Machine(is_gpu=False, has_flash=False)
    if job.accelerator:
        words = job.accelerator.replace("_", "-").split("-")
        return Machine(True, True if set(words) & set(_FLASH_GPUS) else None)
    import torch

    if torch.cuda.is_available():
        return Machine(True, torch.cuda.get_device_capability() >= (8, 0))
    return Machine(job.device == "cuda", None if job.device == "cuda" else False)


def describe_switches(job: TrainStage, machine: Machine) -> str:
    """A table of the switches: its value in this job, and what this machine can use."""
    rows = [
        ("--attention", job.attention, _describe_attention(machine)),
        ("--compile", job.compile, "on any machine; the first steps take minutes longer"),
        *_list_sharding(job),
        (
            "--activation-checkpointing",
            job.activation_checkpointing,
            "on any machine; without it a step computes a quarter less and keeps all activations",
        ),
        ("--precision", job.precision, "bf16 and fp32" if machine.is_gpu else "fp32 alone"),
        (
            "--lora.rank",
            job.lora.rank,
            "on any machine; gradients and moments are those of the adapters alone",
        ),
    ]
    lines = [f"{name:<28}{_format(value):<12}{text}" for name, value, text in rows]
    return "\n".join(["switches: value in this job, and what this machine can use", *lines])


def _describe_attention(machine: Machine) -> str:
    if not machine.is_gpu:
        return "sdpa alone: flex and flash have no backward pass on CPUs"
    if machine.has_flash is None:
        return "sdpa and flex; flash from compute capability 8.0 on (A100)"
    if not machine.has_flash:
        return "sdpa and flex; flash needs compute capability 8.0 (A100) or newer"
    return "sdpa, flex and flash; the last two make no dense mask for rows that are shared"


def _list_sharding(job: TrainStage) -> list[tuple[str, object, str]]:
    workers = max(job.workers, 1)
    if workers == 1:
        alone = "nothing to gather: there is one worker"
        names = ("--prefetch", "--reshard-after-forward", "--replicas")
        values = (job.prefetch, job.reshard_after_forward, job.replicas)
        return [(name, value, alone) for name, value in zip(names, values, strict=True)]
    divisors = [str(n) for n in range(1, workers + 1) if workers % n == 0]
    return [
        ("--prefetch", job.prefetch, "1 or 2 blocks ahead hide the gathering behind computation"),
        (
            "--reshard-after-forward",
            job.reshard_after_forward,
            "without it weights travel once per micro-batch and not twice, and stay in memory",
        ),
        (
            "--replicas",
            job.replicas,
            f"{', '.join(divisors)}; the number of nodes keeps weights inside each node",
        ),
    ]


def _format(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)
