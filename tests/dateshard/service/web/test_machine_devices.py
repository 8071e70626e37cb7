"""How many processes a start may ask for: as many as there are cores or accelerators, and what can be shared."""

from __future__ import annotations

from typing import Any

import pytest

from dateshard.service.web import machine_devices
from dateshard.service.web.machine_devices import choose_devices, count_accelerators
from dateshard.service.web.problems import ProblemError
from dateshard.trainer.config import Trainer


@pytest.mark.parametrize(
    ("asked", "cards", "trainer", "expected"),
    [
        (2, 0, {}, 2),
        (3, 0, {}, "3 is more than this machine has 2 cores"),
        (3, 4, {}, 3),
        (3, 1, {}, "3 is more than this machine has 1 accelerator"),
        (2, 1, {"training": {"device": "cpu"}}, 2),
        (2, 0, {"training": {"device": "cuda"}}, "this machine has no accelerator"),
        ("all", 4, {}, 4),
        ("all", 0, {}, "this machine has no accelerator"),
        (2, 0, {"model": {"name": "ridge"}}, "ridge is solved in one pass by one process; leave it out"),
        (3, 4, {"training": {"micro_batches": 4}}, "3 processes cannot share 4 micro-batches evenly; leave it out"),
    ],
)
def test_a_start_gets_as_many_processes_as_the_machine_has_cores_or_accelerators(
    monkeypatch: pytest.MonkeyPatch, asked: int | str, cards: int, trainer: dict[str, Any], expected: int | str
) -> None:
    monkeypatch.setattr(machine_devices, "count_accelerators", lambda: cards)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    config = Trainer.model_validate({"window": {"history": 2, "horizon": 1}, **trainer})
    if isinstance(expected, int):
        assert choose_devices(asked, config) == expected
        return
    with pytest.raises(ProblemError) as refused:
        choose_devices(asked, config)
    assert (refused.value.status, refused.value.errors[0].field) == (422, "devices")
    assert refused.value.errors[0].message == expected


@pytest.mark.slow
def test_accelerators_are_counted_by_torch_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from dateshard.trainer.devices import device

    monkeypatch.setattr(machine_devices, "DRIVERS", ("/",))
    monkeypatch.setattr(
        machine_devices,
        "COUNT",
        machine_devices.COUNT.replace("d' % device.count_accelerators()", "d' % (3 + device.count_accelerators())"),
    )
    assert count_accelerators() == device.count_accelerators() + 3
    machine_devices._ask_torch.cache_clear()


def test_a_count_that_failed_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_devices, "DRIVERS", ("/",))
    monkeypatch.setattr(machine_devices, "COUNT", "raise SystemExit(1)")
    assert count_accelerators() == 0
    monkeypatch.setattr(machine_devices, "COUNT", "print(2)")
    assert count_accelerators() == 2
    machine_devices._ask_torch.cache_clear()
