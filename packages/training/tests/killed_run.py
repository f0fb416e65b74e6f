"""A small training run that test_resume.py starts, kills and starts again by the same command: DIRECTORY [STEPS].

It writes what a run writes: metrics of each step, findings of a watchdog that is easily alarmed, checkpoints.
"""

import sys
import time
from pathlib import Path

import numpy as np
from conftest import CONFIG, STEPS, make_batch, make_state, make_step, noisy_loss, placed_frozen

from coldforge.training import (
    Checkpointer,
    MetricLog,
    Watchdog,
    WatchdogConfig,
    abstract_state,
    make_optimizer,
    open_run,
    place_batch,
)

EASILY_ALARMED = WatchdogConfig(
    cooldown=3, window=5, rise_share=0.01, clip_window=4, clip_share=0.5, first_loss_high=0.1
)


class Rows:
    """Row numbers in an order that depends on the epoch, as a data pipeline gives them."""

    def __init__(self, count: int) -> None:
        self.count, self.epoch, self.place = count, 0, 0

    def __next__(self) -> int:
        order = np.random.default_rng(self.epoch).permutation(self.count)
        row = int(order[self.place])
        self.place += 1
        if self.place == self.count:
            self.epoch, self.place = self.epoch + 1, 0
        return row


def main(directory: Path, steps: int) -> None:
    rows = Rows(7)
    with (
        open_run(directory, stage="test", config={"optimizer": CONFIG, "steps": steps}) as run,
        Checkpointer(run.checkpoints, identity={"base": "none"}, keep_last=2) as checkpointer,
    ):
        optimizer, watchdog = make_optimizer(CONFIG, STEPS), Watchdog(EASILY_ALARMED)
        state = make_state()
        first = 0
        found = checkpointer.restore_latest(abstract_state(state.params, optimizer))
        if found is not None:
            first, state = found.step, found.state
            rows.epoch, rows.place = found.data_state["epoch"], found.data_state["place"]
            watchdog.from_dict(found.data_state["watchdog"])
        print(f"from step {first}", flush=True)
        step, frozen = make_step(loss=noisy_loss), placed_frozen()
        with MetricLog(directory, step=None if found is None else first) as log:
            for index in range(first + 1, steps + 1):
                state, metrics = step(state, frozen, place_batch(make_batch(next(rows))))
                scalars = {f"train/{name}": float(value) for name, value in metrics.items()}
                log.scalars(index, scalars)
                for finding in watchdog.observe(index, scalars):
                    log.text(index, "watchdog", str(finding))
                time.sleep(0.02)  # some steps without a save in progress
                if index % 4 == 0 or index == steps:
                    log.sync()
                    place = {"epoch": rows.epoch, "place": rows.place, "watchdog": watchdog.to_dict()}
                    checkpointer.save(index, state, place)
        checkpointer.wait()
        run.close("finished")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
