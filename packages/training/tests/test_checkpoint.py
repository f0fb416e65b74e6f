"""Checkpoints come back, on any mesh; what is not whole, or foreign, is named; a full disk takes none of them away."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coldforge.training import (
    Checkpointer,
    CheckpointError,
    ForeignCheckpointError,
    abstract_state,
    make_optimizer,
    place_batch,
)

pytestmark = pytest.mark.whole

IDENTITY = {"base": "sha256:aa", "tokenizer": {"hash": "t1", "size": 64}, "dataset": "d1"}
DATA = {"epoch": 2, "position": 17, "order": [3, 1, 2], "shuffle": {"seed": 7}}


@pytest.fixture
def make(tmp_path):
    """Makes checkpointers on one directory, and closes them."""
    made = []

    def make(**options):
        made.append(Checkpointer(tmp_path / "checkpoints", **({"identity": IDENTITY} | options)))
        return made[-1]

    yield make
    for checkpointer in made:
        checkpointer.close()


@pytest.fixture
def saved(make, tiny):
    """Checkpoints of steps 1, 2 and 3 are there; their directory."""
    with make(keep_last=9) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step, tiny, {"position": step})
    return checkpointer.directory


@pytest.fixture(scope="module")
def tiny():
    """A state of nothing but odd values, which are kept to the bit."""
    return {"w": jnp.array([[jnp.nan, -0.0], [jnp.inf, 1e-45]]), "layers": [jnp.arange(3), jnp.zeros((), jnp.uint32)]}


@pytest.fixture(scope="module")
def state(small):
    """A training state after two steps, when moments are not 0."""
    step, state = small.make_step(), small.make_state()
    for index in range(2):
        state, _ = step(state, small.placed_frozen(), place_batch(small.make_batch(index)))
    return state


def assert_equal(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_everything_comes_back(make, small, state):
    with make() as checkpointer:
        checkpointer.save(2, state, DATA, {"eval/loss": 0.5, "broken": float("nan")})
    found = make().restore_latest(abstract_state(state.params, make_optimizer(small.CONFIG, small.STEPS)))
    assert (found.step, found.data_state) == (2, DATA)
    assert found.metrics == {"eval/loss": 0.5, "broken": None}
    assert_equal(found.state, state)


def test_odd_values_come_back(saved, make, tiny):
    assert_equal(make().restore_latest(tiny).state, tiny)


def test_a_new_directory_has_none(make, tiny):
    checkpointer = make()
    assert checkpointer.restore_latest(tiny) is None
    assert checkpointer.steps() == []
    assert checkpointer.best() is None


def test_training_goes_on_while_a_checkpoint_is_written(make, small):
    """The next step consumes the state's buffers; what is written is what was there."""
    step, state, frozen = small.make_step(), small.make_state(), small.placed_frozen()
    kept = {}
    with make(keep_last=9) as checkpointer:
        for index in range(6):
            state, _ = step(state, frozen, place_batch(small.make_batch(index)))
            kept[index] = jax.tree.map(lambda x: np.array(x, copy=True), state)
            checkpointer.save(index, state, {})
    for index, want in kept.items():
        assert_equal(checkpointer.restore(index, state).state, want)
    assert 0 < checkpointer.times.stall <= checkpointer.times.total


@pytest.mark.parametrize("sizes", [None, (8, 1, 1), (1, 8, 1)], ids=str)
def test_restores_onto_another_mesh(make, small, sizes):
    saved = small.make_state(small.make_mesh(2, 2, 2))
    with make() as checkpointer:
        checkpointer.save(0, saved, {})
    mesh = None if sizes is None else small.make_mesh(*sizes)
    params = small.placed(mesh, seed=1)
    optimizer = make_optimizer(small.CONFIG, small.STEPS)
    abstract = abstract_state(params, optimizer, shard_optimizer=None if mesh is None else "data")
    found = make().restore_latest(abstract).state
    assert_equal(jax.device_get(found), jax.device_get(saved))
    if mesh is not None:
        jax.tree.map(lambda a, b: np.testing.assert_equal(a.sharding, b.sharding), found, abstract)


def test_keeps_the_last_and_the_best(make, tiny):
    losses = {1: 0.9, 2: 0.3, 3: 0.5, 4: None, 5: 0.8, 6: float("nan"), 7: 0.7}
    with make(keep_last=2, keep_best=2) as checkpointer:
        for step, loss in losses.items():
            checkpointer.save(step, tiny, {}, None if loss is None else {"eval/loss": loss})
    assert checkpointer.steps() == [2, 3, 6, 7]
    assert checkpointer.best() == 2
    assert sorted(p.name for p in checkpointer.directory.iterdir()) == [f"step_{s:08d}" for s in (2, 3, 6, 7)]


def test_the_best_may_be_the_highest(make, tiny):
    with make(keep_last=1, keep_best=1, best_metric="accuracy", best_mode="max") as checkpointer:
        for step, value in enumerate((0.1, 0.8, 0.8, 0.2)):
            checkpointer.save(step, tiny, {}, {"accuracy": value})
    assert checkpointer.steps() == [2, 3]  # of equals the later
    assert make(best_metric="other").best() is None


def test_the_same_step_is_replaced(saved, make, tiny):
    with make(keep_last=9) as checkpointer:
        checkpointer.save(2, tiny, {"position": "again"})
        checkpointer.wait()
        assert checkpointer.restore(2, tiny).data_state == {"position": "again"}
    assert checkpointer.steps() == [1, 2, 3]


def test_there_is_a_checkpoint_while_it_is_replaced(make, tiny, monkeypatch):
    """Deleting takes a while, and a process may be killed in it."""
    checkpointer, moments, real = make(keep_last=1), [], shutil.rmtree
    checkpointer.save(1, tiny, {"position": "first"})
    checkpointer.wait()

    def rmtree(path, *args, **options):
        moments.append((path.name, checkpointer.steps()))
        real(path, *args, **options)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    checkpointer.save(1, tiny, {"position": "again"})
    checkpointer.wait()
    assert moments == [(".step_00000001.deleted", [1])]
    assert checkpointer.restore(1, tiny).data_state == {"position": "again"}


def test_numbers_that_json_lacks_come_back(make, tiny):
    """A nan in what an iterator remembers must not cost the run its checkpoints."""
    checkpointer = make()
    checkpointer.save(1, tiny, {"mean": float("nan"), "least": [float("inf")]})
    checkpointer.wait()
    state = checkpointer.restore_latest(tiny).data_state
    assert np.isnan(state["mean"])
    assert state["least"] == [float("inf")]


def no_marker(path):
    (path / "coldforge.json").unlink()


def broken_marker(path):
    (path / "coldforge.json").write_text('{"version": 1, "step"')


def poor_marker(path):
    (path / "coldforge.json").write_text('{"version": 1, "step": 3, "files": {}}')


def absent_file(path):
    (path / "state" / "manifest.ocdbt").unlink()


def short_file(path):
    with max((path / "state").rglob("*"), key=lambda p: p.stat().st_size * p.is_file()).open("r+b") as file:
        file.truncate(100)


def absent_state(path):
    (path / "state").rename(path / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(no_marker, "it has no coldforge.json"), (broken_marker, "coldforge.json cannot be read"),
     (poor_marker, "coldforge.json lacks arrays, config"), (absent_file, "state/manifest.ocdbt is absent"),
     (short_file, "has 100 of "), (absent_state, "is absent")],
)  # fmt: skip
def test_what_is_not_complete_is_named_and_passed_over(saved, make, tiny, messages, damage, reason):
    damage(saved / "step_00000003")
    checkpointer = make()
    assert checkpointer.steps() == [1, 2]
    assert checkpointer.restore_latest(tiny).data_state == {"position": 2}
    [message] = messages()
    assert message.startswith(f"{saved / 'step_00000003'} is not complete (")
    assert reason in message
    assert message.endswith("passed over, going on from step 2")
    with pytest.raises(CheckpointError, match=rf"{reason}.*; complete are steps \[1, 2\]"):
        checkpointer.restore(3, tiny)


def test_the_first_process_warns_for_all(saved, make, tiny, messages, monkeypatch):
    no_marker(saved / "step_00000003")
    checkpointer = make()
    monkeypatch.setattr("jax.process_index", lambda: 1)
    assert checkpointer.restore_latest(tiny).step == 2
    assert messages() == []


def test_nothing_complete(saved, make, tiny, messages):
    for path in saved.iterdir():
        no_marker(path)
    assert make().restore_latest(tiny) is None
    assert len(messages()) == 3
    assert "passed over, there is no complete checkpoint" in messages()[0]


def test_leftovers_of_killed_processes(saved, make, tiny, messages):
    """Named when a run goes on, deleted by its first save; a reader beside a running process deletes nothing."""
    partial, deleted = saved / ".step_00000004.partial", saved / ".step_00000000.deleted"
    for path in (partial, deleted):
        (path / "state").mkdir(parents=True)
    checkpointer = make(keep_last=9)
    assert checkpointer.restore_latest(tiny).step == 3
    assert [m for m in messages() if str(partial) in m]
    assert partial.exists()
    assert deleted.exists()
    checkpointer.save(4, tiny, {})
    checkpointer.wait()
    assert checkpointer.steps() == [1, 2, 3, 4]
    assert not list(saved.glob(".*"))


def test_another_identity_is_refused(saved, make, tiny):
    other = {"base": "sha256:bb", "tokenizer": {"hash": "t1", "size": 65}}
    with pytest.raises(ForeignCheckpointError) as caught:
        make(identity=other).restore_latest(tiny)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{saved / 'step_00000003'} belongs to another run:"
    assert lines[1:4] == [
        "  base: the checkpoint has 'sha256:aa', this run 'sha256:bb'",
        "  tokenizer.size: the checkpoint has 64, this run 65",
        "  dataset: the checkpoint has 'd1', this run absent",
    ]


def test_another_config_is_refused_unless_it_may_differ(make, tiny):
    config = {"rank": 64, "log": {"every": 10}, "hours": None}
    with make(config=config) as checkpointer:
        checkpointer.save(1, tiny, {})
    allowed = {"may_differ": ("log.*", "hours")}
    assert make(config=config | {"log": {"every": 1}, "hours": 3.0}, **allowed).restore_latest(tiny).step == 1
    assert make().restore_latest(tiny).step == 1  # no config, none compared
    with pytest.raises(ForeignCheckpointError, match="rank: the checkpoint has 64, this run 32\nUse"):
        make(config=config | {"rank": 32, "log": {}}, **allowed).restore_latest(tiny)


def test_other_arrays_are_refused(saved, make, tiny):
    other = {"w": jnp.zeros((2, 3)), "layers": [jnp.zeros(3), jnp.zeros((), jnp.uint32), jnp.zeros(1)]}
    with pytest.raises(ForeignCheckpointError) as caught:
        make().restore_latest(other)
    assert "w: the checkpoint has 'float32[2, 2]', this run 'float32[2, 3]'" in str(caught.value)
    assert "layers.0: the checkpoint has 'int32[3]', this run 'float32[3]'" in str(caught.value)
    assert "layers.2: the checkpoint has absent, this run 'float32[1]'" in str(caught.value)


def test_another_version_is_refused(saved, make, tiny):
    marker = saved / "step_00000003" / "coldforge.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"version": 2}))
    with pytest.raises(ForeignCheckpointError, match="version 2; this release reads version 1"):
        make().restore_latest(tiny)


def test_a_step_that_is_not_there(saved, make, tiny):
    with pytest.raises(
        CheckpointError, match=r"step_00000009 is not a complete checkpoint: there is no such directory; "
    ):
        make().restore(9, tiny)


def test_damaged_arrays(make):
    one = {"w": jnp.ones(3)}  # of several, Orbax would leave some reads pending, whose end is an error in a later test
    with make() as checkpointer:
        checkpointer.save(3, one, {})
    for file in (checkpointer.directory / "step_00000003" / "state").rglob("manifest.ocdbt"):
        file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(CheckpointError, match=r"step_00000003 is damaged: .*\n.*the checkpoint before it"):
        make().restore_latest(one)


def test_a_data_state_that_json_lacks(make, tiny):
    checkpointer = make()
    with pytest.raises(TypeError, match=r"data_state\.rng is .* of type Generator, which a config file cannot hold"):
        checkpointer.save(1, tiny, {"rng": np.random.default_rng(0)})
    assert not checkpointer.directory.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"keep_last": 0}, "keep_last must be at least 1"), ({"keep_best": -1}, "keep_best 0"),
     ({"best_mode": "least"}, "\"min\" or \"max\", got 'least'")],
)  # fmt: skip
def test_options_out_of_range(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_a_full_disk_at_the_last_moment(saved, make, tiny, monkeypatch):
    """Everything is written but the marker."""

    def full(self, target):
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    checkpointer = make(keep_last=9)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        checkpointer.save(4, tiny, {})
        with pytest.raises(CheckpointError) as caught:
            checkpointer.save(5, tiny, {})  # the next call says it
    assert "the checkpoint of step 4 could not be written" in str(caught.value)
    assert "No space left on device" in str(caught.value)
    assert "Complete checkpoints, untouched: 1, 2, 3. Free on that disk: " in str(caught.value)
    assert checkpointer.restore_latest(tiny).step == 3
    assert not list(saved.glob(".*"))  # room is made at once
    checkpointer.save(5, tiny, {})
    checkpointer.wait()
    assert checkpointer.steps() == [1, 2, 3, 5]


FULL_DISK = """
import sys
import jax.numpy as jnp, numpy as np
from pathlib import Path
from coldforge.training import Checkpointer, CheckpointError
state = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(256, 1024)), jnp.float32)}  # 1 MiB
checkpointer = Checkpointer(Path(sys.argv[1]) / "checkpoints", identity={}, keep_last=9)
saved = []
for step in range(9):
    try:
        checkpointer.save(step, state, {})
        checkpointer.wait()
        saved.append(step)
    except CheckpointError as error:
        print(error)
        break
assert checkpointer.steps() == saved, (checkpointer.steps(), saved)
assert checkpointer.restore_latest(state).step == saved[-1]
print("saved", saved, "left", [p.name for p in checkpointer.directory.glob(".*")])
"""


def test_a_disk_that_is_really_full(tmp_path):
    """On a file system of 3 MB, of its own."""
    mount = f"mount -t tmpfs -o size=3m tmpfs {tmp_path} && exec "
    alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        may = subprocess.run([*alone, mount + "true"], capture_output=True, timeout=20).returncode == 0
    except FileNotFoundError:
        may = False
    if not may:
        pytest.skip("this system lets nobody mount a file system of their own (unshare)")
    script = tmp_path.parent / "full_disk.py"
    script.write_text(FULL_DISK)
    done = subprocess.run(
        [*alone, f"{mount}{sys.executable} {script} {tmp_path}"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "the checkpoint of step 3 could not be written" in done.stdout
    assert "No space left on device" in done.stdout
    assert "Complete checkpoints, untouched: 0, 1, 2. " in done.stdout
    assert done.stdout.splitlines()[-1] == "saved [0, 1, 2] left []"
