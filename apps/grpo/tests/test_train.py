from types import SimpleNamespace
from typing import Any, cast

from coldforge.apps.grpo.train import _shower
from coldforge.training import Stopper


def test_a_time_box_keeps_room_for_an_update_once_nothing_compiles_any_more():
    shown: list[int] = []
    view = cast(Any, SimpleNamespace(update=lambda step, scalars: shown.append(step)))
    stopper = Stopper(max_hours=1, margin=60)
    show = _shower(view, stopper)
    margins = []
    for step, scalars in enumerate(
        [{"time/update": 900.0}, {"time/update": 20.0}, {"eval/correct": 0.5}, {"time/update": 10.0}], 1
    ):
        show(step, scalars)
        margins.append(stopper.margin)
    assert margins == [60, 80, 80, 80]
    assert shown == [1, 2, 3, 4]
