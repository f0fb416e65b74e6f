"""Checks what Coldforge exported by loading it in Hugging Face transformers and PEFT and comparing logits.

Runs in an environment of its own (Python 3.11+; transformers 5.23, peft 0.21, torch 2.13 CPU, safetensors), apart from
Coldforge. The npz holds `ids` [batch, seq] and `logits` [batch, seq, vocab] as Coldforge computed both:

    python tools/oracles/check_export.py ours.npz --merged MERGED_DIR --base BASE_DIR --adapter ADAPTER_DIR

- `--merged`: a directory written by `save_hf`; transformers alone must give these logits.
- `--base` with `--adapter`: the frozen weights and a directory written by `save_peft`; both together must.

transformers and PEFT fill in what a file lacks and drop what they do not know, with a warning at most. So, before any
logits: no tensor may be missing, unexpected or misshapen, and an adapter must change some logit, or the comparison
would prove nothing. Everything is loaded in f32. Prints a line per check; the exit status is 1 if one fails.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging


class ExportError(Exception):
    """The export does not load as it should, or computes something else."""


def load_model(directory: Path) -> PreTrainedModel:
    model, info = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True, local_files_only=True
    )
    problems = {name: found for name, found in info.items() if found}
    if problems:
        raise ExportError(f"{directory} does not hold exactly this model's tensors: {problems}")
    return model.eval()


def load_adapter(base: PreTrainedModel, directory: Path) -> PeftModel:
    model = PeftModel.from_pretrained(base, directory, torch_device="cpu")
    wanted = {name: tuple(value.shape) for name, value in get_peft_model_state_dict(model).items()}
    with safe_open(directory / "adapter_model.safetensors", "np") as file:
        got = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118, not a dict
    wrong = sorted(name for name in wanted.keys() | got.keys() if wanted.get(name) != got.get(name))
    if wrong:
        lines = "".join(f"\n  {name}: file {got.get(name)}, PEFT {wanted.get(name)}" for name in wrong)
        raise ExportError(f"{directory} and its adapter_config.json disagree on {len(wrong)} tensors:{lines}")
    return model.eval()


@torch.no_grad()
def logits_of(model: torch.nn.Module, ids: np.ndarray) -> np.ndarray:
    return model(torch.tensor(ids, dtype=torch.long)).logits.numpy()


def compare(name: str, theirs: np.ndarray, ours: np.ndarray, tolerance: float) -> None:
    if theirs.shape != ours.shape:
        raise ExportError(f"{name}: transformers gives logits {theirs.shape}, the npz holds {ours.shape}")
    difference = np.abs(theirs - ours)
    same = float((theirs.argmax(-1) == ours.argmax(-1)).mean())
    line = f"{name}: max difference {difference.max():.2e}, mean {difference.mean():.2e}, same argmax {same:.2%}"
    if not difference.max() <= tolerance:  # a NaN fails too
        raise ExportError(f"{line}; allowed {tolerance:.0e}")
    print(f"ok    {line}")


def check_merged(directory: Path, ids: np.ndarray, ours: np.ndarray, tolerance: float) -> None:
    compare("merged", logits_of(load_model(directory), ids), ours, tolerance)


def check_adapter(base: Path, adapter: Path, ids: np.ndarray, ours: np.ndarray, tolerance: float) -> None:
    model = load_adapter(load_model(base), adapter)
    with_adapter = logits_of(model, ids)
    with model.disable_adapter():
        effect = float(np.abs(logits_of(model, ids) - with_adapter).max())
    print(f"      the adapter moves the logits by up to {effect:.2e}")
    if effect <= 10 * tolerance:
        raise ExportError(f"{adapter} hardly changes the logits: export one with weights that are not zero")
    compare("base + adapter", with_adapter, ours, tolerance)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ours", type=Path, help="npz with `ids` and `logits`")
    parser.add_argument("--merged", type=Path, help="directory written by save_hf")
    parser.add_argument("--base", type=Path, help="directory of the weights that the adapter belongs to")
    parser.add_argument("--adapter", type=Path, help="directory written by save_peft")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest difference of a logit (1e-4)")
    args = parser.parse_args()
    if (args.base is None) != (args.adapter is None):
        parser.error("--base and --adapter go together")
    if args.merged is None and args.adapter is None:
        parser.error("nothing to check: pass --merged, or --base with --adapter")
    logging.disable_progress_bar()
    arrays = np.load(args.ours)
    ids, ours = arrays["ids"], arrays["logits"]
    failed = False
    checks = []
    if args.merged:
        checks.append(lambda: check_merged(args.merged, ids, ours, args.tolerance))
    if args.adapter:
        checks.append(lambda: check_adapter(args.base, args.adapter, ids, ours, args.tolerance))
    for check in checks:
        try:
            check()
        except ExportError as error:
            failed = True
            print(f"FAIL  {error}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
