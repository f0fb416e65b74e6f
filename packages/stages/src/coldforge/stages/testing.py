"""What tests of the stages' programs share: several processes of one machine, as on as many hosts; what `--help` does.

(code, out, err), *others = run_together([[*words], [*words]])
"""

import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Ended(NamedTuple):
    """How a process ended: its exit code, and what it said."""

    code: int
    out: str
    err: str


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])


def asked_for_help(program: str, *words: str) -> tuple[str, set[str]]:
    """What a program prints with --help, in a process of its own, and the names of all modules that it has imported.

    Args:
        program: The module whose `main` takes the words of a command line.
        words: Before --help.
    """
    script = (
        f"import sys\nfrom {program} import main\n"
        "try:\n    main([*sys.argv[1:], '--help'])\nexcept SystemExit:\n    pass\nprint(*sys.modules)"
    )
    command = [sys.executable, "-c", script, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    *page, modules = done.stdout.splitlines()
    return "\n".join(page), set(modules.split())


def run_together(
    commands: Sequence[Sequence[str]], *, env: Mapping[str, str] | None = None, timeout: float = 400
) -> list[Ended]:
    """Runs programs with the option `--distributed` as processes of one group, the first command as process 0.

    Raises:
        TimeoutExpired: One of them has not ended after so many seconds; all are killed.
    """
    return run_all(as_group(commands), env=env, timeout=timeout)


def as_group(commands: Sequence[Sequence[str]]) -> list[list[str]]:
    """The commands with the options `--distributed`, as processes of one group, the first as process 0."""
    group = ["--distributed.initialize", "--distributed.coordinator", f"localhost:{free_port()}",
             "--distributed.processes", str(len(commands)), "--distributed.process"]  # fmt: skip
    return [[*command, *group, str(rank)] for rank, command in enumerate(commands)]


def run_all(
    commands: Sequence[Sequence[str]], *, env: Mapping[str, str] | None = None, timeout: float = 400
) -> list[Ended]:
    """Runs commands at the same time; as for `run_together`."""
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)  # noqa: S603
        for command in commands
    ]
    try:
        said = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [Ended(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]
