"""How large the study of the demo world is, and with which hyper-parameters: all of its numbers.

They are fixed before the seeds that are reported are run; docs/your-own-study.md names the seeds of
the pilots.
"""

from s4v_core.config import Config


class Sizes(Config):
    """Numbers of pictures, epochs and learning rates."""

    web_views: int
    """Pictures with brief captions that the start model is trained on, in the part of CLIP."""
    talk_views: int
    """Descriptions with questions, without pictures, that it learns, in the part of Vicuna."""
    base_epochs: int
    """Epochs of the start model."""
    teacher_views: int
    """Pictures with exact captions, in the part of GPT4-Vision's 100K."""
    captioner_epochs: int
    """Epochs of the captioner on the teacher's captions."""
    pretrain_views: int
    """Pictures that the captioner captions and that pretraining learns from."""
    mixture_views: int
    """Pictures of the mixture of questions and descriptions that is fine-tuned on."""
    exam_views: int
    """Pictures of the exam."""
    synthesised: int
    """Records of each ability that are synthesised."""
    base_rate: float = 1.5e-3
    """Highest learning rate of the start model."""
    captioner_rate: float = 1e-3
    """Highest learning rate of the captioner."""
    pretrain_rate: float = 1e-3
    """Highest learning rate of pretraining."""
    finetune_rate: float = 5e-4
    """Highest learning rate of fine-tuning."""
    beta2: float = 0.95
    """Decay rate of AdamW's running mean of squared gradients, in all stages. With 0.999 the mean
    is over a thousand steps, and most stages have some 300."""
    is_gated: bool = True
    """Whether the pass judges captions; a captioner that learned nothing has none that pass."""
    batch_size: int = 32
    """Samples of a step, in all stages."""
    world_seed: int = 100
    """Seed of all pictures; that of the reported studies. Pilots have others."""
    start_s: float = 25.0
    """Seconds that a stage, a pass or an evaluation needs to start."""
    step_s: float = 0.7
    """Seconds of a step on one core."""
    answers_per_s: float = 32.0
    """Questions that a model answers in a second on one core."""
    pictures_per_s: float = 2.0
    """Pictures that the painter draws in a second on one core."""
    captions_per_s: float = 25.0
    """Pictures that the captioner captions in a second on one core."""


FULL = Sizes(
    web_views=8000,
    talk_views=8000,
    base_epochs=2,
    teacher_views=3000,
    captioner_epochs=8,
    pretrain_views=8000,
    mixture_views=8000,
    exam_views=200,
    synthesised=400,
)
QUICK = Sizes(
    web_views=64,
    talk_views=64,
    base_epochs=6,
    teacher_views=48,
    captioner_epochs=4,
    pretrain_views=48,
    mixture_views=48,
    exam_views=8,
    synthesised=8,
    is_gated=False,
)
"""Sizes of --quick: every stage runs, and nothing is learned."""
