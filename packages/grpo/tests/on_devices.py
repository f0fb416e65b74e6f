"""The loop on several devices, for test_devices.py: OUT NAME [PORT RANK]. Writes OUT/NAME.json and .npz.

Without a port: one process with all devices. With one: a process of two, each with its devices and half of the rows.
"""

import json
import sys
import threading
from functools import cache
from pathlib import Path

import conftest as toy
import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from coldforge.grpo import fit, grpo_loss, is_empty, make_score, new_start, resume
from coldforge.training import Vote, abstract_state, init_state, make_optimizer, make_schedule, make_train_step
from coldforge.training import place_batch as place

OUT, NAME, *DISTRIBUTED = sys.argv[1:]
SHAPE = toy.shape_of(toy.ON_DEVICES, rows=8, seq_len=12)
SHAPE = SHAPE._replace(accumulation=SHAPE.accumulation + 1)  # the last micro-batch is always empty


@cache
def programs():
    """Step and scoring pass of all runs of this process, whose compilations are counted."""
    config, schedule = toy.ON_DEVICES, make_schedule(toy.OPTIMIZER, toy.STEPS)
    loss = grpo_loss(toy.apply, config.policy, old=config.old)
    optimizer = make_optimizer(toy.OPTIMIZER, toy.STEPS)
    step = make_train_step(loss, optimizer, schedule, accumulation=SHAPE.accumulation, empty=is_empty)
    return step, make_score(toy.apply)


def parts_on(mesh, config, directory, **other):
    """The toy on a mesh."""
    shape, (step, score) = SHAPE, programs()
    whole = NamedSharding(mesh, P())
    frozen = jax.device_put(toy.make_frozen(), whole)
    half = shape.rows // jax.process_count()
    own = slice(jax.process_index() * half, (jax.process_index() + 1) * half)
    return toy.make_parts(
        config, directory, shape=shape, train=lambda state, batch: step(state, frozen, batch),
        score=lambda params, batch: score(params, frozen, batch),
        place=lambda batch: place(jax.tree.map(lambda x: x[:, own], batch), mesh=mesh),
        compiles=lambda: {"train": step.compiles(), "score": score._cache_size()}, **other,
    ), jax.device_put(toy.make_params(), whole)  # fmt: skip


def train(mesh, directory, **other):
    """One run to its end, or to where it is told to stop; goes on from a checkpoint if there is one."""
    config, log = toy.ON_DEVICES, toy.Rows()
    with toy.make_checkpointer(directory) as checkpoints:
        parts, params = parts_on(mesh, config, directory, checkpoints=checkpoints, log=log, **other)
        optimizer = make_optimizer(toy.OPTIMIZER, toy.STEPS)
        start = resume(parts, abstract_state(params, optimizer), config)
        start = start or new_start(init_state(params, optimizer, 0), config)
        return fit(start, parts, config), log


def undisturbed(mesh, out):
    judged = []

    def judge(position, samples):
        judged.append(position)
        return toy.some_equal(position, samples)

    result, log = train(mesh, out / "whole", judge=judge)
    params = {name: np.asarray(x.addressable_data(0)) for name, x in result.state.params.items()}
    np.savez(Path(OUT) / f"{NAME}.npz", **params)
    return {"rows": log.rows, "judged": len(judged), "texts": len(log.texts), "reason": result.reason}, params


def stopped_and_gone_on(mesh, out, params):
    """Whether a run that stops within its second rollout ends as the other one."""
    asked = []

    def stop():
        asked.append(1)
        return "enough" if len(asked) >= 25 else None

    result, _ = train(mesh, out / "stopped", judge=toy.some_equal, stop=stop)
    again, _ = train(mesh, out / "stopped", judge=toy.some_equal)
    found = {name: np.asarray(x.addressable_data(0)) for name, x in again.state.params.items()}
    return {"stopped": result.step, "reason": result.reason, "end": again.step,
            "same": all(np.array_equal(found[name], params[name]) for name in params)}  # fmt: skip


def broken_off(mesh, out):
    """What each process raises when the first one cannot judge; and why both stop though a judge hangs."""
    vote, found = Vote(), {}

    def raises(position, samples):
        raise ZeroDivisionError("a rule with a bug")

    try:
        train(mesh, out / "raises", judge=raises)
    except Exception as error:
        found["raised"] = f"{type(error).__name__}: {error}"
    asked = []

    def stop():
        asked.append(1)
        return "SIGTERM" if vote.cast(int(jax.process_index() == 1 and len(asked) > 6)) else None

    hung, _ = train(mesh, out / "hangs", judge=lambda position, samples: threading.Event().wait(), stop=stop)
    return found | {"hung": hung.reason, "hung_step": hung.step}


def main() -> None:
    if DISTRIBUTED:
        port, rank = DISTRIBUTED
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=int(rank))
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    out = Path(OUT) / ("two" if DISTRIBUTED else "one")
    with jax.set_mesh(mesh):
        found, params = undisturbed(mesh, out)
        if DISTRIBUTED:
            found |= {"again": stopped_and_gone_on(mesh, out, params), "broken": broken_off(mesh, out)}
    (Path(OUT) / f"{NAME}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
