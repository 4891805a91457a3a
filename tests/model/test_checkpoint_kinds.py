"""Checkpoints that cannot be captioned with: each kind gets a sentence of its own."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from s4v_core.captioning.job import CaptionJob
from s4v_core.checkpoints import locate_adapter, locate_checkpoint, split_revision
from s4v_core.errors import ConfigError
from s4v_core.model.checkpoint_facts import read_facts

VISION = {"vision_config": {}}

COMMIT = "c" * 40


def _write(folder: Path, files: dict[str, Any]) -> str:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return str(folder)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (
            {"adapter_config.json": {}},
            r"holds an adapter alone; .* with --settings.adapter, or merge .*convert\.py .*--base",
        ),
        (
            {"config.json": {"model_type": "llava", "mm_vision_tower": "openai/clip"}},
            r"is in the original layout of LLaVA; convert it first: .*convert\.py ",
        ),
        (
            {"config.json": {"model_type": "share4v", "mm_vision_tower": "x", "auto_map": {}}},
            r"is in the original layout of LLaVA; convert it first: .*convert\.py ",
        ),
        (
            {"config.json": {"model_type": "x", "architectures": ["Share4VLlamaForCausalLM"]}},
            r"is in the original layout of LLaVA; convert it first: python ray_jobs/convert\.py /",
        ),
        ({"model_index.json": {}}, "holds a pipeline of diffusers"),
        ({"model-Q4_K_M.gguf": 0}, "holds GGUF files; .*--engine openai"),
        ({"config.json": {"model_type": "llama"}}, r"takes no images \(model_type llama\)"),
        (
            {"config.json": {"model_type": "molmo", "auto_map": {}, "vision_backbone": {}}},
            r"the architecture molmo, which the installed transformers",
        ),
        (
            {"config.json": {"model_type": "phi3_v", "img_processor": {}, "auto_map": {"A": "b"}}},
            r"needs code of its own repository \(model_type phi3_v\)",
        ),
        (
            {"config.json": VISION | {"model_type": "qwen9_vl", "transformers_version": "9.1.0"}},
            "the architecture qwen9_vl, .* does not know, and it was written by 9.1.0; install",
        ),
    ],
)
def test_each_kind_of_folder_that_no_engine_loads_is_named(
    tmp_path: Path, files: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as error:
        read_facts(_write(tmp_path / "model", files))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "others"),
    [
        ({"model_type": "florence2", "vision_config": {}}, {}),
        ({"model_type": "qwen2_vl", "visual": {}}, {}),
        ({"model_type": "aria", "architectures": ["AriaForConditionalGeneration"]}, {}),
        ({"model_type": "fuyu"}, {"preprocessor_config.json": {"image_processor_type": "Fuyu"}}),
        ({"model_type": "idefics", "text": {"image_token_id": 7}}, {}),
    ],
)
def test_a_vision_part_may_have_any_name(
    tmp_path: Path, config: dict[str, Any], others: dict[str, Any]
) -> None:
    read_facts(_write(tmp_path / "model", {"config.json": config} | others))


def test_a_quantized_checkpoint_says_how(tmp_path: Path) -> None:
    config = VISION | {"quantization_config": {"quant_method": "compressed-tensors"}}
    facts = read_facts(_write(tmp_path / "model", {"config.json": config}))
    assert facts.quantization == "compressed-tensors"


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("org/name:Q4_K_M", "org/name:Q4_K_M names a GGUF quantization of a hub model"),
        ("/models/name-Q4_K_M.gguf", "is a GGUF file; GGUF files hold no vision part"),
        ("org/name/file.GGUF", "is a GGUF file"),
        ("nowhere", "no such folder: nowhere"),
        ("org/na me", "is neither a folder here nor the id of a hub model"),
    ],
)
def test_names_that_no_engine_loads_are_refused(model: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        locate_checkpoint(model)


class _Hub(BaseHTTPRequestHandler):
    """A hub with the model org/model in two revisions, and others that it does not give out."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        _, kind, *rest = self.path.partition("?")[0].split("/")
        if kind == "api":
            return self._answer_api("/".join(rest[1:3]), rest[4] if rest[3:] else "main", rest[3:])
        config = json.dumps(VISION | {"model_type": "llava", "commit": rest[2]}).encode()
        return self._answer(200, config, {"ETag": f'"{rest[2][:8]}"', "X-Repo-Commit": rest[2]})

    def _answer_api(self, name: str, revision: str, words: list[str]) -> None:
        refused = {"org/gated": (403, "GatedRepo"), "org/private": (401, "RepoNotFound")}
        if name in refused:
            code, error = refused[name]
            return self._answer(code, b"{}", {"X-Error-Code": error})
        if revision not in ("main", "old", COMMIT, "d" * 40):
            return self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if words[:1] == ["tree"]:
            file = {"type": "file", "path": "config.json", "size": 9, "oid": "1" * 40}
            return self._answer(200, json.dumps([file]).encode(), {})
        commit = {"main": COMMIT, "old": "d" * 40}.get(revision, revision)
        about = {"id": name, "sha": commit, "siblings": [{"rfilename": "config.json"}]}
        return self._answer(200, json.dumps(about).encode(), {})

    def _answer(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """A test prints nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        yield
        server.shutdown()


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("org/gated", "org/gated is gated on the hub; accept its terms .* HF_TOKEN"),
        ("org/private", "does not exist there, or is private and HF_TOKEN"),
        ("org/model@v9", "org/model has no revision 'v9' on the hub"),
    ],
)
def test_each_reason_why_the_hub_gives_nothing_has_its_sentence(
    hub: None, model: str, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as error:
        locate_checkpoint(model)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"^settings\.adapter: "):
        locate_adapter(model)


def test_a_hub_that_does_not_answer_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ConfigError, match="and the hub does not answer; try again later"):
        locate_checkpoint("org/model")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE forbids to fetch it"):
        locate_checkpoint("org/model")


def test_a_revision_is_named_by_flag_or_in_the_model(hub: None) -> None:
    assert split_revision("org/model@old") == ("org/model", "old")
    main, named, given = (
        locate_checkpoint("org/model"),
        locate_checkpoint("org/model@old"),
        locate_checkpoint("org/model", revision="old"),
    )
    assert main[1] == COMMIT
    assert named == given
    assert named[1] == "d" * 40
    assert json.loads((named[0] / "config.json").read_text())["commit"] == "d" * 40
    assert read_facts("org/model", "old").revision == "d" * 40


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"model": "somewhere"}, "allowed with hub models only"),
        ({"model": "s3://bucket/model"}, "allowed with hub models only"),
        ({"model": "org/name", "engine": "openai"}, "allowed with hub models only"),
        ({"model": "org/name@v1"}, "found 'v2' and the model org/name@v1, allowed one of them"),
    ],
)
def test_a_revision_that_names_nothing_is_refused(given: dict[str, Any], sentence: str) -> None:
    job = {"input": ("a",), "output": "b", "revision": "v2"} | given
    with pytest.raises(ConfigError, match=sentence):
        CaptionJob.model_validate(job)
