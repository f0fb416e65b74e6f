"""A plan as people read it in a terminal of 80 columns: memory, time, where the cycles go, what goes between chips."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from coldforge.apps.plan.cost import Cost
from coldforge.apps.plan.plan import Plan

GIB = 2**30
_EXPLAINED = {
    "temporaries": "activations, stacked weights, logits",
    "other arguments": "",
}


def show(plan: Plan, console: Console, *, top: int) -> None:
    """Prints a plan; `top`: so many lines of the dearest ops."""
    console.print(_title(plan))
    if plan.refusal is not None:
        _refused(plan, console)
    else:
        console.print(_memory(plan))
        console.print(_verdict(plan))
        console.print(_time(plan))
        console.print(_costs(plan, top))
        if plan.cost is not None and plan.cost.traffic:
            console.print(_traffic(plan.cost))
        for note in _notes(plan):
            console.print(Text(note, style="dim"))
    took = f"Traced in {plan.trace_seconds:.0f} s, compiled in {plan.compile_seconds:.0f} s"
    console.print(Text(f"{took} by jax {plan.versions['jax']}, libtpu {plan.versions['libtpu']}.", style="dim"))


def _title(plan: Plan) -> Text:
    model, lora, batches = plan.options["model"], plan.options["lora"], plan.options["batches"]
    trained = "all weights trained" if model["train"] == "full" else f"LoRA of rank {lora['rank']}"
    base = "" if lora["quantize"] == "none" or model["train"] == "full" else f" on {lora['quantize']}"
    mesh = " × ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    micro = f" in {batches['accumulation']} micro-batches" if batches["accumulation"] > 1 else ""
    rows = batches["rows"] * batches["accumulation"]
    return Text.assemble(
        (f"{plan.stage} {plan.preset} on {plan.topology}", "bold"), f"  mesh {mesh}\n",
        f"{trained}{base}, remat {model['remat']}, {rows} rows × {batches['seq_len']:,} tokens a step{micro}\n",
    )  # fmt: skip


def _section(title: str, *, expand: bool = False) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        show_header=False,
        padding=(0, 1),
        expand=expand,
    )


def _memory(plan: Plan) -> Table:
    memory, capacity = plan.memory, plan.slice.chip.memory
    assert memory is not None
    table = _section("Memory of a chip")
    rows = [*memory.parts.items(), ("temporaries", memory.temporaries), ("outputs", memory.outputs)]
    for name, size in [*rows, ("program", memory.code)]:
        if size >= 0.005 * GIB:
            bar = Text("█" * max(1, round(24 * size / capacity)), style="cyan")
            table.add_row(f"  {name}", f"{size / GIB:.2f} GiB", bar + Text(f" {_EXPLAINED.get(name, '')}", style="dim"))
    return table


def _verdict(plan: Plan) -> Text:
    memory, capacity = plan.memory, plan.slice.chip.memory
    assert memory is not None
    style, word = ("bold green", "fits") if plan.fits else ("bold red", "does not fit")
    free = capacity - memory.total
    left = f"{free / GIB:.2f} GiB left" if free >= 0 else f"{-free / GIB:.2f} GiB too much"
    return Text.assemble(
        f"   total {memory.total / GIB:13.2f} of {capacity / GIB:.2f} GiB: ", (word, style), f", {left}\n"
    )


def _refused(plan: Plan, console: Console) -> None:
    refusal = plan.refusal
    assert refusal is not None
    console.print(Text("Does not fit: XLA refuses the program.", style="bold red"))
    if refusal.needed:
        needed, available = refusal.needed / GIB, refusal.available / GIB
        console.print(f"It wants {needed:.2f} GiB where there are {available:.2f}.", highlight=False)
    console.print(Text(refusal.message, style="dim"))
    console.print(
        "What takes less, by growing cost in time: model.remat block, then full; fewer rows with more accumulation; "
        "lora.quantize int8; mesh.fsdp; mesh.tensor. --search tries them.\n"
    )


def _time(plan: Plan) -> Table:
    cost, chip, parts = plan.cost, plan.slice.chip, plan.estimated
    assert cost is not None
    table = _section("Time of a step: a model, not a measurement")
    priced = f"{cost.cycles / 1e6:,.0f} M cycles at {chip.clock / 1e9:.2f} GHz, XLA:TPU estimates"
    table.add_row("  priced ops", _ms(parts["xla"]), priced)
    if cost.kernels:
        calls = sum(cost.kernels.values())
        table.add_row("  Pallas", f"≥ {_ms(parts['kernels'])}", f"{calls} calls, not priced: products at peak")
    if cost.traffic:
        sent = f"{cost.sent() / 2**20:,.1f} MiB sent by a chip, over two links"
        table.add_row("  between chips", f"≈ {_ms(parts['collectives'])}", sent)
    batches = plan.options["batches"]
    tokens = batches["rows"] * batches["accumulation"] * batches["seq_len"]
    total = Text(f"≈ {_ms(plan.seconds)}", style="bold")
    table.add_row("  together", total, f"{tokens / plan.seconds:,.0f} tokens/s, padding included")
    floor = cost.floor_products / chip.flops
    table.add_row("  matmul floor", _ms(floor), f"products at peak, {100 * floor / parts['xla']:.0f} % of priced ops")
    table.columns[1].justify = "right"
    return table


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.{1 if seconds < 1 else 0}f} ms"


def _costs(plan: Plan, top: int) -> Table:
    cost = plan.cost
    assert cost is not None
    table = _columns("Where the cycles go, in millions", "share", "cycles", "", "function", "line", "computes")
    shown = cost.groups[:top]
    for one in shown:
        share = f"{100 * one.cycles / cost.cycles:.1f} %"
        origin = (_cut(one.where, 23), _cut(one.line, 18), _cut(one.what, 13))
        table.add_row(share, f"{one.cycles / 1e6:,.1f}", one.stage, *origin)
    rest = cost.cycles - sum(one.cycles for one in shown)
    if rest > 0:
        table.add_row(f"{100 * rest / cost.cycles:.1f} %", f"{rest / 1e6:,.1f}", "", Text("all others", style="dim"))
    return table


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _columns(title: str, *names: str) -> Table:
    """A table whose numbers stand right: columns before the first without a name."""
    table = Table(
        title=f"\n{title}", title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0), header_style="dim"
    )
    numbers = names.index("") if "" in names else len(names)
    for i, name in enumerate(names):
        table.add_column(name, justify="right" if i < numbers else "left", no_wrap=True, overflow="ellipsis")
    return table


def _traffic(cost: Cost) -> Table:
    table = _columns("Between chips, in a step", "MiB sent", "times", "devices", "", "collective")
    for one in cost.traffic:
        kind = Text.assemble(one.kind, (", beside other work" if one.overlapped else "", "dim"))
        table.add_row(f"{one.sent / 2**20:,.2f}", str(one.times), str(one.group), "", kind)
    return table


def _notes(plan: Plan) -> Iterable[str]:
    cost = plan.cost
    assert cost is not None
    yield ""
    if cost.kernels:
        yield "Pallas kernels, not in the estimate:"
        yield from (f"  {times} × {name}" for name, times in sorted(cost.kernels.items()))
    if cost.traffic:
        yield "Sent by a chip in rings of n, of S bytes: all-reduce 2 S (n − 1) / n;"
        yield "gather, scatter and all-to-all S (n − 1) / n; permutation S."
    for where, most, counted in cost.loops:
        what = f"at most {most} times; counted {counted}" if most else "as often as data decide; counted once"
        yield f"A loop runs {what}: {where}."
    if cost.conditionals:
        yield f"Of each of {cost.conditionals} conditionals the dearest branch is counted."
    if cost.unpriced:
        listed = ", ".join(f"{times} {opcode}" for opcode, times in sorted(cost.unpriced.items()))
        yield f"Small ops without a price: {listed}."


def show_search(rows: Iterable[Any], console: Console) -> None:
    """Prints what a search found, the fastest that fits first."""
    table = Table(box=None, header_style="dim", padding=(0, 1))
    for name in ("mesh", "remat", "rows", "GiB", "ms", "tokens/s", "floor", "compile"):
        table.add_column(name, justify="left" if name in ("mesh", "remat", "rows") else "right", no_wrap=True)
    for cells, style in rows:
        table.add_row(*cells, style=style)
    console.print(table)
