"""The README of an exported model: what the model is, and how it was trained."""

from s4v_core.training.data.samples import SampleCounts
from s4v_core.training.stage import TrainStage
from s4v_core.training.worker.step_metrics import StepMetrics


def write_card(job: TrainStage, metrics: list[StepMetrics], counts: SampleCounts) -> str:
    """Write the card of a whole model as Markdown, with the front matter that model hubs read."""
    last = metrics[-20:]
    seconds = sum(m.step_s for m in metrics)
    loss = sum(m.loss for m in last) / len(last) if last else float("nan")
    adapters = (
        f"| adapters | LoRA, rank {job.lora.rank}, alpha {job.lora.alpha:g}, on "
        f"{', '.join(job.lora.targets)} of these parts |\n"
        if job.lora.rank
        else ""
    )
    held_out = [m.validation_loss for m in metrics if m.validation_loss is not None]
    measured = f"| held-out loss at the end | {held_out[-1]:.4f} |\n" if held_out else ""
    demo = "A demo, not for use: it knows drawn scenes only.\n\n" if job.demo_scenes else ""
    return f"""---
library_name: transformers
pipeline_tag: image-text-to-text
tags: [llava, sharegpt4v, {job.stage}]
---
# {job.stage}

{demo}LLaVA-1.5 architecture, bf16 weights. Loads in transformers (`LlavaForConditionalGeneration`)
and vLLM. Template `{job.template}`, images framed by `{job.image_mode}`.

| | |
|---|---|
| started from | `{job.model}` |
| samples | {counts.samples}, {sum(counts.skipped.values())} left out |
| steps | {len(metrics)} of {job.batch_size} samples, seed {job.seed} |
| learning rate | {job.optimiser.learning_rate}, warm-up {job.optimiser.warmup_ratio}, cosine |
| learnt | vision blocks from {job.learning.vision_from}, stem {job.learning.vision_stem}, \
projector {job.learning.projector}, language model {job.learning.language} |
{adapters}| loss at the end | {loss:.4f} (mean of the last {len(last)} steps) |
{measured}| time in steps | {seconds / 60:.1f} min |

Made by `python ray_jobs/{_SCRIPTS[job.stage]}`. The licences of the start model and of the data
apply.
"""


def write_adapter_card(job: TrainStage, metrics: list[StepMetrics], counts: SampleCounts) -> str:
    """Write the card of an adapter: the same table, and what loads it."""
    text = write_card(job, metrics, counts)
    text = text.replace(
        "library_name: transformers", f"library_name: peft\nbase_model: {job.model}"
    )
    return text.replace(
        "LLaVA-1.5 architecture, bf16 weights. Loads in transformers "
        "(`LlavaForConditionalGeneration`)\nand vLLM.",
        "LoRA adapter in PEFT's layout for the model it started from. PEFT and vLLM load it.",
    )


_SCRIPTS = {
    "captioner": "train_captioner.py",
    "pretrain": "pretrain.py",
    "finetune": "finetune.py",
}
