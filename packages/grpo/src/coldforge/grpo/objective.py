"""What an update minimises, and the scoring pass: a model's `apply` and `coldforge.losses` tied together.

`grpo_loss` is the function that `coldforge.training.make_train_step` differentiates: hidden states of packed rows,
log-probabilities at completion tokens only (`token_scores`), the policy loss as a sum, and sums and extremes for
metrics, which `means` turns into the numbers people read. `make_score` gives log-probabilities without a gradient, for
π_old and π_ref.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from coldforge.grpo.packing import Rows, is_empty
from coldforge.losses import PolicyLoss, WeightedSum, kl, policy_loss, token_scores, weighted_sum
from coldforge.training import LossFn, Sums

# (params, frozen, tokens, positions, segment_ids) → hidden states [batch, seq, embed], output embedding [vocab, embed]
Apply = Callable[[PyTree, PyTree, Array, Array, Array], tuple[Array, Array]]

COUNT = "_count"  # the name of a mean's weight: "kl_count" beside "kl"
LOWEST = "_min"
HIGHEST = "_max"


def grpo_loss(
    apply: Apply,
    policy: PolicyLoss,
    *,
    old: Literal["on_policy", "sampler", "trainer"] = "on_policy",
    temperature: float = 1.0,
    entropy: bool = True,
    chunk: int | None = None,
) -> LossFn:
    """The loss of a micro-batch of `Rows` as sums; see `coldforge.losses.policy_loss`.

    Args:
      apply: a model as a pure function, say `coldforge.modeling.trainable(model).apply`.
      policy: what to minimise.
      old: what π_old is: the policy itself, the sampler's log-probabilities, or `Rows.old_logprobs`.
      temperature: at which was sampled: π_θ is softmax(logits / temperature), as the sampler's log-probabilities are.
      entropy: also measure the entropy, which costs no further product.
      chunk: tokens of a device whose logits exist at a time; None: what `coldforge.losses` found best.

    Raises:
      ValueError: the loss does, for rows without the log-probabilities that `old` or `policy` needs.
    """

    def loss(params: PyTree, frozen: PyTree, batch: Rows, key: Array) -> Sums:
        del key  # nothing here is random
        if old == "trainer" and batch.old_logprobs is None:  # None would mean the policy itself, as for "on_policy"
            raise ValueError(
                "old is 'trainer', and the rows have no old_logprobs; wanted log-probabilities of the policy that "
                "sampled: give the experience those of make_score before it is packed, or take another `old`"
            )
        hidden, embedding = apply(params, frozen, batch.tokens, batch.positions, batch.segment_ids)
        weights = batch.weights
        scores = token_scores(
            hidden, embedding, batch.targets, weights != 0, temperature=temperature,
            entropy=entropy, entropy_grad=policy.needs_entropy, chunk=chunk,
        )  # fmt: skip
        olds = {"on_policy": None, "sampler": batch.sampler_logprobs, "trainer": batch.old_logprobs}
        terms = policy_loss(
            scores.logprobs, olds[old], batch.advantages, weights, batch.segment_ids,
            ref_logprobs=batch.ref_logprobs, entropy=scores.entropy, config=policy,
            sampler_logprobs=None if old == "sampler" else batch.sampler_logprobs,
        )  # fmt: skip
        aux = {
            "tokens": jnp.sum(batch.segment_ids > 0, dtype=jnp.int32),
            "trained_tokens": jnp.sum(weights != 0, dtype=jnp.int32),
        }
        means, maxima = dict(terms.means), dict(terms.maxima)
        if old == "sampler":  # then the gap is that of π_θ, and the same thing only before the first update
            gap, means["gap_kl"] = _gap(scores.logprobs, batch.sampler_logprobs, weights)
            means["gap"], maxima["gap"] = weighted_sum(gap, weights != 0), gap.max()
        for name, total in means.items():
            if name != "loss":  # the step has it
                aux |= {name: jnp.asarray(total.total), f"{name}{COUNT}": jnp.asarray(total.weight)}
        extremes = {f"{name}{HIGHEST}": value for name, value in maxima.items()}
        extremes |= {f"{name}{LOWEST}": -value for name, value in terms.minima.items()}
        return Sums(terms.loss, jnp.sum(batch.denominator), aux, extremes)

    return loss


def _gap(logprobs: Array, sampler: Array, weights: Array) -> tuple[Array, WeightedSum]:
    """|log π_θ − log π_sampler| of each token, 0 where nothing counts, and the k3 that it implies."""
    counted = weights != 0
    ours, theirs = (jnp.where(counted, jax.lax.stop_gradient(x), 0) for x in (logprobs, sampler))
    return jnp.abs(ours - theirs), weighted_sum(kl.k3(theirs, ours), counted)


Score = Callable[[PyTree, PyTree, Rows], Float[Array, "accumulation rows seq"]]


def make_score(apply: Apply, *, temperature: float = 1.0, chunk: int | None = None) -> Score:
    """`score(params, frozen, batch) -> log-probabilities` of the targets where weights are not 0, jitted, no gradient.

    Micro-batches run one after the other, and empty ones are skipped: memory is that of one micro-batch.
    """

    def one(params: PyTree, frozen: PyTree, rows: Rows) -> Array:
        def full() -> Array:
            hidden, embedding = apply(params, frozen, rows.tokens, rows.positions, rows.segment_ids)
            where = rows.weights != 0
            return token_scores(hidden, embedding, rows.targets, where, temperature=temperature, chunk=chunk).logprobs

        return jax.lax.cond(is_empty(rows), lambda: jnp.zeros(rows.tokens.shape, jnp.float32), full)

    @jax.jit
    def score(params: PyTree, frozen: PyTree, batch: Rows) -> Array:
        return jax.lax.scan(lambda _, rows: (None, one(params, frozen, rows)), None, batch)[1]

    return score


def means(sums: Mapping[str, float]) -> dict[str, float]:
    """The numbers to log, from a step's metrics, fetched: `policy/kl`, `policy/ratio_max` and so on.

    A mean of no token is left out; so are extremes of none.
    """
    found = {}
    for name, value in sums.items():
        count = f"{name}{COUNT}"
        if sums.get(count):
            found[f"policy/{name}"] = value / sums[count]
        elif name.endswith(HIGHEST) and value > float("-inf"):
            found[f"policy/{name}"] = value
        elif name.endswith(LOWEST) and value > float("-inf"):
            found[f"policy/{name}"] = -value
    return found


def fetched(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a step, for which it waits."""
    return {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
