"""The tests of `make unit`: those without Ray, engines and browsers.

`python -m tests.lanes` runs them in two processes, one for each core of a small machine.
"""

import os
import subprocess
import sys

import pytest

_FOLDERS = ("flow", "faults", "cluster", "perf", "gpu", "writers", "clients", "architectures")
_FIRST_HALF = (
    "tests/serve",
    "tests/test_house.py",
    "tests/test_flags.py",
    "tests/captioning",
    "tests/inputs",
    "tests/analysis",
)
_FIXTURES = {"local_ray", "s3_server", "browser", "checkpoint", "caplog"}
_MODULES = {
    "tests/captioning/test_report.py",  # Chromium
    "tests/captioning/test_hub_upload.py",  # processes of its own
    "tests/captioning/test_export.py",
    "tests/captioning/test_quality.py",
    "tests/captioning/test_own_files.py",  # a decoding process for every report
    "tests/analysis/test_preference_page.py",  # Chromium, and processes that are killed
    "tests/analysis/test_report_page.py",
    "tests/synthesis/test_verification_page.py",
    "tests/model/test_conversion.py",  # checkpoints, converted by a process of its own
    "tests/model/test_conversion_variants.py",
    "tests/model/test_conversion_refusals.py",
    "tests/model/test_joined_parts.py",
    "tests/model/test_adapter_merge.py",
    "tests/images/test_mutations.py",
    "tests/engines/test_supervision.py",  # processes that die, and limits of seconds
    "tests/engines/test_endpoint.py",
    "tests/engines/test_endpoint_kinds.py",
    "tests/engines/test_preflight.py",  # transformers' models, and those below
    "tests/training/test_qwen.py",
    "tests/training/test_own_template.py",
    "tests/training/test_plan_against_training.py",
    "tests/training/test_plan_arithmetic.py",
    "tests/training/test_plan.py",
    "tests/inputs/test_urls.py",  # hosts that are slow or away, and those below
    "tests/inputs/test_places.py",
    "tests/test_storage.py",
    "tests/evaluation/test_published_figures.py",  # tens of thousands of answers
    "tests/evaluation/test_scoring.py",
    "tests/evaluation/test_judging.py",  # Ray in processes of their own, and those below
    "tests/collection/test_batches.py",
    "tests/collection/test_collect.py",
    "tests/collection/test_kept_answers.py",
    "tests/synthesis/test_painting.py",
    "tests/reproduction/test_quick_study.py",
    "tests/serve/test_start.py",
    "tests/model/test_stored_checkpoint.py",
    "tests/serve/test_operations.py",  # seconds each, as those below
    "tests/serve/test_guard.py",
    "tests/serve/test_door.py",
    "tests/engines/test_diffusers.py",
    "tests/engines/test_painter_families.py",
    "tests/demo/test_painter.py",
    "tests/engines/test_endpoint_places.py",
    "tests/evaluation/test_eval_script.py",
    "tests/reproduction/test_commands.py",
    "tests/reproduction/test_report.py",
    "tests/reproduction/test_arguments.py",
    "tests/analysis/test_preference.py",
    "tests/analysis/test_judge_task.py",
}

_LONG_TESTS = {
    "test_every_generated_file_ends_as_it_may_and_takes_no_process_with_it",
    "test_a_gzip_bomb_ends_the_shard",
    "test_the_largest_image_allowed_stays_within_the_memory_limit",
    "test_vllm_takes_every_parameter",  # vLLM's own classes
    "test_settings_become_the_arguments_of_vllm",
    "test_an_adapter_that_is_too_wide_is_refused",
    "test_an_adapter_that_vllm_would_serve_in_part_is_refused",
    "test_processes_on_a_cpu_share_its_memory",
    "test_names_read_from_the_source_files_are_those_of_the_packages",
    "test_workers_and_parts_change_no_figure",  # processes of their own, and those below
    "test_a_wrong_configuration_ends_the_command_with_one_sentence",
    "test_status_prints_it",
    "test_a_child_that_hangs_is_ended_at_the_deadline",
    "test_a_child_that_is_killed_costs_one_image_and_is_replaced",
    "test_the_corpus_of_bad_images_gives_the_right_reasons",
    "test_shards_are_inputs_and_settings_are_those_of_a_job",
    "test_the_whole_fetch_has_one_time_limit",  # seconds of waiting or computing, and those below
    "test_under_ten_times_the_load_engines_stay_full_and_receive_few_more_requests",
    "test_a_folder_without_permission_is_a_damage_and_a_file_a_row",
    "test_a_cut_gzip_is_the_damage_of_its_json",
    "test_every_way_to_the_ids_gives_those_of_sentencepiece",
    "test_memory_does_not_grow_with_the_file",  # large files, and those below
    "test_images_of_tar_shards_that_are_missing_are_exactly_those_found",
    "test_a_stated_share_of_each_source_gets_the_aesthetic_request_and_loses_its_contradiction",
    "test_the_duplicates_of_the_released_file_are_found",
    "test_an_object_that_is_too_large_is_refused_with_the_way_out",
    "test_arms_that_are_alike_differ_in_no_more_than_one_of_twenty_studies",
    "test_the_shares_of_reference_captions_are_the_known_ones",
    "test_at_most_one_in_two_hundred_captions_of_people_and_models_is_rejected",
}


def mark_units(items: list[pytest.Item]) -> None:
    """Mark every test that needs neither Ray nor an engine as `unit`."""
    for item in items:
        path = item.nodeid.partition("::")[0]
        fixtures = set(getattr(item, "fixturenames", ()))
        is_heavy = path.split("/")[1] in _FOLDERS or path in _MODULES or fixtures & _FIXTURES
        if not is_heavy and item.name.partition("[")[0] not in _LONG_TESTS:
            item.add_marker("unit")


def main() -> int:
    """Run the lane; 1 if a test failed."""
    heavy = [f"--ignore=tests/{folder}" for folder in _FOLDERS]
    rest = [f"--ignore={path}" for path in _FIRST_HALF]
    pytest_run = [
        sys.executable,
        *("-m", "pytest", "-q", "-W", "ignore"),
        # Capturing logs costs more than a small test: torch alone has eighty loggers of its own.
        *("-p", "no:schemathesis", "-p", "no:logging", "-m", "unit and not slow and not faults"),
        *(f"--ignore={path}" for path in sorted(_MODULES)),
    ]
    # Where bytecode is not kept, every test that starts a process compiles this project again.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    halves = [
        subprocess.Popen([*pytest_run, "-p", "no:cacheprovider", *_FIRST_HALF], env=kept),
        subprocess.Popen([*pytest_run, *heavy, *rest, "tests"], env=kept),
    ]
    return int(any([half.wait() for half in halves]))


if __name__ == "__main__":
    sys.exit(main())
