"""Collectives are counted once, with the bytes that the ring formulas give."""

from collections.abc import Callable

import pytest

from coldforge.apps.plan.collectives import Collective, group_size
from coldforge.apps.plan.estimate import estimate
from coldforge.apps.plan.hlo import Program

MIB = 2**20


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("all-gather", 7),
        ("reduce-scatter", 7),
        ("all-reduce", 14),
        ("all-to-all", 7),
        ("collective-permute", 8),
    ],
)
def test_ring_formulas(kind: str, sent: int) -> None:
    assert Collective(kind, 8 * MIB, 8, overlapped=False, op_name="").sent == sent * MIB


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        (", channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}", 4),
        (", replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}", 2),
        (", replica_groups=[1,256]<=[256], dimensions={0}", 256),
        (", replica_groups=mesh['data'=2,'fsdp'=4,'tensor'=1] {'fsdp'}, use_global_device_ids=true", 4),
        (", replica_groups=mesh['data'=2,'fsdp'=4,'tensor'=1] {'data','fsdp'}, to_apply=%add", 8),
        (", replica_groups=mesh['a'=8], device_ids=([4,2]T(1,0)) {'a':(2)4}, to_apply=%add", 4),
        (", replica_groups={}, to_apply=%add", 16),
        (", to_apply=%add", 16),
        (", channel_id=5, source_target_pairs={{0,1},{1,0},{4,5},{5,4}}, metadata={x=1}", 4),
    ],
)
def test_groups(attributes: str, size: int) -> None:
    assert group_size(attributes, 16) == size


def test_groups_in_another_form_are_not_guessed() -> None:
    with pytest.raises(ValueError, match=r"way not known here: '<8>"):
        group_size(", replica_groups=<8>", 8)


def test_each_kind(program: Callable[[str], Program]) -> None:
    # 16 MiB of bfloat16, rows split over 8 chips: 2 MiB on each.
    found = {
        one.kind: (one.data, one.group, one.sent, times) for one, times in estimate(program("exchanges")).collectives
    }
    assert found == {
        "all-to-all": (2 * MIB, 4, 1.5 * MIB, 1),
        "collective-permute": (2 * MIB, 8, 2 * MIB, 1),
        "all-reduce": (2 * MIB, 8, 3.5 * MIB, 1),
        "all-gather": (4 * MIB, 2, 2 * MIB, 1),
    }


def test_gathers_behind_a_product_count_once_and_sliced_sums_are_scatters(program: Callable[[str], Program]) -> None:
    found = estimate(program("collectives")).collectives
    weight = 4096 * 16384 * 2
    gathers = [(one.data, one.group, one.overlapped) for one, _ in found if one.kind == "all-gather"]
    assert sorted(gathers) == [(weight, 4, False), (weight, 4, True)]
    scatters = [one for one, _ in found if one.kind == "reduce-scatter"]
    assert [one.group for one in scatters] == [4, 4]
    assert all(weight <= one.data < 1.01 * weight for one in scatters)  # one is padded to whole tiles
    [reduced] = [one for one, _ in found if one.kind == "all-reduce"]  # both quarters, over the two of `data`
    assert (reduced.data, reduced.group) == (2 * weight // 4, 2)


def test_a_split_product_sends_its_weight_round(program: Callable[[str], Program]) -> None:
    found = estimate(program("windowed"))
    part = 4096 * 16384 * 2 // 8
    assert {(one.kind, one.data) for one, _ in found.collectives} == {("collective-permute", part)}
    assert (
        found.sent() == found.sent(overlapped=True) == 9 * part
    )  # eight in the loop, one to begin the other way round
