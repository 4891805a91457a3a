"""Read a caption run with the tools that people have: python examples/read_a_run.py OUTPUT

    make demo && python examples/read_a_run.py out/demo/captions

Each reader needs only its own package; those that are not installed are skipped.
"""

import json
import sys
import tarfile
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq

from s4v_core.captioning.export import export_run


def read_with_pyarrow(output):
    table = pq.read_table(f"{output}/captions")
    return table.num_rows, table["caption"][0].as_py()


def read_with_pandas(output):
    import pandas

    frame = pandas.read_parquet(f"{output}/captions")
    good = frame[frame.status == "ok"]
    return len(good), good.caption.iloc[0]


def read_with_datasets(output):
    from datasets import load_dataset

    found = load_dataset("parquet", data_files=f"{output}/captions/*.parquet", split="train")
    return len(found), found[0]["caption"]


def read_sidecars(output):
    """Sidecars have the keys of their images, so WebDataset reads both side by side."""
    with tempfile.TemporaryDirectory() as folder:
        export_run(output, f"{folder}/captions.tar")
        with tarfile.open(f"{folder}/captions.tar") as tar:
            texts = [name for name in tar.getnames() if name.endswith(".txt")]
            about = json.load(tar.extractfile(texts[0].removesuffix("txt") + "json"))
    return len(texts), about["caption"]


def main(output):
    readers = {"pyarrow": read_with_pyarrow, "pandas": read_with_pandas}
    readers |= {"datasets": read_with_datasets, "tarfile": read_sidecars}
    for package, read in readers.items():
        if find_spec(package) is None:
            print(f"{package}: not installed")
            continue
        count, first = read(str(Path(output)))
        print(f"{package}: {count} captions; the first one: {first}")


if __name__ == "__main__":
    main(sys.argv[1])
