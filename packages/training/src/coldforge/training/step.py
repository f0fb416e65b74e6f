"""One training step as one compiled program: accumulation, one division, the update or none of it, small metrics.

    step = make_train_step(loss_fn, optimizer, schedule, accumulation=4)
    state, metrics = step(state, frozen, batch)     # batch leaves [4, rows, ...]; state's old arrays are gone

`loss_fn` returns sums over the weighted tokens of a micro-batch. Their gradients are added in float32 and divided once,
by the total weight of all micro-batches and devices, so the same batch gives the same update however it is split.

A loss or gradient that is not finite, or a batch without weight, leaves parameters and optimizer state as they were,
and `metrics["applied"]` is 0; the step is counted, for its batch was read. Nothing in the step touches the host;
fetching the metrics is the caller's, best one step late. A loss function that wants to know the mesh finds it where the
caller sets it, by `jax.set_mesh`.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree

from coldforge.training.optimizer import Schedule
from coldforge.training.state import TrainState


class Sums(NamedTuple):
    """What a loss function returns for one micro-batch: sums, which add up over micro-batches, devices and hosts.

    Attributes:
      loss: Σ weight · loss over tokens, float32 `[]`; this is differentiated.
      weight: Σ weight, which depends on no parameter, `[]`.
      aux: further sums for metrics, say a loss and a count per segment.
      maxima: metrics of which the largest is kept, as float32; −inf where there is nothing. A minimum is the negative
        of the maximum of the negatives.
    """

    loss: Float[Array, ""]
    weight: Float[Array, ""]
    aux: dict[str, Array]
    maxima: dict[str, Array] = {}  # noqa: RUF012 (a pytree, which nobody changes)

    def __add__(self, other: "Sums") -> "Sums":  # type: ignore[override]
        """Sums added, maxima compared."""
        if not isinstance(other, Sums):  # a tuple's own + would concatenate
            return NotImplemented
        maxima = {name: jnp.maximum(value, other.maxima[name]) for name, value in self.maxima.items()}
        aux = jax.tree.map(jnp.add, self.aux, other.aux)
        return Sums(self.loss + other.loss, self.weight + other.weight, aux, maxima)


# (params, frozen, micro_batch, key) → sums; `frozen` is any pytree that is not trained, `key` a typed random key.
LossFn = Callable[[PyTree, PyTree, PyTree, Array], Sums]
Empty = Callable[[PyTree], Array]  # micro_batch → whether it holds nothing, bool `[]`
Metrics = dict[str, Array]


class EmptyBatchError(ValueError):
    """A batch in which no token counts."""


def place_batch(
    batch: PyTree, *, mesh: Mesh | None = None, rows: tuple[str, ...] = ("data", "fsdp"), weights: Any = None,
    whole: bool = False,
) -> PyTree:  # fmt: skip
    """A batch of numpy arrays `[accumulation, rows, ...]` on the devices, rows split over the mesh axes `rows`.

    With several processes each passes its own rows, `[accumulation, rows / processes, ...]`. Which rows of the whole
    they become is up to the mesh: on a TPU slice of several hosts a host's rows need not lie side by side (v5e:8x8 has
    0, 1, 8 and 9 for the first). That is all the same to sums; where rows have to be found again, there is `whole`.

    Args:
      batch: a pytree of numpy arrays.
      mesh: None for the default device.
      rows: mesh axes that share the rows; those that the mesh lacks are left out.
      weights: the loss weights in the batch, to be checked here rather than found by the step.
      whole: each process passes all rows; row i of what is placed is row i of the batch.

    Raises:
      EmptyBatchError: if all weights are 0, or one is negative or not finite. A process sees only its own rows: with
        several of them, weights of 0 are left to the step, whose `applied` is 0 then.
      ValueError: if the mesh does not divide the rows.
    """
    if weights is not None:
        check_weights(np.asarray(weights))
    if mesh is None:
        return jax.device_put(batch)
    names = tuple(name for name in rows if name in mesh.shape)
    sharding = NamedSharding(mesh, PartitionSpec(None, names))
    _check_rows(batch, mesh, names, whole=whole)
    if whole:
        return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, x.__getitem__), batch)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def _check_rows(batch: PyTree, mesh: Mesh, names: tuple[str, ...], *, whole: bool) -> None:
    ways = math.prod(mesh.shape[name] for name in names)
    here = NamedSharding(mesh, PartitionSpec(names)).addressable_devices_indices_map((ways,)).values()
    own = ways if whole else len({index[0].start for index in here if index is not None})
    where = "" if whole else " in this process"
    for path, leaf in jax.tree.leaves_with_path(batch):
        if leaf.ndim < 2 or leaf.shape[1] % own:
            raise ValueError(
                f"batch{jax.tree_util.keystr(path)} has shape {leaf.shape}, [accumulation, rows, ...]; the mesh splits "
                f"rows {own} ways{where} ({' × '.join(names)}): give it a multiple of {own} rows per micro-batch, or "
                "another mesh"
            )


def check_weights(weights: np.ndarray) -> None:
    """Raises EmptyBatchError for weights that cannot be trained on; see `place_batch`."""
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise EmptyBatchError(f"loss weights must be finite and not negative, got {weights.min()} to {weights.max()}")
    if jax.process_count() == 1 and not weights.any():
        raise EmptyBatchError(
            f"all {weights.size} loss weights of the batch are 0: there is nothing to learn from it. "
            "Are the answers cut off, or is everything counted as prompt?"
        )


class TrainStep:
    """The compiled step of `make_train_step`: call it, or `lower` it for abstract arguments.

    The new state is sharded exactly as the old one, so the next call compiles nothing; metrics are on every device.
    """

    def __init__(self, function: Callable[..., tuple[TrainState, Metrics]]):
        self._function = function
        self._jitted: dict[tuple[Any, ...], Any] = {}

    def __call__(self, state: TrainState, frozen: PyTree, batch: PyTree) -> tuple[TrainState, Metrics]:
        return self._for(state)(state, frozen, batch)

    def lower(self, state: TrainState, frozen: PyTree, batch: PyTree) -> jax.stages.Lowered:
        """As `jax.jit`'s; leaves may be `jax.ShapeDtypeStruct`s with shardings."""
        return self._for(state).lower(state, frozen, batch)

    def compiles(self) -> int:
        """How many programs calls have needed; more than one in a run means that shapes or shardings change."""
        return sum(jitted._cache_size() for jitted in self._jitted.values())

    def _for(self, state: TrainState) -> Any:
        # Left to itself, XLA reports P("fsdp", None) as P("fsdp"), and an axis of size 1 not at all: another program.
        leaves, tree = jax.tree.flatten(state)
        found = (getattr(leaf, "sharding", None) for leaf in leaves)
        shardings = tuple(s if isinstance(s, NamedSharding) else None for s in found)
        if (tree, shardings) not in self._jitted:
            mesh = next((s.mesh for s in shardings if s is not None), None)
            whole = None if mesh is None else NamedSharding(mesh, PartitionSpec())
            where = jax.tree.unflatten(tree, shardings)
            function = partial(self._function, where=where)
            self._jitted[tree, shardings] = jax.jit(function, donate_argnums=0, out_shardings=(where, whole))
        return self._jitted[tree, shardings]


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    *,
    accumulation: int,
    unroll: bool = False,
    empty: Empty | None = None,
) -> TrainStep:
    """`step(state, frozen, batch) -> (state, metrics)`, jitted, with `state` donated.

    Metrics are device scalars: `loss` (mean over weighted tokens; nan for a batch without weight), `weight`,
    `grad_norm`, `grad_norm_clipped`, `update_norm` (0 if not applied), `learning_rate`, `applied` (0 or 1), and the
    loss function's own sums and maxima. Norms are of the whole gradient, on any mesh.

    Args:
      loss_fn: see `LossFn`; its key is folded from the run's key, the step and the micro-batch.
      optimizer: `make_optimizer`'s, or any of optax.
      schedule: what `learning_rate` is to show.
      accumulation: micro-batches per step, the first dimension of the batch's arrays.
      unroll: write the micro-batches out one after another, in place of a loop. Rarely of use: for LoRA of a small
        stack of MLPs, 4 × 2 × 512 tokens on a CPU, it was as fast, compiled twice as long and took 332 MiB in place of
        115.
      empty: micro-batches of which it says so are skipped, and cost nothing: batches of a fixed shape may then hold as
        much or as little as there is. They add 0 to every sum, and −inf to maxima.

    Raises:
      ValueError: if `accumulation` is less than 1 or not the batch's; if an aux sum has the name of another metric.
    """
    if accumulation < 1:
        raise ValueError(f"accumulation must be at least 1, got {accumulation}")
    optimizer = optax.with_extra_args_support(optimizer)

    def train_step(state: TrainState, frozen: PyTree, batch: PyTree, where: TrainState) -> tuple[TrainState, Metrics]:
        _check_accumulation(batch, accumulation)
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key, impl="threefry2x32"), state.step)
        gradients, sums = _accumulate(loss_fn, state.params, frozen, batch, key, unroll=unroll, empty=empty)
        gradients = _place_gradients(gradients, where)
        gradients = jax.tree.map(lambda g: g / jnp.where(sums.weight > 0, sums.weight, 1), gradients)
        norm = optax.tree.norm(gradients)
        applied = jnp.isfinite(sums.loss) & jnp.isfinite(norm) & jnp.isfinite(sums.weight) & (sums.weight > 0)

        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params, step=state.step)
        clipped = optax.tree.get(opt_state, "clipped_norm", norm)
        changed = (optax.apply_updates(state.params, updates), opt_state)
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(applied, new, old), changed, (state.params, state.opt_state)
        )
        metrics = {
            "loss": sums.loss / sums.weight,
            "weight": sums.weight,
            "grad_norm": norm,
            "grad_norm_clipped": clipped,
            "update_norm": jnp.where(applied, optax.tree.norm(updates), 0),
            "learning_rate": schedule(state.step),
            "applied": applied.astype(jnp.int32),
        }
        if taken := (metrics.keys() & (sums.aux | sums.maxima).keys()) | (sums.aux.keys() & sums.maxima.keys()):
            raise ValueError(f"the loss function's metrics have names of the step's own metrics: {sorted(taken)}")
        return TrainState(state.step + 1, params, opt_state, state.key), metrics | sums.aux | sums.maxima

    return TrainStep(train_step)


def make_eval_step(
    loss_fn: LossFn, *, unroll: bool = False, empty: Empty | None = None
) -> Callable[[PyTree, PyTree, PyTree], Sums]:
    """`evaluate(params, frozen, batch) -> Sums`, jitted, without gradients; batch leaves `[micro-batches, rows, ...]`.

    The key of the loss function is always the same. Add the sums of several batches, then divide.
    """

    @jax.jit
    def eval_step(params: PyTree, frozen: PyTree, batch: PyTree) -> Sums:
        def micro(index: Array, micro_batch: PyTree) -> Sums:
            return loss_fn(params, frozen, micro_batch, jax.random.fold_in(jax.random.key(0), index))

        return _sum_over(micro, batch, unroll=unroll, empty=empty)

    return eval_step


def _accumulate(
    loss_fn: LossFn, params: PyTree, frozen: PyTree, batch: PyTree, key: Array, *, unroll: bool, empty: Empty | None
) -> tuple[PyTree, Sums]:
    """Gradient of the summed loss in float32, and the sums, over the leading axis of the batch."""

    def micro(index: Array, micro_batch: PyTree) -> tuple[PyTree, Sums]:
        def loss(params: PyTree) -> tuple[Array, Sums]:
            sums = loss_fn(params, frozen, micro_batch, jax.random.fold_in(key, index))
            return sums.loss, sums

        gradients, sums = jax.grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda g: g.astype(jnp.float32), gradients), sums

    return _sum_over(micro, batch, unroll=unroll, empty=empty)


def _place_gradients(gradients: PyTree, where: TrainState) -> PyTree:
    """Sums of gradients, first where the parameters are, then where the optimizer state is.

    The first keeps XLA from splitting the sums inside the loop over micro-batches when the optimizer state is split: it
    then sends them once a step, not once a micro-batch (for LoRA of rank 64 of 1B, four micro-batches: 95 MiB each).
    """
    gradients = _constrain(gradients, where.params)
    moments = optax.tree.get(where.opt_state, "mu")  # Adam's; without them XLA decides, and the result is the same
    return gradients if moments is None else _constrain(gradients, moments)


def _constrain(tree: PyTree, shardings: PyTree) -> PyTree:
    """The same values, where `shardings` has one."""
    leaves, structure = jax.tree.flatten(tree)
    places = jax.tree.leaves(shardings, is_leaf=lambda x: x is None)
    found = [x if s is None else jax.lax.with_sharding_constraint(x, s) for x, s in zip(leaves, places, strict=True)]
    return jax.tree.unflatten(structure, found)


def _sum_over(function: Callable[[Array, PyTree], Any], batch: PyTree, *, unroll: bool, empty: Empty | None) -> Any:
    """Σ function(i, batch[i]) over the leading axis; of `Sums` the maxima are compared."""
    count = jax.tree.leaves(batch)[0].shape[0]

    def at(index: int) -> Any:
        return function(jnp.asarray(index), jax.tree.map(lambda x: x[index], batch))

    if empty is None and (count == 1 or unroll):
        total = at(0)
        for index in range(1, count):
            total = _added(total, at(index))
        return total
    nothing = _nothing(jax.eval_shape(lambda: at(0)))

    def body(total: Any, indexed: tuple[Array, PyTree]) -> tuple[Any, None]:
        if empty is None:
            return _added(total, function(*indexed)), None
        return jax.lax.cond(empty(indexed[1]), lambda: total, lambda: _added(total, function(*indexed))), None

    return jax.lax.scan(body, nothing, (jnp.arange(count), batch), unroll=count if unroll else 1)[0]


def _added(total: Any, more: Any) -> Any:
    return jax.tree.map(lambda a, b: a + b, total, more, is_leaf=lambda x: isinstance(x, Sums))


def _nothing(shapes: Any) -> Any:
    """What adds nothing: zeros, and −inf for the maxima of `Sums`."""

    def zeros(tree: Any) -> Any:
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), tree)

    def like(node: Any) -> Any:
        if not isinstance(node, Sums):
            return zeros(node)
        maxima = {name: jnp.full(s.shape, -jnp.inf, s.dtype) for name, s in node.maxima.items()}
        return Sums(zeros(node.loss), zeros(node.weight), zeros(node.aux), maxima)

    return jax.tree.map(like, shapes, is_leaf=lambda x: isinstance(x, Sums))


def _check_accumulation(batch: PyTree, accumulation: int) -> None:
    for path, leaf in jax.tree.leaves_with_path(batch):
        if leaf.ndim < 2 or leaf.shape[0] != accumulation:
            raise ValueError(
                f"batch{jax.tree_util.keystr(path)} has shape {leaf.shape}; with accumulation={accumulation} "
                f"it must be [{accumulation}, rows, ...]"
            )
