"""What a stage starts from, found before anything expensive: weights, tokenizer, the form of replies.

    policy = find_policy(run, weights=options.weights, size="1b", tokenizer=options.tokenizer)   # what a run has made

By names it is `find_weights`, `find_tokenizer` and `form_of`. JAX is imported by `find_policy` alone, when it is
called, with the package that reads manifests; no device is touched.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coldforge.data import ReasoningFormat, Tokenizer, open_dataset
from coldforge.data.embedded import gemma3_270m

if TYPE_CHECKING:
    from coldforge import training

EXTRA = "270m"  # the size whose weights an extra brings


@dataclasses.dataclass(frozen=True)
class Policy:
    """What a run has made, found and not yet loaded.

    Attributes:
        manifest: The run's.
        weights: Where the base is that its adapter belongs to, None for random weights; or the model that it has
            trained as a whole.
        adapter: In PEFT's format; None where it has trained all of the model.
        tokenizer: The run's.
    """

    manifest: "training.Manifest"
    weights: Path | None
    adapter: Path | None
    tokenizer: Tokenizer

    @property
    def identity(self) -> dict[str, str]:
        """What it is besides the base weights: hashes of tokenizer, and of adapter or whole model."""
        found = {"tokenizer": self.tokenizer.fingerprint}
        if self.adapter is not None:
            return found | {"adapter": adapter_hash(self.adapter)}
        assert self.weights is not None
        return found | {"model": model_hash(self.weights)}


def find_policy(run: Path, *, weights: Path | None, size: str, tokenizer: Path | None, force: bool = False) -> Policy:
    """Finds what a run of SFT or GRPO has made, if its gate is passed.

    Args:
        run: Its directory.
        weights, size: What --weights and --model.size say of the base.
        tokenizer: What --tokenizer says.
        force: Take it although its gate is failed.

    Raises:
        RunError, GateError: There is no run, or its gate is failed.
        FileNotFoundError, ModuleNotFoundError: Something is not there.
        ValueError: It is a run of another stage, or the tokenizer is another than the run's.
    """
    from coldforge import training

    manifest = training.read_manifest(run)
    if manifest.stage not in ("sft", "grpo"):
        raise ValueError(f"{run} is a run of stage {manifest.stage!r}; wanted one of coldforge-sft or coldforge-grpo")
    training.require_gate(manifest, force=force)
    adapter = manifest.adapter_path
    place = whole_model(manifest) if adapter is None else _base(weights, size)
    found = find_tokenizer(tokenizer or own_tokenizer(adapter or place), place)
    require_tokenizer(manifest, found)
    return Policy(manifest, place, adapter, found)


def _base(weights: Path | None, size: str) -> Path | None:
    return None if weights is None and size == "tiny" else find_weights(weights, size)


def whole_model(manifest: "training.Manifest") -> Path:
    """The model that a run has trained as a whole.

    Raises:
        FileNotFoundError: There is none.
    """
    place = manifest.directory / "model"
    if not place.is_dir():
        raise FileNotFoundError(f"{manifest.directory} holds neither an adapter nor a model; has the run finished?")
    return place


def own_tokenizer(place: Path | None) -> Path | None:
    """The tokenizer that lies beside an adapter or a model; None if there is none."""
    file = None if place is None else place / "tokenizer.model"
    return file if file is not None and file.is_file() else None


def require_tokenizer(manifest: "training.Manifest", tokenizer: Tokenizer) -> None:
    """Makes sure that a run was trained with this tokenizer.

    Raises:
        ValueError: It was another.
    """
    stored = manifest.tokenizer.get("sha256")
    if stored not in (None, tokenizer.fingerprint):
        raise ValueError(
            f"{manifest.directory} was trained with another tokenizer ({stored[:12]}…) than this one "
            f"({tokenizer.fingerprint[:12]}…): pass its own with --tokenizer"
        )


def adapter_hash(adapter: Path) -> str:
    """SHA-256 (hex) of an adapter's weights."""
    with (adapter / "adapter_model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_hash(model: Path) -> str:
    """SHA-256 (hex) of the weights in a directory, over those of its files; the files are read."""
    digest = hashlib.sha256()
    for path in sorted(model.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def find_weights(weights: Path | None, size: str) -> Path | None:
    """Where the base weights are: at `weights`, or in the extra; None for the tiny model's random ones.

    Args:
        weights: What --weights says.
        size: What --model.size says.

    Raises:
        FileNotFoundError: There is nothing at `weights`; or it is None, and weights of this size have to be named.
        ModuleNotFoundError: The extra with the 270M's weights is wanted and not installed.
    """
    if weights is not None:
        if not weights.exists():
            raise FileNotFoundError(f"there is nothing at {weights}; --weights takes a path on this machine")
        return weights
    if size == "tiny":
        return None
    if size == "nano":
        return nano_model()
    if size != EXTRA:
        raise FileNotFoundError(
            f"a {size} needs weights: --weights PATH (a Hugging Face directory, a .gguf file or a Coldforge checkpoint)"
        )
    return gemma3_270m()


def nano_model() -> Path:
    """The model that coldforge-nano brings, checked against its checksums.

    Raises:
        ModuleNotFoundError: coldforge-nano is not installed.
        ValueError: Its files are damaged.
    """
    try:
        from coldforge.nano import model_dir
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the nano model is not installed: pip install coldforge-nano "
            "(in a clone of Coldforge: uv run --extra nano …).",
            name="coldforge.nano",
        ) from error
    return model_dir()


def find_tokenizer(tokenizer: Path | None, weights: Path | None) -> Tokenizer:
    """The tokenizer at `tokenizer` (what --tokenizer says), else that which lies with the weights.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged, or not one of Gemma's.
    """
    place = tokenizer or weights
    if place is None:
        raise FileNotFoundError("a model of random weights has no tokenizer: pass the data set's with --tokenizer PATH")
    try:
        return Tokenizer.load(place)
    except FileNotFoundError as error:
        if tokenizer is not None:
            raise
        raise FileNotFoundError(f"{error} With --tokenizer PATH it may lie elsewhere.") from error


def form_entry(form: ReasoningFormat) -> dict[str, Any]:
    """A form as the manifest's `dataset` entry keeps it, under "form"; `form_of` reads it."""
    return {"reasoning": list(form.reasoning), "answer": list(form.answer), "template": form.template}


def form_of(manifest: "training.Manifest") -> ReasoningFormat:
    """The form that a run's model replies in: tags and instruction, as its manifest or its data set has them.

    Raises:
        ValueError: The manifest does not hold it and names no data set that could be opened, or what it holds is no
            form.
    """
    entry, where = manifest.dataset, f"the {manifest.stage} run in {manifest.directory}"
    stored = entry.get("form")
    if stored is not None:
        try:
            return ReasoningFormat(tuple(stored["reasoning"]), tuple(stored["answer"]), stored["template"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"the form in the manifest of {where} cannot be read: {stored!r} ({error!r})") from error
    path = entry.get("path")
    if path is None:
        raise ValueError(f"{where} does not say which form its model replies in, and names no data set to ask")
    try:
        return open_dataset(path).form
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{where} is of a release that does not say which form its model replies in, and its data set cannot be "
            f"opened: {error} Bring it back to {path}"
        ) from error
