"""A trace of a few steps for TensorBoard's profiler (and Perfetto), taken while training goes on.

    with Profiler(run / "tensorboard", first_step=10, steps=5) as profiler:
        for step, batch in ...:
            state, metrics = profiler.run(step, train_step, state, frozen, batch)

Each step is one span named "train" with its number, as the profiler's step view wants it. Files go to
`plugins/profile/TIME/` of the directory; `tensorboard --logdir` with the plugin `xprof` shows them.
"""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import jax


class Profiler:
    """Traces `steps` steps from `first_step` on, once per process.

    A process's first step is never in the trace, for it compiles: with `first_step` there (or before, in a run that
    continues) the trace starts one step later. The last traced step is waited for, so that its device time is whole.

    Args:
      directory: of TensorBoard's logs.
      first_step: number of the first step to trace.
      steps: how many; 0 for none.
      enabled: whether to trace; None: in process 0 only.
    """

    def __init__(self, directory: str | Path, *, first_step: int, steps: int, enabled: bool | None = None) -> None:
        if steps < 0:
            raise ValueError(f"steps to profile must be 0 (none) or more, got {steps}")
        self.directory = Path(directory)
        self.first_step, self.steps = first_step, steps
        self._left = steps if (jax.process_index() == 0 if enabled is None else enabled) else 0
        self._warm = self._tracing = False

    def run[**P, R](self, step: int, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """`function(*args, **kwargs)`, as step `step` of the trace if it belongs there."""
        if self._left and not self._tracing and self._warm and step >= self.first_step:
            self.directory.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(str(self.directory))
            self._tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            result = function(*args, **kwargs)
        self._warm = True
        if self._tracing:
            self._left -= 1
            if not self._left:
                jax.block_until_ready(result)
                self.close()
        return result

    def close(self) -> None:
        """Ends a trace that is still open: the run stopped inside it, and what there is gets written."""
        if self._tracing:
            self._tracing, self._left = False, 0
            jax.profiler.stop_trace()

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
