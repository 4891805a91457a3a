"""Which tests make up the lane of `make unit`: those without Ray, engines and browsers."""

import pytest

_FOLDERS = ("flow", "faults", "cluster", "perf", "gpu")
_FIXTURES = {"local_ray", "s3_server", "browser", "checkpoint"}
_MODULES = {
    "tests/engines/test_supervision.py",  # processes that die, and limits of seconds
    "tests/engines/test_endpoint.py",
    "tests/serve/test_start.py",
    "tests/model/test_stored_checkpoint.py",
}


def mark_units(items: list[pytest.Item]) -> None:
    """Mark every test that needs neither Ray nor an engine as `unit`."""
    for item in items:
        path = item.nodeid.partition("::")[0]
        fixtures = set(getattr(item, "fixturenames", ()))
        is_heavy = path.split("/")[1] in _FOLDERS or path in _MODULES or fixtures & _FIXTURES
        if not is_heavy:
            item.add_marker("unit")
