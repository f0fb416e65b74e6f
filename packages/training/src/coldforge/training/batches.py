"""A batch that broke a step, kept for inspection: one .npz that numpy alone opens.

    save_batch(run / "bad_batches" / f"step_{step}.npz", batch, {"step": step, "loss": loss, "records": ids})
    arrays, extra = load_batch(path)        # {"tokens": [4, 2, 512], ...}, {"step": 12, ...}

The numpy batch is what to save, before it is placed on devices: each process has its own rows.
"""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from coldforge.training.compare import spelled
from coldforge.training.files import replace_file

EXTRA = "extra_json"


def save_batch(path: str | Path, batch: PyTree, extra: Mapping[str, Any]) -> Path:
    """Writes the arrays of a batch and what belongs to them, under `path` when all is written.

    Args:
      path: ends in .npz; its directory is made.
      batch: a pytree of arrays that this process can read whole (the numpy batch, before it is placed on devices).
        Names are the fields' or keys', joined by dots.
      extra: anything JSON can hold, say the step, the loss, the ids of the records; nan and infinities become strings.

    Raises:
      ValueError: if an array has the name of the field for `extra`, or `path` does not end in .npz.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"a batch is saved as .npz, got {path}")
    arrays = {_name(keys): np.asarray(leaf) for keys, leaf in jax.tree.leaves_with_path(batch)}
    if EXTRA in arrays:
        raise ValueError(f"{EXTRA!r} is where what belongs to the batch is kept; name the array otherwise")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as file:
        arrays[EXTRA] = np.array(json.dumps(spelled(_plain(extra)), allow_nan=False))
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:  # np.savez has arguments of its own by name
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
    return path


def load_batch(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays by name, and what was saved with them.

    Raises:
      ValueError: if the file is not from `save_batch`.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    if EXTRA not in arrays:
        raise ValueError(f"{path} was not written by save_batch: it has no {EXTRA!r}, only {sorted(arrays)}")
    return arrays, json.loads(str(arrays.pop(EXTRA)))


def _name(keys: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator=".") or "batch"


def _plain(value: Any) -> Any:
    """`value` with numpy's numbers and arrays as Python's."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return value
