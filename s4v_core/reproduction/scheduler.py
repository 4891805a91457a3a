"""Runs the commands of studies: what is done is left alone, what is ready starts where there is
room, and a command that fails keeps only those waiting that need it."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from s4v_core import storage
from s4v_core.interrupts import drain_on_interrupt
from s4v_core.progress import open_bar
from s4v_core.reproduction.command import Command
from s4v_core.reproduction.processes import Running, start_script
from s4v_core.reproduction.records import Done, StudyFolder
from s4v_core.terminal import printable

log = logging.getLogger(__name__)

_POLL_S = 0.5
_SHOW_LOGS_S = 10.0
"""Seconds between two looks at what running commands print."""


@dataclass(slots=True)
class Schedule:
    """Which commands are done, running, failed and to come."""

    commands: Sequence[Command]
    done: dict[str, Done]
    running: dict[str, tuple[Command, Running]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def pick_next(self, cpus: int) -> Command | None:
        """The first command whose inputs are there and that fits beside those that run; one that is
        larger than the machine runs alone."""
        free = cpus - sum(command.cpus for command, _ in self.running.values())
        for command in self.commands:
            known = self.done.keys() | self.running.keys() | self.failed.keys()
            if command.key in known or any(one.key not in self.done for one in command.needs):
                continue
            if command.cpus <= free or not self.running:
                return command
            if command.cpus > 1:  # smaller ones must not keep a large one waiting for ever
                return None
        return None

    def list_missing(self) -> list[Command]:
        return [one for one in self.commands if one.key not in self.done]

    def estimate_s(self, cpus: int) -> float:
        """Seconds to go: what was expected, scaled by how long finished commands really took."""
        known = [one for one in self.commands if one.key in self.done]
        expected = sum(one.expected_s for one in known)
        took = sum(self.done[one.key].seconds for one in known)
        pace = took / expected if expected else 1.0
        missing = self.list_missing()
        spent = sum(running.seconds for _, running in self.running.values())
        work = sum(one.expected_s * min(one.cpus, cpus) for one in missing) * pace
        return max(work - spent, 0.0) / max(cpus, 1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a run of commands.

    Attributes:
        failed: The last lines of commands that failed, by their label.
        missing: Number of commands that are not done.
    """

    done: int
    missing: int
    failed: Mapping[str, str]

    def as_text(self) -> str:
        lines = [f"{self.done:,} commands are done, {self.missing:,} are missing"]
        lines += [f"failed: {label}: {last}" for label, last in self.failed.items()]
        return "\n".join(lines)


def run_commands(
    folder: StudyFolder,
    commands: Iterable[Command],
    cpus: int,
    environment: Mapping[str, str],
    start: Callable[..., Running] = start_script,
) -> Outcome:
    """Run the commands that are not done, as many at once as `cpus` hold.

    Args:
        commands: In an order in which each one follows what it needs.
        start: Starts a process; see `start_script`.
    """
    schedule = Schedule(tuple(commands), folder.list_done())
    total = len(schedule.commands)
    begun = total - len(schedule.list_missing())
    stopping: list[bool] = []
    shown = time.monotonic()
    with (
        open_bar("study", total, begun, "cmd", estimates=False) as bar,
        drain_on_interrupt(lambda: stopping.append(True), "finishing the commands that run"),
    ):
        while True:
            while not stopping and (command := schedule.pick_next(cpus)):
                if not command.resumes:
                    storage.remove(command.locate(folder.runs))
                running = start(command.script, command.fill_in(folder.runs), environment)
                schedule.running[command.key] = (command, running)
            if not schedule.running:
                break
            time.sleep(_POLL_S)
            bar.update(_collect(folder, schedule))
            if time.monotonic() - shown >= _SHOW_LOGS_S:
                shown = time.monotonic()
                _show_logs(folder, schedule)
            bar.set_postfix_str(_say_what_runs(schedule, cpus), refresh=False)
    missing = schedule.list_missing()
    labels_of = {one.key: one.label for one in schedule.commands}
    failed = {labels_of[key]: last for key, last in schedule.failed.items()}
    return Outcome(total - len(missing), len(missing), failed)


def _say_what_runs(schedule: Schedule, cpus: int) -> str:
    labels = ", ".join(command.label for command, _ in schedule.running.values())
    to_go = f"{schedule.estimate_s(cpus) / 60:.0f} min to go"
    return f"{to_go}; {labels}" if labels else to_go


def _show_logs(folder: StudyFolder, schedule: Schedule) -> None:
    for command, running in schedule.running.values():
        storage.replace(folder.find_log(command), running.read_log())


def _collect(folder: StudyFolder, schedule: Schedule) -> int:
    """Note the commands that have ended; returns how many ended well."""
    count = 0
    for key, (command, running) in list(schedule.running.items()):
        code = running.process.poll()
        if code is None:
            continue
        del schedule.running[key]
        storage.replace(folder.find_log(command), running.read_log())
        if code == 0:
            schedule.done[key] = folder.record(command, running.seconds)
            count += 1
        else:
            last = printable(running.read_last_lines())
            schedule.failed[key] = f"exit code {code}: {last}"
            log.warning("%s failed; see %s", command.label, folder.find_log(command))
        running.log.close()
    return count
