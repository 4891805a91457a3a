"""Downloads pictures with img2dataset. Run by the tests, in the packages' environment."""

from typing import Any

from img2dataset import download

from tests.writers.calls import run_function


def write_downloads(urls: str, folder: str, output_format: str, resize_mode: str) -> None:
    """Download a table of URLs (`url`, `text`, `number`) in one of img2dataset's formats."""
    options: dict[str, Any] = {} if resize_mode == "no" else {"image_size": 64}
    download(
        url_list=urls,
        output_folder=folder,
        output_format=output_format,
        input_format="csv",
        url_col="url",
        caption_col="text",
        save_additional_columns=["number"],
        processes_count=1,
        thread_count=4,
        number_sample_per_shard=4,
        resize_mode=resize_mode,
        **options,
    )


if __name__ == "__main__":
    run_function(write_downloads)
