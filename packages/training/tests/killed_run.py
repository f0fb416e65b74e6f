"""A small training run that test_resume.py starts, kills and starts again by the same command: DIRECTORY [STEPS].

Each step's loss is written to DIRECTORY/losses, exactly; a start drops the lines after the checkpoint that it found.
"""

import sys
import time
from pathlib import Path

import numpy as np
from conftest import CONFIG, STEPS, make_batch, make_state, make_step, noisy_loss, placed_frozen

from coldforge.training import Checkpointer, abstract_state, make_optimizer, open_run, place_batch


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
        optimizer = make_optimizer(CONFIG, STEPS)
        state = make_state()
        first, log = 0, directory / "losses"
        found = checkpointer.restore_latest(abstract_state(state.params, optimizer))
        if found is not None:
            first, state = found.step, found.state
            rows.epoch, rows.place = found.data_state["epoch"], found.data_state["place"]
        kept = log.read_text().splitlines()[:first] if log.exists() else []
        log.write_text("".join(f"{line}\n" for line in kept))
        print(f"from step {first}", flush=True)
        step, frozen = make_step(loss=noisy_loss), placed_frozen()
        with log.open("a", buffering=1) as lines:
            for index in range(first, steps):
                state, metrics = step(state, frozen, place_batch(make_batch(next(rows))))
                lines.write(f"{index} {float(metrics['loss']).hex()}\n")
                time.sleep(0.005)
                if (index + 1) % 4 == 0:
                    checkpointer.save(index + 1, state, {"epoch": rows.epoch, "place": rows.place})
        checkpointer.save(steps, state, {"epoch": rows.epoch, "place": rows.place})
        checkpointer.wait()
        run.close("finished")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
