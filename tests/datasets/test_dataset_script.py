import json
from pathlib import Path

import pytest

from ray_jobs.dataset import main
from s4v_core.errors import ConfigError
from tests.datasets.published import (
    build_record,
    image_of,
    read_captions,
    read_mixture,
    write_array,
)


def test_an_audit_says_by_its_exit_code_whether_records_were_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = image_of("coco", 1)
    data = write_array(tmp_path / "data.json", iter([build_record("1", image, "What?", "A dog")]))
    (tmp_path / "images" / image).parent.mkdir(parents=True)
    (tmp_path / "images" / image).write_bytes(b"\xff\xd8\xff")
    common = ["audit", str(data), "--images", str(tmp_path / "images")]
    assert main([*common, "--to", str(tmp_path / "names")]) == 0
    assert main([*common, "--to", str(tmp_path / "pixels"), "--check", "pixels"]) == 3
    assert "coco: 1, of which" in capsys.readouterr().out
    assert json.loads((tmp_path / "pixels" / "cleaned.json").read_text()) == []
    assert (tmp_path / "names" / "cleaned.json").read_bytes() == data.read_bytes()


def test_a_mix_takes_quotas_questions_and_a_scale(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_array(tmp_path / "mixture.json", read_mixture(200, 20))
    write_array(tmp_path / "captions.json", read_captions(300))
    (tmp_path / "questions.txt").write_text("Write a detailed description of the given image\n\n")
    common = [str(tmp_path / "mixture.json"), "--captions", str(tmp_path / "captions.json")]
    more = ["--quota", "coco=10", "--quota", "sam=4", "--scale", "0.5"]
    more += ["--questions", str(tmp_path / "questions.txt"), "--surplus", "drop"]
    assert main(["mix", *common, "--to", str(tmp_path / "mix.json"), *more]) == 0
    assert "7 of 20 detailed descriptions replaced (coco 5, sam 2)" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "mix.json").read_text())) == 200 - 13


def test_the_quotas_of_the_paper_are_the_default() -> None:
    from s4v_core.datasets.mixing import parse_quotas
    from s4v_core.recipes import MIX_QUOTAS

    quotas = parse_quotas(MIX_QUOTAS)
    assert quotas == {"coco": 9000, "lcs": 3000, "sam": 9000, "others": 2000}
    assert sum(quotas.values()) == 23_000


def test_samples_and_other_forms_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_array(tmp_path / "data.json", read_captions(50))
    assert main(["sample", str(data), "--to", f"{tmp_path}/ten.jsonl", "--count", "10"]) == 0
    assert len((tmp_path / "ten.jsonl").read_text().splitlines()) == 10
    assert main(["convert", str(data), "--to", f"{tmp_path}/all.parquet"]) == 0
    assert "50 records written" in capsys.readouterr().out


def test_a_card_names_counts_origin_and_licences(tmp_path: Path) -> None:
    name = "sharegpt4v_instruct_gpt4-vision_cap100k.json"
    data = write_array(tmp_path / name, read_captions(100, chars=900))
    to = tmp_path / "README.md"
    assert main(["card", str(data), "--to", str(to)]) == 0
    card = to.read_text()
    assert "| records | 100 (published: 102,025) |" in card
    assert "GPT4-Vision" in card
    assert "CC BY-NC 4.0" in card
    assert "| coco | " in card
    assert "| answers | 100, 90" in card
    with pytest.raises(ConfigError, match="exists"):
        main(["card", str(data), "--to", str(to)])


def test_the_card_of_own_data_says_what_is_declared_and_what_is_not(tmp_path: Path) -> None:
    records = [build_record("1", "mine/1.jpg", "What?", "A dog"), build_record("2", None, "A", "B")]
    data = write_array(tmp_path / "own.json", iter(records))
    main(["card", str(data), "--to", f"{tmp_path}/a.md"])
    more = ["--provenance", "Written by hand.", "--licence", "CC0"]
    main(["card", str(data), "--to", f"{tmp_path}/b.md", *more])
    assert "Not declared." in (tmp_path / "a.md").read_text()
    card = (tmp_path / "b.md").read_text()
    assert "Written by hand." in card
    assert "| licence of the texts | CC0 |" in card
    assert "| other: mine/ | 1 | not declared |" in card
    assert "| text only | 1 | no images |" in card


@pytest.mark.parametrize("argv", [["count"], ["mix", "a.json"], ["sample", "a", "--seeds", "1"]])
def test_other_commands_and_flags_are_refused(argv: list[str]) -> None:
    with pytest.raises(ConfigError):
        main(argv)


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "dataset.py audit" in capsys.readouterr().out
