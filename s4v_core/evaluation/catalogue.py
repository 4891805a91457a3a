"""Every benchmark by its name. A new one is a module in `benchmarks` and a line here."""

from s4v_core.errors import ConfigError
from s4v_core.evaluation.benchmark import Benchmark
from s4v_core.evaluation.benchmarks.llava_w import LLAVA_W
from s4v_core.evaluation.benchmarks.mm_vet import MM_VET
from s4v_core.evaluation.benchmarks.mmbench import MMBENCH, MMBENCH_CN
from s4v_core.evaluation.benchmarks.mme import MME
from s4v_core.evaluation.benchmarks.mmstar import MMSTAR
from s4v_core.evaluation.benchmarks.pope import POPE
from s4v_core.evaluation.benchmarks.qbench import QBENCH
from s4v_core.evaluation.benchmarks.science_qa import SCIENCE_QA
from s4v_core.evaluation.benchmarks.seed import SEED
from s4v_core.evaluation.benchmarks.stablellava import STABLELLAVA
from s4v_core.evaluation.benchmarks.vqa import VIZWIZ, VQAV2

BENCHMARKS = {
    one.name: one
    for one in (
        LLAVA_W,
        MME,
        MMBENCH,
        MMBENCH_CN,
        SEED,
        MM_VET,
        QBENCH,
        SCIENCE_QA,
        VQAV2,
        VIZWIZ,
        POPE,
        MMSTAR,
        STABLELLAVA,
    )
}
"""In the order of the paper's Table 3, then the others."""


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of a name.

    Raises:
        ConfigError: There is none.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"benchmarks: found {name!r}, allowed {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def list_sources() -> str:
    """A table of where each data set comes from and under which licence."""
    rows = [("benchmark", "from", "licence", "files")]
    rows += [
        (one.name, one.source.origin, one.source.licence, one.source.files)
        for one in BENCHMARKS.values()
    ]
    widths = [max(len(row[at]) for row in rows) for at in range(3)]
    pad = [[cell.ljust(width) for cell, width in zip(row, widths, strict=False)] for row in rows]
    return "\n".join("  ".join([*cells, row[3]]) for cells, row in zip(pad, rows, strict=True))
