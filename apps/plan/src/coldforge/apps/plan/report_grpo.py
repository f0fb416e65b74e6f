"""A plan of GRPO as people read it in a terminal of 80 columns: a line for each program, then the sampler's slots."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from coldforge.apps.plan.plan_grpo import GrpoPlan, ProgramPlan, SlotPlan

GIB = 2**30


def show_grpo(plan: GrpoPlan, console: Console) -> None:
    """Prints a plan."""
    console.print(_title(plan))
    console.print(_programs(plan))
    console.print(_verdict(plan))
    for line in (*_work(plan), "", *_sampler(plan), ""):
        console.print(line, highlight=False)
    for note in _notes(plan):
        console.print(Text(note, style="dim"))


def _title(plan: GrpoPlan) -> Text:
    model, lora, rollout = plan.options["model"], plan.options["lora"], plan.options["rollout"]
    trained = "all weights trained" if model["train"] == "full" else f"LoRA of rank {lora['rank']}"
    base = "" if lora["quantize"] == "none" or model["train"] == "full" else f" on {lora['quantize']}"
    mesh = " × ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    samples = f"{rollout['questions']} × {rollout['group_size']} samples"
    lengths = f"{rollout['max_prompt_tokens']:,} + {rollout['max_new_tokens']:,} tokens"
    updates = plan.options["algorithm"]["minibatches"] * plan.options["algorithm"]["inner_epochs"]
    return Text.assemble(
        (f"{plan.stage} {plan.preset} on {plan.topology}", "bold"), f"  mesh {mesh}\n",
        f"{trained}{base}, remat {model['remat']}; {updates} update{'s' if updates > 1 else ''} for each rollout of\n"
        f"{samples}, of up to {lengths}\n",
    )  # fmt: skip


def _programs(plan: GrpoPlan) -> Table:
    table = Table(
        title="Memory of a chip in GiB, and time: a model, not a measurement", title_justify="left", title_style="bold",
        box=None, padding=(0, 1, 0, 0), header_style="dim",
    )  # fmt: skip
    for name in ("", "given", "temporary", "output", "beside", "total", "", "cycles", "time", "compiled"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for program in plan.programs:
        table.add_row(*_cells(plan, program), style="" if plan.program_fits(program) else "red")
    return table


def _cells(plan: GrpoPlan, program: ProgramPlan) -> list[str]:
    took = f"{program.compile_seconds:.0f} s"
    memory, cost = program.memory, program.cost
    if memory is None or cost is None:
        assert program.refusal is not None
        wanted = f"{program.refusal.needed / GIB:.2f}" if program.refusal.needed else ""
        return [program.name, "", "", "", "", wanted, "refused", "", "", took]
    sizes = (memory.arguments, memory.temporaries, memory.outputs + memory.code, program.beside, program.total)
    return [
        program.name, *(f"{size / GIB:.2f}" for size in sizes), "fits" if plan.program_fits(program) else "too much",
        f"{cost.cycles / 1e6:,.1f} M", duration(plan.seconds(program)), took,
    ]  # fmt: skip


def _verdict(plan: GrpoPlan) -> Text:
    style, word = ("bold green", "fits") if plan.fits else ("bold red", "does not fit")
    text = Text.assemble(f"\nOf {plan.slice.chip.memory / GIB:.2f} GiB: ", (word, style))
    for program in plan.programs:
        if program.refusal is not None:
            text.append(f"\n{program.name}: {program.refusal.message}", "dim")
    return text if plan.fits else text.append(
        "\nWhat takes less, by growing cost in time: fewer rollout.slots; model.remat\n"
        "block, then full; fewer rows.rows; shorter samples; lora.quantize int8;\nmesh.fsdp; mesh.tensor."
    )  # fmt: skip


def _work(plan: GrpoPlan) -> Iterator[str]:
    micro = plan.shape[0]
    for program in plan.programs:
        seconds = plan.seconds(program)
        more = f", {duration(seconds / micro)} each" if program.name in ("update", "score") and micro > 1 else ""
        yield f"  {program.name}: {program.work}{more if program.cost is not None else ''}"


def _sampler(plan: GrpoPlan) -> Iterator[str]:
    slots = plan.sampler
    if slots is None:
        yield "Sampler: not one slot fits beside the training state."
        return
    each = f" ({slots.slots // slots.devices} a device)" if slots.devices > 1 else ""
    how = "as asked for" if slots.given else "as many as fit"
    yield f"Sampler: {slots.slots:,} slots of {slots.length:,} tokens{each}, {how}"
    ring, full = slots.ring_bytes / 2**20, slots.full_bytes / 2**20
    fewer = f"{full:,.1f} in full ones ({slots.full_slots:,} slots)"
    yield f"  a slot: {ring:,.1f} MiB of {slots.kv} in ring caches, {fewer}"
    decode = next(program for program in plan.programs if program.name == "decode")
    if decode.cost is not None:
        yield f"  with all slots busy: {slots.slots / plan.seconds(decode):,.0f} tokens/s"
    if slots.tried:
        yield f"  too many: {', '.join(f'{tried:,}' for tried in slots.tried)}"
    if not slots.given:
        yield from _advice(slots)


def _advice(slots: SlotPlan) -> Iterator[str]:
    if slots.own_slots != slots.slots:
        yield f"  a run takes about {slots.own_slots:,} by itself; --rollout.slots {slots.slots} takes these"


def _notes(plan: GrpoPlan) -> Iterator[str]:
    yield "output: beyond what takes an argument's place, and the program itself."
    yield "beside: what stays meanwhile and is not given (reference, optimizer, slots, …)."
    yield "Time: XLA's cycles, and attention kernels and exchanges at peak rates."
    yield f"Traced in {plan.trace_seconds:.0f} s, by jax {plan.versions['jax']}, libtpu {plan.versions['libtpu']}."


def duration(seconds: float) -> str:
    """`duration(0.0123)` is "12.3 ms"."""
    if seconds < 1:
        return f"{1e3 * seconds:,.1f} ms"
    return f"{seconds:,.1f} s" if seconds < 100 else f"{seconds:,.0f} s"
