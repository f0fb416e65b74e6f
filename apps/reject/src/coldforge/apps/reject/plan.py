"""Whose directory it is: policy, questions and way of sampling, by their content. Another's is refused, by name.

DIR/samples/plan.json    what it was begun with
DIR/samples/00000.jsonl  judged samples, a file for each process
DIR/manifest.json …      the data set, when it is written
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from coldforge.apps.reject.config import RejectConfig
from coldforge.apps.reject.inputs import Inputs
from coldforge.data.dataset import MANIFEST, SAMPLES, atomic
from coldforge.data.prepare.plan import differences
from coldforge.data.prepare.run import AUDIT_PAGE
from coldforge.data.rejection import Selected
from coldforge.stages.find import form_entry

PLAN = "plan.json"
_ROOM = ("slots", "memory_gib", "prefill_chunk")


def make_plan(inputs: Inputs, config: RejectConfig) -> dict[str, Any]:
    """What decides the samples, as JSON holds it; no path is in it."""
    policy, manifest = inputs.policy, inputs.policy.manifest
    made: dict[str, Any] = {"stage": manifest.stage, **policy.identity}
    if policy.adapter is not None:
        made |= {"base": manifest.identity.get("base"), "quantize": manifest.base.get("quantize", "none")}
    sampling = {name: value for name, value in asdict(config.sampling).items() if name not in _ROOM}
    asked = inputs.questions.describe()
    return {
        "policy": made, "form": form_entry(inputs.form), "questions": asked,
        "sampling": sampling | {"seed": config.seed, "dtype": config.model.dtype},
    }  # fmt: skip


def finished(out: Path, plan: Mapping[str, Any], inputs: Inputs) -> Selected | None:
    """The data set, if it is there already and was asked for so; None if it is still to be made.

    Raises:
        ValueError: The directory holds something else, or what was asked for otherwise; what differs is named.
    """
    if (out / MANIFEST).is_file():
        found = Selected.open(out)
        manifest = found.dataset.manifest
        _refuse(out, "holds a data set", manifest["plan"], plan, "Choose another directory.")
        before = {"keep": manifest["options"], "chat": manifest["chat"]}
        now = {"keep": inputs.selection, "chat": None if inputs.chat is None else inputs.chat.identity}
        advice = f"Choose another directory; or remove {MANIFEST}, and it is made again of the samples that are there."
        _refuse(out, "holds a data set", before, now, advice)
        return found
    if (file := out / SAMPLES / PLAN).is_file():
        _refuse(out, "was begun", json.loads(file.read_text("utf-8")), plan, "Ask for the same, or elsewhere.")
    elif others := sorted(one.name for one in out.glob("*") if one.name not in (AUDIT_PAGE, SAMPLES)):
        raise ValueError(f"{out} holds other files ({', '.join(others[:3])}); wanted a new directory.")
    return None


def begin(out: Path, plan: Mapping[str, Any]) -> None:
    """Writes down what the directory is for; the first process does."""
    (out / SAMPLES).mkdir(parents=True, exist_ok=True)
    text = json.dumps(plan, indent=1, ensure_ascii=False).encode() + b"\n"
    atomic(out / SAMPLES / PLAN, lambda file: _write(file, text))


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _refuse(out: Path, has: str, before: Mapping[str, Any], now: Mapping[str, Any], advice: str) -> None:
    plain = json.loads(json.dumps(now))
    if found := "; ".join(differences(before, plain)):
        raise ValueError(f"{out} {has} that was asked for otherwise: {found}. {advice}")
