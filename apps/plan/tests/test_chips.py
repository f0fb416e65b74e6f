"""Names of slices, and what a chip can do."""

import pytest

from coldforge.apps.plan.chips import CHIPS, Slice


def test_topologies() -> None:
    found = Slice.parse("v5e:16x16")
    assert (found.chip.name, found.shape, found.name) == ("v5e", (16, 16), "v5e:16x16")
    assert Slice.parse("v5p:2x2x4").shape == (2, 2, 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e-8", r"accelerator type.*write v5e:2x4"),
        ("v5litepod-256", r"write v5e:16x16"),
        ("v6e-64", r"write v6e:8x8"),
        ("v5p-16", r"it has 8 chips: write a shape of three numbers"),
        ("v4-8", r"write CHIP:SHAPE with a chip of v5e, v5p, v6e, tpu7x"),
        ("2x4", r"'2x4' is no topology: write CHIP:SHAPE, as in v5e:2x4"),
        ("v5e:0x4", r"is no topology"),
        ("v5e:2*4", r"is no topology"),
        ("v4:2x2x1", r"chip of topology 'v4:2x2x1' is not known here; known are v5e"),
        ("v5e:2x2x2", r"a slice of v5e has 2 dimensions, as in v5e:2x4"),
        ("v5p:2x4", r"a slice of v5p has 3 dimensions, as in v5p:2x2x2"),
    ],
)
def test_wrong_topologies_are_explained(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Slice.parse(name)


def test_clocks() -> None:
    # What the vendor's peak rates and the sizes of the matrix units come to.
    assert {name: round(chip.clock / 1e9, 2) for name, chip in CHIPS.items()} == {
        "v5e": 1.50, "v5p": 1.75, "v6e": 1.75, "tpu7x": 2.20,
    }  # fmt: skip
    assert CHIPS["v5e"].ring_bytes == 100e9
