"""Before and after: held-out questions, the same ones, answered by the policy that the run began with and by its last.

Replies before are kept in the run (`heldout/before.jsonl`), so that a run that goes on does not ask again.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from coldforge import training
from coldforge.apps.grpo.ask import ask, shares
from coldforge.apps.grpo.build import Built
from coldforge.apps.grpo.config import GrpoGate
from coldforge.apps.grpo.inputs import Inputs
from coldforge.apps.grpo.train import Wired
from coldforge.sft import GateLimits, GateResult, Graded, judge
from coldforge.stages.devices import everybodys
from coldforge.stages.gate import read_replies, write_replies

BEFORE, AFTER = "before.jsonl", "after.jsonl"


def before(built: Built, inputs: Inputs, wired: Wired, run: training.Run) -> list[Graded]:
    """The replies of the policy that the run began with: those kept in the run, or new ones, which are kept."""
    file = run.path / "heldout" / BEFORE
    if everybodys(file.is_file()):
        replies = read_replies(file)
    else:
        doing = wired.parts.doing
        assert doing is not None
        with doing(f"{len(inputs.heldout)} held-out questions, before"):
            replies = ask(wired.sampler, built.params, inputs.heldout, wired.judge)
        write_replies(file, replies)
    if wired.start.step == 0 and wired.parts.log is not None:
        wired.parts.log.scalars(0, shares(replies))  # where the curve begins
    return replies


def hold_gate(
    params: Any, before: Sequence[Graded], inputs: Inputs, wired: Wired, run: training.Run
) -> tuple[GateResult, list[Graded]]:
    """Asks the last policy and judges it against the first: the verdict, which goes into the manifest, and replies."""
    doing = wired.parts.doing
    assert doing is not None
    with doing(f"gate: {len(inputs.heldout)} held-out questions"):
        after = ask(wired.sampler, params, inputs.heldout, wired.judge)
    write_replies(run.path / "heldout" / AFTER, after)
    result = judge(before, after, limits(wired.sampler.built.config.gate))
    run.update(gate=result.to_dict())
    return result, after


def limits(gate: GrpoGate) -> GateLimits:
    """The gate's limits, of options.

    Raises:
        ValueError: One is no share.
    """
    return GateLimits(**dataclasses.asdict(gate))
