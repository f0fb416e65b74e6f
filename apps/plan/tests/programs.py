"""Small programs whose cost is known, compiled for a TPU: their texts are this folder's `data/*.hlo.gz`.

    python apps/plan/tests/programs.py            # writes the files anew; needs libtpu, takes a minute

Of each text are kept: instructions, shapes, names, groups, and of XLA's configuration the estimated cycles. Left out
are the other fields of that configuration, the code of Pallas kernels, and the paths in front of `coldforge`.
"""

import gzip
import re
import sys
from collections.abc import Callable
from pathlib import Path

DATA = Path(__file__).parent / "data"


def read(name: str) -> str:
    """The kept text of a program."""
    return gzip.decompress((DATA / f"{name}.hlo.gz").read_bytes()).decode()


def loops(trips: int) -> str:
    """`trips` products of 1,024³ in a loop, in a loop of 3, on one chip."""
    import jax
    import jax.numpy as jnp

    def inner(_, x):
        return jnp.tanh(x @ x)

    def f(x):
        return jax.lax.fori_loop(0, 3, lambda _, x: jax.lax.fori_loop(0, trips, inner, x) + 1, x)

    return _compile(f, ((1024, 1024), (), jnp.bfloat16), mesh=(1, 1))


def branches() -> str:
    """A conditional of one product and three, and a loop that data end after at most 2,048 / 256 slices."""
    import jax
    import jax.numpy as jnp

    def f(x, n):
        x = jax.lax.cond(n > 3, lambda x: jnp.tanh(x @ x), lambda x: jnp.sin(jnp.cos(x @ x) @ x) @ x, x)

        def body(i, out):
            part = jax.lax.dynamic_slice_in_dim(x, 256 * i, 256)
            return jax.lax.dynamic_update_slice_in_dim(out, jnp.tanh(part @ x), 256 * i, 0)

        return jax.lax.fori_loop(0, n, body, jnp.zeros_like(x))

    return _compile(f, ((2048, 2048), (), jnp.bfloat16), ((), (), jnp.int32), mesh=(1, 1))


def collectives() -> str:
    """Two layers with weights split 4 ways and rows 8 ways, and their gradient: gathered, reduced, scattered."""
    import jax
    import jax.numpy as jnp

    def loss(weights, x):
        for _ in range(2):
            x = jax.nn.gelu(x @ weights[0]) @ weights[1]
            x = jax.lax.with_sharding_constraint(x, jax.P(("data", "fsdp"), None))
        return (x.astype(jnp.float32) ** 2).sum()

    def f(up, down, x):
        weights = (up, down)
        return jax.tree.map(lambda w, g: w - 0.1 * g.astype(w.dtype), weights, jax.grad(loss)(weights, x))

    return _compile(
        f,
        ((4096, 16384), ("fsdp", None), jnp.bfloat16),
        ((16384, 4096), (None, "fsdp"), jnp.bfloat16),
        ((16384, 4096), (("data", "fsdp"), None), jnp.bfloat16),
        mesh=(2, 4),
    )


def exchanges() -> str:
    """One of each collective that a program can ask for, 16 MiB of bfloat16 on 8 chips."""
    import jax
    import jax.numpy as jnp

    def f(x):
        def mine(x):
            x = jax.lax.all_to_all(x, "fsdp", 0, 1, tiled=True)
            x = jax.lax.ppermute(x, "fsdp", [(0, 1), (1, 2), (2, 3), (3, 0)]) + x
            x = jax.lax.psum(x, ("data", "fsdp"))
            return jax.lax.all_gather(x, "data", axis=1, tiled=True)

        return jax.shard_map(mine, in_specs=jax.P(("data", "fsdp")), out_specs=jax.P("fsdp"), check_vma=False)(x)

    return _compile(f, ((4096, 2048), (("data", "fsdp"), None), jnp.bfloat16), mesh=(2, 4))


def windowed() -> str:
    """A product whose weight is split along what it sums over, 8 ways: XLA makes a loop over the parts of it."""
    import jax
    import jax.numpy as jnp

    def f(x, w):
        return jax.lax.with_sharding_constraint(x @ w, jax.P("fsdp", None))

    return _compile(
        f,
        ((16384, 4096), ("fsdp", None), jnp.bfloat16),
        ((4096, 16384), ("fsdp", None), jnp.bfloat16),
        mesh=(1, 8),
    )


def step() -> str:
    """A training step in small: attention computed again going back, a loss by chunks, 2 micro-batches, 8 chips.

    Its arguments are named as those of the real one.
    """
    from typing import Any, NamedTuple

    import jax
    import jax.numpy as jnp

    from coldforge.losses import cross_entropy
    from coldforge.modeling.attention import attend

    class State(NamedTuple):
        step: Any
        params: Any
        opt_state: Any

    def loss(params, frozen, tokens, weights):
        x = frozen["embedding"][tokens]

        @jax.checkpoint
        def layer(x):
            heads = [(x @ params[name].astype(x.dtype)).reshape(*x.shape[:2], -1, 128) for name in "qkv"]
            return x + attend(*heads, jnp.ones_like(tokens), window=256).reshape(x.shape)

        return cross_entropy(layer(x), frozen["embedding"], tokens, weights, chunk=256).loss.total

    def train_step(state, frozen, batch):
        def add(total, micro):
            return jax.tree.map(jnp.add, total, jax.grad(loss)(state.params, frozen, *micro)), None

        gradient, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, state.params), batch)
        moments = jax.tree.map(lambda m, g: 0.9 * m + g, state.opt_state, gradient)
        params = jax.tree.map(lambda p, m: p - 0.1 * m, state.params, moments)
        return State(state.step + 1, params, moments)

    matrix, rows = ((256, 256), (), jnp.float32), (None, ("data", "fsdp"))
    projections = {"q": matrix, "k": matrix, "v": matrix}
    return _compile(
        train_step,
        State(((), (), jnp.int32), projections, projections),
        {"embedding": ((8192, 256), (), jnp.bfloat16)},
        (((2, 8, 1024), rows, jnp.int32), ((2, 8, 1024), rows, jnp.float32)),
        mesh=(8, 1),
        donate=(0,),
    )


PROGRAMS: dict[str, Callable[[], str]] = {
    "loops10": lambda: loops(10),
    "loops20": lambda: loops(20),
    "branches": branches,
    "collectives": collectives,
    "exchanges": exchanges,
    "windowed": windowed,
    "step": step,
}


def _compile(f, *arguments, mesh: tuple[int, int], donate: tuple[int, ...] = ()) -> str:
    """The text of `f`, compiled for arguments given as (shape, partition, dtype), on a mesh of data × fsdp."""
    import jax
    from jax.sharding import NamedSharding

    from coldforge.apps.plan.chips import Slice
    from coldforge.apps.plan.target import slice_devices
    from coldforge.modeling import make_mesh

    devices = slice_devices(Slice.parse("v5e:1x1" if mesh == (1, 1) else "v5e:2x4"))
    over = make_mesh(data=mesh[0], fsdp=mesh[1], devices=devices)

    def shape(leaf):
        return jax.ShapeDtypeStruct(leaf[0], leaf[2], sharding=NamedSharding(over, jax.P(*leaf[1])))

    def described(leaf):
        return type(leaf) is tuple and len(leaf) == 3 and not isinstance(leaf[2], tuple)

    shapes = jax.tree.map(shape, arguments, is_leaf=described)
    with jax.set_mesh(over):
        return jax.jit(f, donate_argnums=donate).lower(*shapes).compile().as_text()


def scrub(text: str) -> str:
    """A program's text without what no reader of it needs."""

    def config(found: re.Match[str]) -> str:
        cycles = re.search(r'"estimated_cycles":"-?\d+"', found.group())
        return f', backend_config={{"window_config":{{{cycles.group()}}}}}' if cycles else ""

    text = re.sub(r', backend_config=\{(?:"(?:[^"\\]|\\.)*"|[^"\n])*', config, text)
    text = re.sub(r'"xprof_metadata":"(?:[^"\\]|\\.)*"', '"xprof_metadata":"{}"', text)
    return re.sub(r'^(\d+ ")(/[^"\n]*)"$', lambda found: f'{found[1]}{_inside(found[2])}"', text, flags=re.MULTILINE)


def _inside(path: str) -> str:
    ours = "/coldforge/"
    return ours + path.rpartition(ours)[2] if ours in path else Path(path).name


if __name__ == "__main__":
    from coldforge.apps.plan.target import prepare_environment

    prepare_environment()
    DATA.mkdir(exist_ok=True)
    for name in sys.argv[1:] or PROGRAMS:
        kept = scrub(PROGRAMS[name]())
        path = DATA / f"{name}.hlo.gz"
        path.write_bytes(gzip.compress(kept.encode(), mtime=0))
        print(f"{name}: {len(kept):,} bytes, {path.stat().st_size:,} compressed")
