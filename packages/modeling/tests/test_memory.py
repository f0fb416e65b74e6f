"""What compiled programs would hold and do, without running them: logits, caches, weights, initialisation.

Attention alone is measured in test_attention.py.
"""

import dataclasses
import gc
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from coldforge.modeling import (
    Gemma3Config,
    LoraConfig,
    abstract_model,
    add_lora,
    cache_bytes,
    gemma3_27b,
    init_cache,
    lora_state,
)

pytestmark = pytest.mark.whole

INT = jnp.int32


@pytest.fixture(scope="module")
def wide(config) -> Gemma3Config:
    """The tiny model with the vocabulary of a real one and room for long texts; sizes that nothing else has."""
    return dataclasses.replace(
        config, vocab_size=65_536, embed_dim=48, mlp_dim=80, num_kv_heads=1, max_seq_len=65_536, sliding_window=128
    )


def forward(config, seq, *, dtype=jnp.float32):
    graph, state = nnx.split(abstract_model(config, dtype=dtype))
    return jax.jit(lambda state, tokens: nnx.merge(graph, state)(tokens)).lower(
        state, jax.ShapeDtypeStruct((1, seq), INT)
    )


def decode_step(config, length, *, rows=4, dtype=jnp.float32):
    """One new token a row over a cache of `length`, which is given up."""
    graph, state = nnx.split(abstract_model(config, dtype=dtype))
    # As leaves: `lower` puts placeholders into containers, and shape checks of KVCache would refuse them.
    leaves, structure = jax.tree.flatten(init_cache(config, rows, length, dtype=dtype))

    def step(state, leaves, tokens, positions):
        return nnx.merge(graph, state)(tokens, positions, cache=jax.tree.unflatten(structure, leaves))

    new = jax.ShapeDtypeStruct((rows, 1), INT)
    return jax.jit(step, donate_argnums=1).lower(state, leaves, new, new).compile()


def temporaries(program) -> int:
    return program.memory_analysis().temp_size_in_bytes


def test_a_forward_pass_makes_no_logits(wide):
    assert temporaries(forward(wide, 512).compile()) < 512 * wide.vocab_size * 4 / 4


def test_memory_of_a_forward_pass_grows_with_the_length_not_its_square(wide):
    short, long = (temporaries(forward(wide, seq).compile()) for seq in (4096, 8192))
    assert long <= 2.2 * short


@pytest.mark.parametrize("length", [1024, 8192])
def test_a_decode_step_changes_the_cache_in_place(wide, length):
    program, size = decode_step(wide, length), cache_bytes(wide, 4, length, dtype=jnp.float32)
    assert program.memory_analysis().alias_size_in_bytes == size
    # Scores of the global layer: rows x heads x length, a few times over. A copy of its keys would be 16 times one.
    assert temporaries(program) <= 6 * 4 * 4 * 4 * length + 2**18


def test_a_decode_step_of_local_layers_does_not_depend_on_the_context(wide):
    local = dataclasses.replace(wide, layer_types=("local",) * 3)
    costs = [decode_step(local, length).cost_analysis()["flops"] for length in (1024, 32_768)]
    # What does grow is the list of positions that global layers would have, which is kept for its length alone.
    assert costs[1] == pytest.approx(costs[0], rel=0.01)


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_frozen_bfloat16_weights_are_never_cast_as_a_whole(make_model, wide, quantize):
    base = make_model(dtype=jnp.bfloat16, **dataclasses.asdict(wide))
    tuned = add_lora(base, LoraConfig(rank=4, quantize=quantize), rngs=nnx.Rngs(0))
    graph, adapter, frozen = nnx.split(tuned, nnx.LoRAParam, ...)

    def loss(adapter, frozen, tokens):
        model = nnx.merge(graph, adapter, frozen)
        hidden = model(tokens)
        return hidden.astype(jnp.float32).sum(), model.logits(hidden[:, -1])

    program = jax.jit(jax.grad(loss, has_aux=True)).lower(adapter, frozen, jax.ShapeDtypeStruct((2, 16), INT))
    text = program.as_text()
    assert "tensor<65536x48xbf16>" in text  # the program's text is spelt as this test believes
    for shape in ("65536x48", "48x80", "80x48", "48x4x16", "48x2x1x16", "4x16x48"):
        assert f"tensor<{shape}xf32>" not in text, shape


def test_shapes_of_the_largest_model_take_no_memory():
    before = live_bytes()
    leaves = jax.tree.leaves(nnx.state(abstract_model(gemma3_27b(), dtype=jnp.bfloat16)))
    assert {type(leaf) for leaf in leaves} == {jax.ShapeDtypeStruct}
    assert live_bytes() == before


@pytest.mark.parametrize("quantize", [None, "int8", "nf4"])
def test_adding_an_adapter_leaves_nothing_behind_but_the_adapter_and_what_was_quantised(make_model, quantize):
    model = make_model()
    before = live_bytes()
    tuned = add_lora(model, LoraConfig(rank=4, quantize=quantize), rngs=nnx.Rngs(0))
    old = {id(x) for x in jax.tree.leaves(nnx.state(model))}
    new = sum(x.nbytes for x in jax.tree.leaves(nnx.state(tuned)) if id(x) not in old)
    added = live_bytes() - before
    assert new <= added <= new + 1024  # random keys and constants of compiled programs
    assert new >= sum(x.nbytes for x in jax.tree.leaves(lora_state(tuned)))


def live_bytes() -> int:
    gc.collect()
    return sum(x.nbytes for x in jax.live_arrays())


def test_a_fresh_cache_is_made_inside_the_program_that_fills_it(wide):
    """Nothing of its size is an argument or a constant."""
    graph, state = nnx.split(abstract_model(wide))

    def prefill(state, tokens, positions):
        cache = init_cache(wide, 2, 4096, dtype=jnp.float32)
        return nnx.merge(graph, state)(tokens, positions, cache=cache)

    new = jax.ShapeDtypeStruct((2, 64), INT)
    lowered = jax.jit(prefill).lower(state, new, new)
    weights = sum(math.prod(x.shape) * 4 for x in jax.tree.leaves(state))
    assert lowered.compile().memory_analysis().argument_size_in_bytes <= weights + 2 * 2 * 64 * 4 + 1024
    constants = re.findall(r"constant dense<\"0x[0-9A-F]*\"> : tensor<([\dx]+)x", lowered.as_text())
    assert all(np.prod([int(n) for n in shape.split("x")]) < 1024 for shape in constants)
