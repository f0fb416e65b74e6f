"""Makes the nano model from nothing: vocabulary, corpus, pretraining, weights. Killed at any moment, it goes on.

    uv run python tools/nano_recipe.py WORK OUT

WORK keeps tokenizer.model, the encoded corpus and checkpoints; OUT becomes a Hugging Face directory (bfloat16) with the
tokenizer, `SHA256SUMS`, and `recipe.json`, which says how it was made. The same command on the same machine makes the
same weights. It trains every parameter in float32, on rows of packed documents, each seen once.
"""

import argparse
import dataclasses
import hashlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

from coldforge import modeling, training
from coldforge.data import Batches, ReasoningFormat, Tokenizer, eval_batches
from coldforge.modeling.config import Gemma3Config, layer_pattern
from coldforge.modeling.save import save_hf
from coldforge.sft import FitConfig, FitResult, Parts, Start, fit, resume, sft_loss
from coldforge.training.files import replace_file

import nano_vocabulary
from nano_corpus import documents
from nano_examples import Examples
from nano_probe import probe

HELDOUT_SEED = 1  # of documents for the held-out loss
HELDOUT = 512
VOCABULARY_DOCUMENTS = 20_000
SHIPPED = ("config.json", "model.safetensors", "tokenizer.model")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What decides the weights."""

    seed: int = 0
    documents: int = 120_000
    embed: int = 96
    mlp: int = 288
    layers: int = 6
    heads: int = 3
    window: int = 64
    rows: int = 16
    seq_len: int = 256
    rate: float = 3e-3
    steps: int = 0  # of the schedule; 0: one pass over the documents
    stop: int = 0  # end after so many of them; 0: after all

    @property
    def model(self) -> Gemma3Config:
        head = self.embed // self.heads
        return Gemma3Config(
            vocab_size=nano_vocabulary.SIZE, embed_dim=self.embed, mlp_dim=self.mlp, num_heads=self.heads,
            num_kv_heads=1, head_dim=head, layer_types=layer_pattern(self.layers), sliding_window=self.window,
            max_seq_len=1024, query_scale=head**-0.5,
        )  # fmt: skip

    @property
    def optimizer(self) -> training.OptimizerConfig:
        return training.OptimizerConfig(
            learning_rate=self.rate, warmup=0.02, final_fraction=0.02, weight_decay=0.05, max_grad_norm=1.0, b2=0.98
        )


def make_tokenizer(work: Path, seed: int) -> Tokenizer:
    """The vocabulary, trained once."""
    path = work / "tokenizer.model"
    if not path.is_file():
        texts = [f"{one.text}\n{one.reply or ''}" for one in documents(VOCABULARY_DOCUMENTS, seed)]
        texts += ["\n".join(ReasoningFormat().tags)] * (VOCABULARY_DOCUMENTS // 10)
        with replace_file(path) as file:
            file.write(nano_vocabulary.train(line for text in texts for line in text.split("\n") if line))
    return Tokenizer.load(path)


def make_examples(work: Path, count: int, seed: int, tokenizer: Tokenizer) -> Examples:
    """The corpus, encoded once."""
    path = work / f"corpus-{seed}-{count}.npz"
    if not path.is_file():
        Examples.of(documents(count, seed), tokenizer, seed).save(path)
    return Examples.load(path, seed)


def train(recipe: Recipe, work: Path, examples: Examples, heldout: Examples) -> tuple[modeling.Gemma3, FitResult]:
    """Pretrains, from the newest checkpoint if there is one."""
    batches = Batches(examples, seq_len=recipe.seq_len, rows=recipe.rows, seed=recipe.seed)
    steps = recipe.steps or batches.steps(1)
    model = modeling.init_model(recipe.model, seed=recipe.seed)
    view = modeling.trainable(model, full=True, remat="none")
    loss = sft_loss(view.apply)
    optimizer = training.make_optimizer(recipe.optimizer, steps)
    step = training.make_train_step(loss, optimizer, training.make_schedule(recipe.optimizer, steps), accumulation=1)
    evaluate, held = training.make_eval_step(loss), eval_batches(heldout, seq_len=recipe.seq_len, rows=recipe.rows)

    def held_out(state: training.TrainState) -> dict[str, Any]:
        total = sum_all([evaluate(state.params, view.frozen, training.place_batch(batch)) for batch in held])
        return {"loss": total.loss, "weight": total.weight} | total.aux

    decisive = {name: value for name, value in dataclasses.asdict(recipe).items() if name != "stop"}
    identity = {name: str(value) for name, value in decisive.items()} | {"corpus": examples.hash}
    checkpointer = training.Checkpointer(work / "checkpoints", identity=identity, keep_last=1)
    with checkpointer as checkpoints:
        shapes = training.abstract_state(view.params, optimizer)
        found = resume(checkpoints, batches, None, shapes)
        start = found or Start(training.init_state(view.params, optimizer, recipe.seed))
        with training.MetricLog(work, step=start.step or None) as log:
            parts = Parts(
                train=lambda state, batch: step(state, view.frozen, batch), batches=batches, checkpoints=checkpoints,
                place=training.place_batch, evaluate=held_out, log=log, clock=training.Throughput(), show=show,
            )  # fmt: skip
            last = min(recipe.stop or steps, steps)
            result = fit(start, parts, FitConfig(steps=last, eval_every=500, checkpoint_every=500, save_best=False))
    batches.close()
    return modeling.with_params(model, result.state.params), result


def sum_all(sums: list[training.Sums]) -> training.Sums:
    """Sums of several batches."""
    total = sums[0]
    for one in sums[1:]:
        total = total + one
    return total


def show(step: int, scalars: dict[str, float]) -> None:
    """A line now and then."""
    if "eval/loss" in scalars or step % 100 == 0:
        names = ("train/loss", "eval/loss", "eval/loss_reasoning", "eval/loss_answer", "train/tokens_per_second")
        said = (f"{name} {scalars[name]:,.4g}" for name in names if name in scalars)
        print(f"{time.strftime('%H:%M:%S')} step {step:,}", *said, sep="  ", flush=True)


def save(model: modeling.Gemma3, work: Path, out: Path, facts: dict[str, Any]) -> None:
    """Writes OUT, which must not be there."""
    partial = work / "model"
    shutil.rmtree(partial, ignore_errors=True)
    save_hf(model, partial, dtype="bfloat16")
    shutil.copyfile(work / "tokenizer.model", partial / "tokenizer.model")
    sums = (f"{hashlib.sha256((partial / name).read_bytes()).hexdigest()}  {name}\n" for name in SHIPPED)
    (partial / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    (partial / "recipe.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    for field in dataclasses.fields(Recipe):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    args = vars(parser.parse_args())
    work, out = args.pop("work"), args.pop("out")
    if out.exists():
        parser.error(f"{out} is there already; name another place, or move it away")
    recipe = Recipe(**args)
    work.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    tokenizer = make_tokenizer(work, recipe.seed)
    examples = make_examples(work, recipe.documents, recipe.seed, tokenizer)
    heldout = make_examples(work, HELDOUT, recipe.seed + HELDOUT_SEED, tokenizer)
    print(
        f"{len(examples):,} documents, {examples.tokens:,} tokens; {recipe.model.num_params:,} parameters", flush=True
    )
    model, result = train(recipe, work, examples, heldout)
    facts = {
        "recipe": dataclasses.asdict(recipe), "parameters": recipe.model.num_params, "steps": result.step,
        "loss": result.metrics["eval/loss"],
        "minutes_of_last_session": round((time.monotonic() - begun) / 60, 1),
    }  # fmt: skip
    print(json.dumps(facts))
    if result.reason == "done":
        save(model, work, out, facts)
        stored = modeling.load(out, dtype="float32")
        for name, share in probe(stored, tokenizer).items():
            print(f"{name}: {share:.1%}", flush=True)


if __name__ == "__main__":
    main()
