"""One set of trials for all tests of this folder."""

import pytest

from tests.architectures.trials import Trials


@pytest.fixture(scope="session")
def trials(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Trials:
    """Trials of every architecture that the tests of this session name."""
    wanted: list[str] = []
    for item in request.session.items:
        spec = getattr(item, "callspec", None)
        if "trials" in getattr(item, "fixturenames", ()):
            wanted += [spec.params["name"]] if spec and "name" in spec.params else []
    return Trials(tmp_path_factory.mktemp("trials"), list(dict.fromkeys(wanted)))
