"""All stages in two processes, as on two hosts, come to what one process comes to."""

import dataclasses
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from coldforge import training
from coldforge.apps.pipeline import main as program
from coldforge.apps.pipeline.config import Options, PipelineConfig
from coldforge.apps.pipeline.outcome import checkpoints_of
from coldforge.apps.pipeline.stages import CHECKPOINTS
from coldforge.stages.testing import run_together

pytestmark = pytest.mark.slow

SCRIPT = """
import dataclasses, pickle, sys
from pathlib import Path
import tyro
from coldforge.apps.pipeline.main import run
from coldforge.stages.options import Distributed

@dataclasses.dataclass
class Group:
    distributed: Distributed

options = pickle.loads(Path(sys.argv[1]).read_bytes())
sys.exit(run(dataclasses.replace(options, distributed=tyro.cli(Group, args=sys.argv[2:]).distributed)))
"""


def test_two_processes_come_to_the_same(
    short: PipelineConfig, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = Options(run=tmp_path / "alone", weights=weights, config=short)
    assert program.run(alone) == 0
    capsys.readouterr()
    together, options = tmp_path / "together", tmp_path / "options.pickle"
    options.write_bytes(pickle.dumps(dataclasses.replace(alone, run=together)))
    command = [sys.executable, "-c", SCRIPT, str(options)]
    first, second = run_together([command, command], env=os.environ | {"JAX_PLATFORMS": "cpu"}, timeout=900)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert "GRPO 2 − base: " in first.out
    assert "GRPO 2 − base: " not in second.out, "the first process speaks"
    for stage in ("cold-start", "rl-1", "sft-2", "rl-2"):
        (steps, losses), (others, other_losses) = (
            training.read_metrics(run / stage)["train/loss"] for run in (alone.run, together)
        )
        assert np.array_equal(steps, others)
        np.testing.assert_allclose(losses, other_losses, atol=2e-5, err_msg=stage)
    assert [each.label for each in checkpoints_of(together)] == list(CHECKPOINTS)
    rows = [(run / "data" / "heldout.jsonl").read_bytes() for run in (alone.run, together)]
    assert rows[0] == rows[1]
