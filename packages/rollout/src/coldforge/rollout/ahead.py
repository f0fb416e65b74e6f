"""An engine's programs lowered ahead of time, also for devices that are not there: what they take, before a run.

engine = Engine(abstract_model(gemma3_1b(), dtype=jnp.bfloat16, mesh=mesh_of_a_slice), params, config)
engine.lowered()["decode"].compile().memory_analysis()
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Lowered

from coldforge.modeling import named_sharding
from coldforge.rollout import programs
from coldforge.rollout.batcher import empty
from coldforge.rollout.packing import PackedPrompts
from coldforge.rollout.sampling import SamplingParams
from coldforge.rollout.sizes import Sizes


def lower(sizes: Sizes, graph: Any, weights: Any, params: SamplingParams) -> dict[str, Lowered]:
    """`prefill` (its largest call), `admit` and `decode` with all slots."""
    with programs.mesh_context(sizes.demand.mesh):
        store, slots = _placed(jax.eval_shape(lambda: empty(sizes, sizes.slots)), sizes)
        one, ids = np.int32(1), np.zeros(sizes.prefill_shapes[-1], np.int32)
        packed = PackedPrompts(ids, ids, ids, ids, last=np.zeros((sizes.store_rows, 2), np.int32))
        each = np.zeros(sizes.entries, np.int32)
        keys = np.zeros((sizes.entries, 2), np.uint32)
        entries = programs.Entries(each, each, each, keys, each, params.rows(sizes.entries))
        stop_ids = np.asarray(params.stop_ids, np.int32).reshape(-1)
        return {
            "prefill": programs.prefill.lower(graph, weights, store, packed),
            "admit": programs.admit.lower(slots, store, entries),
            "decode": programs.decode.lower(graph, weights, slots, stop_ids, one, one),
        }


def _placed(tree: Any, sizes: Sizes) -> Any:
    """Shapes with the shardings that the programs themselves leave their results in."""
    mesh = sizes.demand.mesh
    if mesh is None:
        return tree

    def place(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(
            x.shape, jnp.dtype(x.dtype), sharding=named_sharding(programs.axes(x), x.shape, mesh)
        )

    return jax.tree.map(place, tree)
