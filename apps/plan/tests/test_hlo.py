"""A program's text is taken apart as XLA wrote it."""

from collections.abc import Callable

import pytest

from coldforge.apps.plan.hlo import Program, arrays, bits, logical_bytes, padded_bytes, parse

SMALL = """\
HloModule jit_f, is_scheduled=true, num_partitions=4

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  ROOT %tuple.1 = (s32[]{:T(128)}, /*index=1*/f32[8]{0:T(128)}) tuple(%p, /*index=1*/%p)
}

ENTRY %main.1 (x: f32[8]) -> f32[8] {
  %x = f32[8]{0:T(128)} parameter(0), metadata={op_name="state.params[\\'a\\']"}
  %kernel.3 = f32[8]{0:T(128)S(1)} custom-call(%x.in_ref), custom_call_target="tpu_custom_call", a={b={
"note":"{ }"
}}, metadata={op_name="jit(f)/kernel" stack_frame_id=7}
  ROOT %y = f32[8]{0:T(128)} fusion(%x, %kernel.3), kind=kLoop, calls=%body, backend_config={"estimated_cycles":"12"}
}
"""


def test_computations_instructions_and_roots() -> None:
    program = parse(SMALL)
    assert program.entry == "main.1"
    assert program.partitions == 4
    assert list(program.computations) == ["body", "main.1"]
    assert program.root("body").operands == ("p", "p")
    root = program.root("main.1")
    assert (root.opcode, root.operands, root.attribute("calls"), root.estimated_cycles) == (
        "fusion", ("x", "kernel.3"), "body", 12,
    )  # fmt: skip
    assert program.fused == {"body"}


def test_an_instruction_may_go_on_over_several_lines_with_lone_braces() -> None:
    kernel = parse(SMALL).computations["main.1"]["kernel.3"]
    assert kernel.op_name == "jit(f)/kernel"
    assert kernel.frame == 7
    assert kernel.operands == ("x.in_ref",)
    assert kernel.estimated_cycles is None


def test_names_are_unescaped() -> None:
    assert parse(SMALL).computations["main.1"]["x"].op_name == "state.params['a']"


def test_types() -> None:
    assert arrays("(bf16[8,128]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}, f32[2,<=3])") == [
        ("bf16", (8, 128)), ("u32", ()), ("f32", (2, 3)),
    ]  # fmt: skip
    assert [bits(dtype) for dtype in ("pred", "bf16", "s4", "u8", "f8e4m3fn", "f32", "s64", "c64")] == [
        8, 16, 4, 8, 8, 32, 64, 64,
    ]  # fmt: skip
    assert logical_bytes("(bf16[3,5], s4[7])") == 34
    with pytest.raises(ValueError, match="'quux'"):
        bits("quux")


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("f32[64,4]{1,0:T(8,128)}", 64 * 128 * 4),
        ("f32[64,4]{0,1:T(8,128)}", 8 * 128 * 4),  # laid out the other way round: 4 is what is padded to 8
        ("bf16[1152]{0:T(1024)(128)(2,1)}", 2048 * 2),
        ("s32[]{:T(128)}", 128 * 4),
        ("bf16[1152,2,1,256]{0,3,1,2:T(8,128)(2,1)S(1)}", 1152 * 2 * 256 * 2),
        ("u8[10]{0}", 10),
        ("f32[3]", 12),
    ],
)
def test_padding(kind: str, size: int) -> None:
    assert padded_bytes(kind) == size


def test_another_text_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no ENTRY.*'module @jit_f"):
        parse("module @jit_f {\n}\n")
    with pytest.raises(ValueError, match="does not read as an instruction: '  %x = f32"):
        parse("ENTRY %main (x: f32[8]) -> f32[8] {\n  %x = f32[8]{0} parameter(0\n}\n")


@pytest.mark.parametrize("name", ["loops10", "branches", "collectives", "exchanges", "windowed", "step"])
def test_every_operand_of_a_real_program_is_found(program: Callable[[str], Program], name: str) -> None:
    parsed = program(name)
    for instructions in parsed.computations.values():
        for instruction in instructions.values():
            kernel = "tpu_custom_call" in instruction.attributes  # its operands are named after its references, too
            for operand in instruction.operands:
                assert operand in instructions or (kernel and operand.rpartition(".")[0] in instructions), instruction
