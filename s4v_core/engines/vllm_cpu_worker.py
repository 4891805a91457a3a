"""vLLM's worker on CPUs, with seeds that long prompts survive.

vLLM computes a long prompt in several steps, draws a token after each, drops all but the last, and
then turns the request's generator back, which torch's generators on CPUs cannot do: vLLM 0.32 dies
of a seeded request ("CPU Generator does not use offset"). Here such a draw comes from the common
generator instead, so that nothing has to be turned back.
"""

from typing import Any

import numpy as np
from vllm.v1.worker.cpu_worker import CPUWorker


class SeedSafeWorker(CPUWorker):  # type: ignore[misc]  # Any to the checker
    """vLLM's worker, except for the draws that it drops."""

    def sample_tokens(self, grammar_output: Any) -> Any:
        """Draw a token for every request of the step."""
        batch = self.model_runner.input_batch
        dropped = np.nonzero(self.model_runner.discard_request_mask.np[: batch.num_reqs])[0]
        aside = {at: batch.generators.pop(at) for at in map(int, dropped) if at in batch.generators}
        try:
            return super().sample_tokens(grammar_output)
        finally:
            batch.generators.update(aside)
