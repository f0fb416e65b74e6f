"""The TPU's attention kernel, run by Pallas's interpreter, against the implementation for other platforms.

What is tested is how the kernel is called: masks, segments, padding to its blocks, how rows and heads lie on a mesh.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from coldforge.modeling import make_mesh, named_sharding
from coldforge.modeling.attention import attend

pytestmark = pytest.mark.whole

HEAD_DIM = 128  # the kernel's smallest


def example(seq, *, heads=4, kv_heads=2, batch=1):
    """Rows of three texts and padding."""
    rng = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(rng.normal(size=(batch, seq, n, HEAD_DIM)), jnp.float32) for n in (heads, kv_heads, kv_heads)
    )
    segment_ids = np.sort(rng.integers(1, 4, (batch, seq)), axis=1)
    segment_ids[:, seq - 20 :] = 0
    return q * HEAD_DIM**-0.5, k, v, jnp.asarray(segment_ids, jnp.int32)


def outputs_and_gradients(kernel, window, inputs, local=None):
    q, k, v, segment_ids = inputs
    text = (segment_ids > 0)[..., None, None]
    cotangent = np.random.default_rng(1).normal(size=q.shape)

    def loss(q, k, v, local):
        out = attend(q, k, v, segment_ids, window=window, local=local, kernel=kernel)
        return jnp.where(text, out * cotangent, 0).sum(), out

    gradients, out = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v, local)
    return np.asarray(out), gradients, np.asarray(text)


@pytest.mark.parametrize(
    ("seq", "window"),
    [
        (256, None),
        pytest.param(300, None, marks=pytest.mark.slow),
        (300, 1),  # padded to 384
        pytest.param(300, 100, marks=pytest.mark.slow),
        (640, 129),  # several blocks of 128; a window one longer than a block
    ],
)
def test_splash_gives_what_the_blocked_kernel_gives(seq, window):
    inputs = example(seq)
    ours, our_gradients, text = outputs_and_gradients("splash_interpret", window, inputs)
    theirs, their_gradients, _ = outputs_and_gradients("blocked", window, inputs)
    np.testing.assert_allclose(np.where(text, ours, 0), np.where(text, theirs, 0), atol=3e-6)
    assert np.isfinite(ours).all()  # padding too
    for a, b in zip(our_gradients, their_gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(
    ("heads", "kv_heads"),
    [
        (4, 2),  # both are split over two devices
        pytest.param(4, 1, marks=pytest.mark.slow),  # one key/value head: on every device
        (6, 3),  # three do not split over two: one for each query head, then split
        pytest.param(3, 3, marks=pytest.mark.slow),  # neither can be split
    ],
)
def test_splash_on_a_mesh_gives_what_one_device_gives(heads, kv_heads):
    inputs = example(130, heads=heads, kv_heads=kv_heads, batch=4)
    expected, their_gradients, text = outputs_and_gradients("blocked", 64, inputs)
    mesh = make_mesh(fsdp=4, tensor=2)
    names = [("batch", None, "heads", None), *[("batch", None, "kv_heads", None)] * 2, ("batch", None)]
    placed = [jax.device_put(x, named_sharding(n, x.shape, mesh)) for x, n in zip(inputs, names, strict=True)]
    with jax.set_mesh(mesh):
        out, gradients, _ = outputs_and_gradients("splash_interpret", 64, placed)
    np.testing.assert_allclose(np.where(text, out, 0), np.where(text, expected, 0), atol=3e-6)
    for a, b in zip(gradients, their_gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    ways = 2 if heads % 2 == 0 else 1
    assert {s.data.shape for s in gradients[0].addressable_shards} == {(1, 130, heads // ways, HEAD_DIM)}


@pytest.mark.parametrize("kernel", ["splash_interpret", "blocked"])
def test_the_kind_of_layer_may_be_decided_at_run_time(kernel):
    inputs = example(130)
    for local in (True, False):
        ours = outputs_and_gradients(kernel, 64, inputs, local=jnp.asarray(local))
        theirs = outputs_and_gradients("blocked", 64 if local else None, inputs)
        np.testing.assert_allclose(np.where(ours[2], ours[0], 0), np.where(ours[2], theirs[0], 0), atol=3e-6)
        for a, b in zip(ours[1], theirs[1], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)


def test_another_kernel_is_refused():
    with pytest.raises((ValueError, TypeCheckError), match="splahs"):
        attend(*example(128), kernel="splahs")


def test_a_batch_that_the_mesh_does_not_divide_still_runs():
    inputs = example(128, batch=3)
    with jax.set_mesh(make_mesh(data=8)):
        out = jax.jit(lambda *arrays: attend(*arrays, kernel="splash_interpret"))(*inputs)
    expected = attend(*inputs, kernel="blocked")
    text = np.asarray(inputs[3] > 0)[..., None, None]
    np.testing.assert_allclose(np.where(text, out, 0), np.where(text, expected, 0), atol=3e-6)


def test_the_model_takes_the_kernel_it_is_told(make_model, run):
    # 300 tokens: with several blocks of keys the two add up in another order. Of one block they agree to the bit.
    tokens = np.random.default_rng(0).integers(1, 64, (2, 300)).astype(np.int32)
    sizes = {"head_dim": HEAD_DIM, "num_heads": 2, "num_kv_heads": 1}
    blocked, splash = (run(make_model(kernel=kernel, **sizes), tokens) for kernel in ("blocked", "splash_interpret"))
    np.testing.assert_allclose(blocked, splash, atol=2e-4)
    assert np.any(blocked != splash)  # they round differently, so it was not the same program
