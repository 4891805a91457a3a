import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import pytest

from s4v_core.errors import ConfigError
from s4v_core.reproduction import processes, scheduler
from s4v_core.reproduction.command import OWN, Command, Output, list_commands
from s4v_core.reproduction.demo_studies import STUDIES
from s4v_core.reproduction.job import ReproduceJob
from s4v_core.reproduction.processes import Running, start_script
from s4v_core.reproduction.records import StudyFolder
from s4v_core.reproduction.running import open_reproduction
from s4v_core.reproduction.scheduler import Schedule, run_commands
from s4v_core.reproduction.sizes import FULL, QUICK
from s4v_core.reproduction.study import list_all
from s4v_core.reproduction.world import DemoWorld

WRITE = """
import pathlib, sys, time
place, text, seconds, *needed = sys.argv[1:]
found = [pathlib.Path(one).read_text() for one in needed]
time.sleep(float(seconds))
folder = pathlib.Path(place).parent
folder.mkdir(parents=True, exist_ok=True)
if text == "fails":
    sys.exit("nothing came of it")
with (folder / "tries").open("a") as tries:
    tries.write("x")
pathlib.Path(place).write_text(text + "".join(found))
"""


def _write(text: str, *needs: Command, seconds: float = 0.0, cpus: int = 1) -> Command:
    inputs = tuple(Output(one, "text") for one in needs)
    return Command(text, "write.py", (f"{OWN}/text", text, str(seconds), *inputs), 1.0, cpus=cpus)


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of scripts beside the real ones, whose only script writes its arguments."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "write.py").write_text(WRITE)
    monkeypatch.setattr(processes, "_SCRIPTS", folder)
    return folder


def _read(folder: StudyFolder, command: Command) -> str:
    return (Path(command.locate(folder.runs)) / "text").read_text()


def test_equal_commands_are_one_whatever_their_label_and_their_number_of_workers() -> None:
    one = Command("a", "x.py", ("--seed", "1"), 5, free=("--workers", "1"))
    other = Command("b", "x.py", ("--seed", "1"), 9, cpus=2, free=("--workers", "2"))
    assert one.key == other.key
    assert one.key != Command("a", "x.py", ("--seed", "2"), 5).key
    assert one.key != Command("a", "y.py", ("--seed", "1"), 5).key
    assert len(list_commands([one, other])) == 1


def test_a_command_is_another_one_if_anything_behind_it_is() -> None:
    first = [Command("a", "x.py", (seed,), 1) for seed in "12"]
    last = [
        Command("c", "z.py", (Output(Command("b", "y.py", (Output(one),), 1), "model"),), 1)
        for one in first
    ]
    assert last[0].key != last[1].key
    assert last[0].fill_in("/runs") == [f"/runs/{last[0].needs[0].folder}/model"]
    moved = Command("c", "z.py", (Output(last[0].needs[0], "elsewhere"),), 1)
    assert moved.key != last[0].key


@pytest.mark.parametrize("name", list(STUDIES))
def test_a_study_shares_what_its_arms_have_in_common(name: str) -> None:
    study = STUDIES[name](DemoWorld(FULL), range(1, 6))
    commands = list_all([study])
    known: set[str] = set()
    for one in commands:
        assert {needed.key for needed in one.needs} <= known
        known.add(one.key)
    assert sum(one.label == "start model (small)" for one in commands) == 1
    alone = sum(len(list_commands([one])) for one in study.wanted)
    assert len(commands) <= alone
    for claim in study.claims:
        assert claim.better != claim.worse
        assert max(claim.better, claim.worse) < len(study.arms)
    assert all(len(arm.exams) == 5 for arm in study.arms)


def test_arms_of_table_4_differ_in_what_they_say_and_in_nothing_else() -> None:
    study = STUDIES["table4"](DemoWorld(FULL), [1])
    behind = [{one.label.partition(" (")[0] for one in list_commands(a.exams)} for a in study.arms]
    has_captions = ["caption pretrain" in labels for labels in behind]
    has_swap = [any(label.startswith("swap") for label in labels) for labels in behind]
    assert (has_captions, has_swap) == ([False, False, True, True], [False, True, False, True])
    tunings = [
        next(one for one in arm.exams[0].needs if one.script == "finetune.py") for arm in study.arms
    ]
    assert len({one.key for one in tunings}) == 4
    flags = {tuple(one for one in run.arguments if isinstance(one, str)) for run in tunings}
    assert len(flags) == 1


def test_all_studies_together_cost_less_than_apart() -> None:
    world, seeds = DemoWorld(FULL), range(1, 6)
    studies = [build(world, seeds) for build in STUDIES.values()]
    together = sum(one.expected_s for one in list_all(studies))
    assert together < 0.9 * sum(one.expected_s for each in studies for one in list_all([each]))
    quick = list_all([STUDIES["table4"](DemoWorld(QUICK), seeds)])
    assert {one.key for one in quick}.isdisjoint(one.key for one in list_all(studies))


def test_commands_run_once_after_what_they_need(scripts: Path, tmp_path: Path) -> None:
    a = _write("a")
    b, c = _write("b", a), _write("c", a)
    d = _write("d", b, c)
    folder = StudyFolder(str(tmp_path / "out"))
    outcome = run_commands(folder, list_commands([d]), 2, {})
    assert (outcome.done, outcome.missing) == (4, 0)
    assert _read(folder, d) == "dbaca"
    again = run_commands(folder, list_commands([d, _write("e", d)]), 2, {})
    assert (again.done, again.missing) == (5, 0)
    tries = Path(d.locate(folder.runs)) / "tries"
    assert tries.read_text() == "x"


def test_a_failure_keeps_only_those_waiting_that_need_it(scripts: Path, tmp_path: Path) -> None:
    bad, good = _write("fails"), _write("good")
    after_bad, after_good = _write("x", bad), _write("y", good)
    folder = StudyFolder(str(tmp_path / "out"))
    commands = list_commands([after_bad, after_good])
    outcome = run_commands(folder, commands, 1, {})
    assert (outcome.done, outcome.missing) == (2, 2)
    assert "nothing came of it" in outcome.failed["fails"]
    assert b"nothing came of it" in Path(folder.find_log(bad)).read_bytes()
    assert "failed: fails: exit code 1" in outcome.as_text()
    (scripts / "write.py").write_text(WRITE.replace('"fails"', '"never"'))
    assert run_commands(folder, commands, 1, {}).missing == 0
    assert _read(folder, after_bad) == "xfails"


def test_what_a_running_command_prints_can_be_read(
    scripts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "_SHOW_LOGS_S", 0.0)
    slow = _write("slow")
    folder = StudyFolder(str(tmp_path / "out"))
    log = folder.find_log(slow)
    # The command itself waits until its first line is in the log, and then prints another one.
    (scripts / "write.py").write_text(
        "import pathlib, time\n"
        "print('step 1', flush=True)\n"
        f"log, limit = pathlib.Path({log!r}), time.monotonic() + 60\n"
        "while not (log.exists() and 'step 1' in log.read_text()):\n"
        "    assert time.monotonic() < limit\n"
        "    time.sleep(0.1)\n"
        "print('step 2')\n"
    )
    assert run_commands(folder, [slow], 1, {}).missing == 0
    assert Path(log).read_text() == "step 1\nstep 2\n"


def test_no_more_cores_are_taken_than_there_are(scripts: Path, tmp_path: Path) -> None:
    peaks: list[int] = []
    alive: list[tuple[int, Running]] = []
    cores = {f"n{number}": 1 + number % 2 for number in range(6)}

    def start(script: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Running:
        running = start_script(script, arguments, environment)
        alive.append((cores[arguments[1]], running))
        peaks.append(sum(n for n, one in alive if one.process.poll() is None))
        return running

    commands = [_write(name, seconds=0.4, cpus=count) for name, count in cores.items()]
    folder = StudyFolder(str(tmp_path / "out"))
    assert run_commands(folder, commands, 2, {}, start).missing == 0
    assert max(peaks) == 2


def test_a_command_larger_than_the_machine_runs_alone() -> None:
    large, small = _write("large", cpus=8), _write("small")
    schedule = Schedule((large, small), {})
    assert schedule.pick_next(2) is large


def test_what_cannot_resume_begins_anew(tmp_path: Path) -> None:
    folder = StudyFolder(str(tmp_path / "out"))
    draw = Command("draw", "dataset.py", ("draw", f"{OWN}/set", "--views", "3"), 5)
    sample = Command(
        "sample",
        "dataset.py",
        ("sample", Output(draw, "set/brief.json"), "--count", "2", "--to", f"{OWN}/two.json"),
        5,
    )
    cut = Path(sample.locate(folder.runs)) / "two.json"
    cut.parent.mkdir(parents=True)
    cut.write_text("[")
    assert run_commands(folder, list_commands([sample]), 1, {}).missing == 0
    assert len(json.loads(cut.read_text())) == 2


def test_a_killed_driver_takes_its_commands_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "sleep.py").write_text("import time; time.sleep(120)")
    program = (
        "import pathlib, time\n"
        "from s4v_core.reproduction import processes\n"
        f"processes._SCRIPTS = pathlib.Path({str(folder)!r})\n"
        "print(processes.start_script('sleep.py', [], {}).process.pid, flush=True)\n"
        "time.sleep(120)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert driver.stdout
    child = psutil.Process(int(driver.stdout.readline()))
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    gone, _ = psutil.wait_procs([child], timeout=20)
    assert gone


def test_time_to_go_follows_how_long_commands_really_take(tmp_path: Path) -> None:
    commands = [Command(str(n), "x.py", (str(n),), 10.0) for n in range(4)]
    folder = StudyFolder(str(tmp_path))
    done = {commands[0].key: folder.record(commands[0], 30.0)}
    assert Schedule(commands, done).estimate_s(1) == pytest.approx(90)
    assert Schedule(commands, done).estimate_s(3) == pytest.approx(30)
    assert Schedule(commands, {}).estimate_s(1) == pytest.approx(40)


def test_the_bar_has_one_estimate_and_it_is_that_of_the_studies(
    scripts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    commands = [_write("a"), _write("b", seconds=1)]
    assert run_commands(StudyFolder(str(tmp_path / "out")), commands, 1, {}).missing == 0
    shown = capfd.readouterr().err
    assert "2/2" in shown
    assert "[00:0" in shown
    assert "0 min to go]" in shown
    assert "cmd/s" not in shown


def test_a_study_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found 'table9', allowed table4"):
        open_reproduction(ReproduceJob(study=("table9",), output=str(tmp_path)))


def test_the_plan_tells_commands_and_power(tmp_path: Path) -> None:
    job = ReproduceJob(study=("all",), seeds=3, output=str(tmp_path), cpus=2)
    text = open_reproduction(job).describe()
    for name in STUDIES:
        assert f"\n{name}: " in text
    assert "with 3 seeds" in text
    assert "assumed spread" in text
