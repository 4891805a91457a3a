"""Instructions that LLaVA-1.5 was tuned on and that benchmarks end their questions with."""

LETTER = "Answer with the option's letter from the given choices directly."
LETTER_CHINESE = "请直接回答选项字母。"
SHORT = "Answer the question using a single word or phrase."
