"""JAX's splash attention kernel (Pallas, for TPU) on the mesh of the context, forward and backward.

A Pallas call cannot be partitioned by the compiler, so each device runs it on its own rows and heads (`shard_map`).
`kind` says which mask: a window, or none (`None`), or, as a traced truth value `local` with both, either: a scan over
layers compiles both kernels once and each layer runs one of them. The kernel's own differentiation does not go through
such a choice (JAX would keep the residuals of both), so forward and backward kernels are called here one by one. The
output and the logarithms of the softmax's sums carry the name "attention" for rematerialisation policies: where they
are kept, the backward pass does not run the forward kernel again.

Block sizes: 512 by 512 for a window (two blocks of keys for each of queries at a window of 512, three at 1,024); 1,024
for all earlier keys, where each block of queries reads all of them again: at 32,768 tokens and 1B's sizes that is 2 GB
a layer, 3 ms of a v5e's memory beside 11 ms of products, and twice as much at 512. A backward kernel that also gives
dq (`use_fused_bwd_kernel`) would write it once per block of keys, 64 times at 32,768 tokens, and not skip the blocks
that a window empties.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from coldforge.modeling.sharding import partition_spec

LANES = 128  # rows are padded to a multiple


class Masks(NamedTuple):
    """Static: the window, if any; whether `local` decides at run time if it applies; Pallas's interpreter or not."""

    window: int | None
    either: bool
    interpret: bool


def attend_splash(
    q: Array, k: Array, v: Array, segment_ids: Array, *, window: int | None, local: Array | None, interpret: bool
) -> Array:
    """As `attention.attend`."""
    seq, heads, kv_heads = q.shape[1], q.shape[2], k.shape[2]
    if padding := -seq % LANES:
        q, k, v = (jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0))) for x in (q, k, v))
        segment_ids = jnp.pad(segment_ids, ((0, 0), (0, padding)))
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))  # [batch, heads, seq, head_dim]
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and kv_heads > 1:
        ways = [partition_spec((name,), (n,), mesh)[0] for name, n in (("heads", heads), ("kv_heads", kv_heads))]
        if ways[0] is not None and ways[1] is None:  # more ways than key/value heads
            k, v = (jnp.repeat(x, heads // kv_heads, axis=1) for x in (k, v))
    masks = Masks(window, local is not None, interpret)
    out = _attend(masks, q, k, v, segment_ids, jnp.zeros((), bool) if local is None else local)
    return out.swapaxes(1, 2)[:, :seq]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(masks: Masks, q: Array, k: Array, v: Array, segment_ids: Array, local: Array) -> Array:
    return _on_each_device(functools.partial(_forward_rows, masks), "qkksl", "q")(q, k, v, segment_ids, local)[0]


def _forward(masks: Masks, q: Array, k: Array, v: Array, segment_ids: Array, local: Array):
    run = functools.partial(_forward_rows, masks, residuals=True)
    out, logs = _on_each_device(run, "qkksl", "qq")(q, k, v, segment_ids, local)
    out, logs = checkpoint_name(out, "attention"), checkpoint_name(logs, "attention")
    return out, (q, k, v, segment_ids, local, out, logs)


def _backward(masks: Masks, saved: tuple[Array, ...], g: Array):
    q, k, v, segment_ids, local, out, logs = saved
    run = _on_each_device(functools.partial(_backward_rows, masks), "qkkslqqq", "qkk")
    return (*run(q, k, v, segment_ids, local, out, logs, g), None, None)


_attend.defvjp(_forward, _backward)


def _on_each_device(run, inputs: str, outputs: str):
    """`run` on each device's share; the letters say how arrays are split: q, k: rows and heads; s: rows; l: whole."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or mesh.manual_axes:
        return run

    def place(*arrays: Array) -> tuple[Array, ...]:
        q, k = arrays[:2]
        rows, heads, *_ = partition_spec(("batch", "heads", None, None), q.shape, mesh)
        specs = {
            "q": PartitionSpec(rows, heads),
            "k": PartitionSpec(rows, heads if k.shape[1] > 1 else None),
            "s": PartitionSpec(rows),
            "l": PartitionSpec(),
        }

        def share(*shares: Array) -> tuple[Array, ...]:
            results = run(*shares)
            if heads is None or k.shape[1] > 1:
                return results
            # One key/value head, on every device: each has the gradient from its own query heads.
            pairs = zip(results, outputs, strict=True)
            return tuple(jax.lax.psum(x, heads) if letter == "k" else x for x, letter in pairs)

        return jax.shard_map(
            share,
            mesh=mesh,
            in_specs=tuple(specs[letter] for letter in inputs),
            out_specs=tuple(specs[letter] for letter in outputs),
            check_vma=False,
        )(*arrays)

    return place


def _forward_rows(masks: Masks, q, k, v, segment_ids, local, *, residuals: bool = False):
    """Output `[batch, heads, seq, head_dim]` of one device's rows, and with `residuals` logs `[batch, heads, seq]`."""
    splash = _library()

    def attend(window: int | None):
        kernel = _kernel(q.shape[1], q.shape[2], window, masks.interpret, residuals)

        def rows(q, k, v, segments):
            out = kernel(q, k, v, segments)
            return (out[0], out[1][0]) if residuals else (out,)

        segments = splash.SegmentIds(q=segment_ids, kv=segment_ids)
        return jax.vmap(rows)(q, k, v, segments)

    return _choose(masks, local, attend)


def _backward_rows(masks: Masks, q, k, v, segment_ids, local, out, logs, g):
    """dq, dk, dv of one device's rows."""
    splash = _library()

    def differentiate(window: int | None):
        kernel = _kernel(q.shape[1], q.shape[2], window, masks.interpret, residuals=False)

        def rows(q, k, v, segments, out, logs, g):
            saved = (q, k, v, segments, None, out, logs, kernel.dq_mask_info, kernel.dkv_mask_info)
            return splash._splash_attention_bwd(**kernel.kwargs, res=saved, do=g)[3:6]

        segments = splash.SegmentIds(q=segment_ids, kv=segment_ids)
        return jax.vmap(rows)(q, k, v, segments, out, logs, g)

    return _choose(masks, local, differentiate)


def _choose(masks: Masks, local: Array, run):
    if masks.either:
        return jax.lax.cond(local, lambda: run(masks.window), lambda: run(None))
    return run(masks.window)


def _kernel(heads: int, seq: int, window: int | None, interpret: bool, residuals: bool):
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as library

    splash = _library()
    sizes = (512, 256, 128) if window is not None else (1024, 512, 256, 128)
    block = next(size for size in sizes if seq % size == 0)
    compute = min(block, 512)
    mask = library.CausalMask((seq, seq)) if window is None else library.LocalMask((seq, seq), (window - 1, 0), 0)
    return splash.make_splash_mha(
        library.MultiHeadMask([mask] * heads),
        block_sizes=splash.BlockSizes(
            block_q=block, block_kv=block, block_kv_compute=compute,
            block_q_dkv=block, block_kv_dkv=block, block_kv_dkv_compute=compute,
            block_q_dq=block, block_kv_dq=block,
        ),
        head_shards=1,
        q_seq_shards=1,
        save_residuals=residuals,
        interpret=interpret,
    )  # fmt: skip


def _library():
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel

    return splash_attention_kernel
