"""A task of one's own on the durable flow: ask an engine about texts, and count its words.

    python examples/count_words.py OUTPUT

Each text is a row; each result is a row with a status. Kill the script at any time and run it
again: it resumes, and every row exists exactly once. docs/add-a-task.md explains each part.
"""

import sys

import pyarrow as pa

from s4v_core.engines.choice import choose_engine
from s4v_core.engines.requests import Request
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSettings
from s4v_core.flow.task import Prepared, Task
from s4v_core.records.contract import Contract, Words, result_schema
from s4v_core.runs.table_run import run_rows

COUNTS = Contract(
    folder="counts",
    schema=result_schema(
        "text_id",
        pa.field("answer", pa.string()),
        pa.field("words", pa.int32()),
    ),
    key="text_id",
    sums=("attempts", "words"),
    words=Words(rows="texts", made="counted", answers="counts"),
)


class CountWords(Task[tuple[str, str]]):
    """How many words an engine says about each text."""

    contract = COUNTS

    def prepare(self, planned, content):
        return Prepared((planned["text_id"], planned["payload"]))

    async def answer(self, about, pictures, engine):
        text_id, text = about
        found = await engine.generate(Request(text_id, text_id, (), text), SamplingConfig())
        if found.text is None:
            return self.fail(about, found.reason)
        return self._make_row(text_id, "ok", None, found.text, len(found.text.split()))

    def fail(self, about, reason):
        return self._make_row(about[0], "error", reason, None, None)

    def _make_row(self, text_id, status, reason, answer, words):
        row = {"text_id": text_id, "status": status, "reason": reason, "attempts": 1}
        return row | {"answer": answer, "words": words}


def main(output, count=1000, latency_s=0.05):
    texts = [{"text_id": f"{n:04d}", "payload": "word " * (n % 7 + 1)} for n in range(count)]
    # Engine fake needs no model; engine vllm, transformers or openai takes the same requests.
    settings = EngineSettings(fake_latency_s=latency_s, cpus=1, max_num_seqs=16)
    engine = choose_engine("fake", "none", "model", settings)
    outcome = run_rows(CountWords(), texts, output, engine, unit_size=20)
    print(outcome.as_text())
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
