"""Meshes of eight simulated devices: the same numbers as on one, and each device works on its share."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from coldforge.losses import cross_entropy, token_scores

pytestmark = pytest.mark.whole

MESHES = [(8, 1, 1), (1, 4, 2), (2, 2, 2), (1, 1, 8)]
EVERYTHING = {"entropy_grad": True, "logsumexp": True, "chunk": 3, "block": 5}


def make_mesh(sizes, names=("data", "fsdp", "tensor")):
    return jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(sizes))


def placed(mesh, hidden, embedding, *tokens):
    """Arrays as training places them; `embed` goes to fsdp where it divides it, as in modeling's rules table."""
    vocab = "tensor" if embedding.shape[0] % mesh.shape["tensor"] == 0 else None
    embed = "fsdp" if embedding.shape[1] % mesh.shape["fsdp"] == 0 else None
    rows = NamedSharding(mesh, P(("data", "fsdp") if hidden.shape[0] % 8 == 0 else None))
    return (
        jax.device_put(hidden, rows),
        jax.device_put(embedding, NamedSharding(mesh, P(vocab, embed))),
        *(jax.device_put(x, rows) for x in tokens),
    )


def loss(hidden, embedding, targets, where):
    scores = token_scores(hidden, embedding, targets, where, temperature=0.9, **EVERYTHING)
    return (scores.logprobs**2 + scores.entropy * 0.3 + scores.logsumexp**2 * 0.1).sum(), scores


run = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_scores_and_gradients_are_those_of_one_device(problem, sizes):
    expected = run(*problem.arrays())
    mesh = make_mesh(sizes)
    with jax.set_mesh(mesh):
        result = run(*placed(mesh, *problem.arrays()))
    for got, want in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5 * float(abs(want).max()))


@pytest.mark.parametrize("shape", [(2, 48), (8, 46), (3, 45)], ids=str)
def test_what_a_mesh_does_not_divide_stays_whole(problem, shape):
    batch, vocab = shape
    problem.embedding, problem.targets = problem.embedding[:vocab], problem.targets % vocab
    hidden, embedding, targets, where = problem.arrays()
    arrays = (hidden[:batch], embedding, targets[:batch], where[:batch])
    expected = run(*arrays)
    mesh = make_mesh((1, 2, 4))
    with jax.set_mesh(mesh):
        result = run(*placed(mesh, *arrays))
    for got, want in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5 * float(abs(want).max()))


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_cross_entropy_is_one_global_mean(problem, sizes):
    """Devices hold from 0 to 11 counted tokens: a mean of their means would differ."""
    hidden, embedding, targets, where = problem.arrays()
    mesh = make_mesh(sizes)
    with jax.set_mesh(mesh):
        arrays = placed(mesh, hidden, embedding, targets, where.astype(jnp.float32))
        mean = jax.jit(lambda *a: cross_entropy(*a, chunk=2).loss.mean())(*arrays)
    assert mean == pytest.approx(-problem.scores()[0].sum() / problem.where.sum(), abs=1e-5)


def test_other_axis_names(problem):
    hidden, embedding, targets, where = problem.arrays()
    with jax.set_mesh(make_mesh((4, 2), ("dp", "tp"))):
        got = jax.jit(lambda *a: token_scores(*a, batch_axes=("dp",), vocab_axis="tp").logprobs)(
            hidden, embedding, targets, where
        )
    np.testing.assert_allclose(got, problem.scores()[0], atol=2e-5)


def test_a_target_outside_a_split_vocabulary_is_nan(problem):
    problem.where[:] = True
    problem.targets[1, 1] = 48
    with jax.set_mesh(make_mesh((1, 1, 8))):
        scores = jax.jit(lambda *a: token_scores(*a).logprobs)(*problem.arrays())
    assert np.isnan(scores[1, 1])
    assert np.isnan(scores).sum() == 1


def test_inside_somebody_elses_shard_map(problem):
    """There, the arrays are what the device has, the vocabulary whole; the caller adds up."""
    hidden, embedding, targets, where = problem.arrays()
    mesh = make_mesh((8, 1, 1))

    def total(h, e, y, m):
        return jax.lax.psum(token_scores(h, e, y, m, chunk=3).logprobs.sum(), "data")

    spec = (P("data"), P(), P("data"), P("data"))
    with jax.set_mesh(mesh):
        got = jax.jit(jax.shard_map(total, in_specs=spec, out_specs=P(), check_vma=False))(
            hidden, embedding, targets, where
        )
    assert got == pytest.approx(problem.scores()[0].sum(), rel=1e-5)


def shapes_of(text):
    """The number of elements of every array in a compiled program, and those that collectives give."""
    sizes = [math.prod(map(int, dims.split(","))) for dims in re.findall(r"f32\[([\d,]+)\]", text)]
    moved = re.findall(r"= (.*?) (?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)\(", text)
    return sizes, [math.prod(map(int, d.split(","))) for line in moved for d in re.findall(r"\[([\d,]+)\]", line)]


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 1, 4), (1, 2, 4), (1, 8, 1)], ids=str)
@pytest.mark.parametrize("argnums", [0, 1])
def test_no_device_holds_logits_or_the_embedding_of_others(sizes, argnums):
    mesh, (batch, seq, embed, vocab) = make_mesh(sizes), (8, 64, 8, 4096)
    rng = np.random.default_rng(0)
    arrays = placed(
        mesh, jnp.asarray(rng.normal(size=(batch, seq, embed)), jnp.float32),
        jnp.asarray(rng.normal(size=(vocab, embed)), jnp.float32), jnp.zeros((batch, seq), int), jnp.ones((batch, seq)),
    )  # fmt: skip
    with jax.set_mesh(mesh):
        gradient = jax.jit(
            jax.grad(lambda *a: cross_entropy(*a, chunk=16, block=256).loss.mean(), argnums),
            out_shardings=arrays[argnums].sharding,
        )
        held, moved = shapes_of(gradient.lower(*arrays).compile().as_text())
    own_tokens = batch * seq // (mesh.shape["data"] * mesh.shape["fsdp"])
    own_embedding = vocab * embed // (mesh.shape["tensor"] * mesh.shape["fsdp"])
    assert max(held) <= max(16 * 256, own_tokens * embed, own_embedding, 256 * embed)
    # What may cross: the vectors of a device's own tokens, and a block of the embedding.
    assert max(moved, default=0) <= max(own_tokens * embed, 256 * embed)
