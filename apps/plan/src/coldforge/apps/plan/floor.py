"""The least time a step can take: the products of the model, by formula, at a chip's peak rate.

Per token of a row, with P the weights of a layer's projections and r the adapter's rank, a forward pass does 2 P
operations and 2 r (in + out) for each adapted projection; attention 4 · heads · head_dim for each key that a query
sees; the head 2 · embed · vocab. Going back costs as much again for the inputs' gradients, and as much again for
those of weights that are trained (adapters, or all). Of the head's logits the gradient is taken at once, so a frozen
head is two products, a trained one three. Not counted: recomputation, norms, softmax, dequantising, the optimizer;
that is what a step's share of the floor is made of. Every token counts and every row is one text.
"""

import dataclasses

from coldforge.modeling import Gemma3Config


@dataclasses.dataclass(frozen=True)
class Floor:
    """Operations of one step on one device.

    Attributes:
        products: All but attention.
        attention: Scores and sums over values, forward and backward.
    """

    products: float
    attention: float


def step_floor(model: Gemma3Config, *, rows: float, seq_len: int, rank: int | None, devices_per_row: int = 1) -> Floor:
    """The operations of a step.

    Args:
        model: Sizes.
        rows: Of a whole step on one device and those that share its rows.
        seq_len: Tokens of a row.
        rank: Of the adapters; None where every weight is trained.
        devices_per_row: How many devices share the products of a row (the mesh's `tensor`).
    """
    d, f = model.embed_dim, model.mlp_dim
    q, kv = model.num_heads * model.head_dim, 2 * model.num_kv_heads * model.head_dim
    projections = [(d, q), (d, kv), (q, d), (d, f), (d, f), (f, d)]  # in, out
    weights = sum(a * b for a, b in projections)
    if rank is None:
        layer, head = 3 * 2 * weights, 3 * 2 * d * model.vocab_size
    else:
        adapters = sum(rank * (a + b) for a, b in projections)
        layer, head = 2 * 2 * weights + 3 * 2 * adapters, 2 * 2 * d * model.vocab_size
    seen = sum(visible_keys(seq_len, model.sliding_window if kind == "local" else None) for kind in model.layer_types)
    tokens = rows * seq_len / devices_per_row
    return Floor(tokens * (model.num_layers * layer + head), tokens * 3 * 4 * q * seen)


def visible_keys(seq_len: int, window: int | None) -> float:
    """Keys that a query of a row sees, on average: `visible_keys(4, None)` is 2.5, with a window of 2 it is 1.75."""
    w = min(window or seq_len, seq_len)
    return w - w * (w - 1) / (2 * seq_len)


def kernel_flops(model: Gemma3Config, kernels: dict[str, int], *, rows: float, seq_len: int, tensor: int = 1) -> float:
    """Operations of splash attention's kernels on one device, by their names and numbers of calls.

    The forward kernel does 2 products for each key that a query sees, `dq` 3 and `dkv` 4 (both compute the scores
    again). Calls are spread evenly over the layers, as they are in a model of equal layers. Blocks that a mask cuts
    are computed whole, so this is the least.

    Args:
        model: Sizes.
        kernels: Calls in a step by name.
        rows: Of one call on one device.
        seq_len: Tokens of a row.
        tensor: Devices that share a row's heads.
    """
    seen = [visible_keys(seq_len, model.sliding_window if kind == "local" else None) for kind in model.layer_types]
    product = 2 * rows * seq_len * model.num_heads / tensor * model.head_dim * sum(seen) / len(seen)
    products = {"mha_fwd": 2, "mqa_fwd": 2, "_dq": 3, "_dkv": 4}
    return product * sum(
        calls * next((count for part, count in products.items() if part in name), 0) for name, calls in kernels.items()
    )
