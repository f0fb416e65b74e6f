"""The gate held: both models asked, replies judged, the verdict in the manifest."""

from collections.abc import Callable

from flax import nnx
from rich.console import Console

from coldforge import training
from coldforge.apps.sft.ask import ask, base_replies
from coldforge.apps.sft.build import Built
from coldforge.apps.sft.config import GateOptions
from coldforge.apps.sft.inputs import Inputs
from coldforge.sft import GateLimits, GateResult, Graded, judge
from coldforge.stages.gate import write_replies


class StoppedError(Exception):
    """The run was told to stop while the gate was asking."""


def hold_gate(
    built: Built, params: nnx.State, inputs: Inputs, run: training.Run, stopper: training.Stopper, notes: Console,
    *, again: bool,
) -> tuple[GateResult, list[Graded], list[Graded]]:  # fmt: skip
    """Asks base and tuned model, and judges: the verdict, the base's replies, the tuned model's.

    Raises:
        StoppedError: A signal came, or the time box is used up; the base's replies are kept if they were complete.
    """
    total = len(inputs.prompts)
    with notes.status("gate") as status:

        def ticker(who: str) -> Callable[[int], None]:
            def tick(count: int) -> None:
                status.update(f"gate: {who}, {count} of {total} replies")
                if stopper.should_stop():
                    raise StoppedError(stopper.reason)

            return tick

        status.update(
            f"gate: base model, {total} prompts"
        )  # first, as its replies are kept if it is stopped after them
        base = base_replies(built, inputs, run, again=again, tick=ticker("base model"))
        status.update(f"gate: tuned model, {total} prompts")
        tuned = ask(built.sampler(params), inputs, built.config, tick=ticker("tuned model"))
        write_replies(run.path / "gate" / "tuned.jsonl", tuned)
    result = judge(base, tuned, limits(built.config.gate))
    run.update(gate=result.to_dict())
    return result, base, tuned


def limits(gate: GateOptions) -> GateLimits:
    """The gate's limits among its options."""
    return GateLimits(
        format=gate.format, ended=gate.ended, truncated=gate.truncated, accuracy_drop=gate.accuracy_drop,
        min_prompts=gate.min_prompts,
    )  # fmt: skip
