"""Weights in a Hugging Face directory: `config.json` and one or several safetensors files.

Text-only and multimodal checkpoints, old key style (`language_model.model.layers…`) and new
(`model.language_model.…`), all come down to one set of names; vision tower and projector are skipped by name. Left
out: pickled `.bin` weights (convert them with transformers), and checkpoints quantised for inference (their tensors
have other names and types).
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from coldforge.modeling.safetensors_file import Entry, read_header, read_rows
from coldforge.modeling.weights import Tensor, WeightsError

INDEX = "model.safetensors.index.json"

# Longest first: "model." is the beginning of others. "" is a bare Gemma3TextModel.
_PREFIXES = ("language_model.model.", "model.language_model.", "language_model.", "model.", "")
_VISION = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
_OURS = ("embed_tokens.", "layers.", "norm.", "lm_head.")


class HFSource:
    """The text model's tensors in a directory (a `weights.WeightSource`).

    Raises:
      WeightsError: if files are missing or damaged, or a tensor is there twice.
    """

    def __init__(self, directory: Path):
        self.place = str(directory)
        self._entries: dict[str, Entry] = {}
        labels: dict[str, str] = {}
        for file in weight_files(directory):
            for label, entry in read_header(file).items():
                if label.startswith(_VISION):
                    continue
                name = canonical(label)
                if name in labels:
                    raise WeightsError(
                        f"{directory} holds one tensor twice: as {labels[name]} and as {label} (in {file.name})"
                    )
                labels[name], self._entries[name] = label, entry
        self.tensors: Mapping[str, Tensor] = {
            name: Tensor(labels[name], entry.shape, entry.dtype, entry.stored) for name, entry in self._entries.items()
        }
        used = [label.removesuffix(name) for name, label in labels.items() if name.startswith("layers.")]
        self._prefix = used[0] if used else "model."

    def label(self, name: str) -> str:
        """What this checkpoint would call the tensor."""
        return self._prefix + name

    def blocks(self, name: str, rows: slice, columns: slice, unit: int) -> Iterator[tuple[int, np.ndarray]]:
        """See `weights.WeightSource.blocks`."""
        return read_rows(self._entries[name], rows, columns, unit)


def canonical(label: str) -> str:
    """A tensor's name without the prefix of its checkpoint style: `model.norm.weight` → `norm.weight`."""
    for prefix in _PREFIXES:
        if label.startswith(prefix) and label.removeprefix(prefix).startswith(_OURS):
            return label.removeprefix(prefix)
    return label


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files that make up a directory's model.

    Raises:
      WeightsError: if there is none, or one that the index names is missing, or it is not clear which ones.
    """
    if (directory / INDEX).is_file():
        return _indexed(directory)
    if (directory / "model.safetensors").is_file():
        return [directory / "model.safetensors"]
    found = sorted(p for p in directory.glob("*.safetensors") if p.name != "adapter_model.safetensors")
    if len(found) == 1:
        return found
    if found:
        names = ", ".join(p.name for p in found)
        raise WeightsError(
            f"{directory} has several safetensors files ({names}) and no {INDEX} that says which belong together"
        )
    raise WeightsError(f"{directory} has no safetensors files; it holds {listing(directory)}")


def _indexed(directory: Path) -> list[Path]:
    try:
        names = set(json.loads((directory / INDEX).read_text("utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{directory / INDEX} is not an index of safetensors files: {error!r}") from error
    missing = sorted(name for name in names if not (directory / name).is_file())
    if missing:
        raise WeightsError(
            f"{directory} lacks {len(missing)} of the {len(names)} files that {INDEX} names: {', '.join(missing)}"
        )
    return [directory / name for name in sorted(names)]


def listing(directory: Path) -> str:
    """What lies in a directory, for messages."""
    names = sorted(path.name for path in directory.iterdir())
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more if names else "nothing"
