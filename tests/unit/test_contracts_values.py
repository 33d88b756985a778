"""Small values of the contracts: ids, clock, limits, job table, module declarations."""

import pytest

import purvey.module as pm
from purvey.contracts.clock import SystemClock, iso
from purvey.contracts.data import Column, DatasetManifest
from purvey.contracts.ids import new_id
from purvey.contracts.jobs import TERMINAL, TRANSITIONS, may_move
from purvey.contracts.limits import LIMITS, rows


def test_ids_carry_their_prefix_and_128_random_bits() -> None:
    made = {new_id("file-") for _ in range(1_000)}
    assert len(made) == 1_000
    assert all(len(i) == len("file-") + 32 and i.startswith("file-") for i in made)


def test_clock_reads_forward_and_formats_utc() -> None:
    clock = SystemClock()
    first, second = clock.monotonic(), clock.monotonic()
    assert second >= first
    assert clock.now() > 1_700_000_000
    assert iso(0.5) == "1970-01-01T00:00:00.500Z"


def test_limits_table_lists_every_limit() -> None:
    table = dict(rows())
    assert table["json_depth"] == LIMITS.json_depth
    assert all(isinstance(value, int) and value > 0 for value in table.values())


def test_terminal_states_absorb_and_every_state_is_reachable() -> None:
    assert all(not TRANSITIONS[status] for status in TERMINAL)
    reachable = {after for moves in TRANSITIONS.values() for after in moves}
    assert reachable == set(TRANSITIONS) - {"validating_files"}
    assert may_move("running", "paused")
    assert not may_move("succeeded", "running")


def test_manifest_finds_a_column_by_kind() -> None:
    manifest = DatasetManifest(columns=(Column(name="SMS", kind="text"),))
    assert manifest.column("text") == "SMS"
    assert manifest.column("label") is None


def test_a_declared_class_keeps_its_declaration() -> None:
    @pm.model(task="image-classification", input=pm.Image(height=8, width=8, channels=1))
    class Net: ...

    declaration: pm.ModelDeclaration = getattr(Net, pm.DECLARATION)
    assert declaration.inputs == {"input": pm.Image(height=8, width=8, channels=1)}


def test_a_declaration_takes_one_input_or_named_ones_not_both() -> None:
    with pytest.raises(ValueError, match="either input"):
        pm.model(task="classification")
    with pytest.raises(ValueError, match="either input"):
        pm.model(task="classification", input=pm.Number(), inputs={"a": pm.Number()})


def test_a_declaration_that_no_input_can_meet_is_refused() -> None:
    with pytest.raises(ValueError, match="std"):
        pm.Number(std=0.0)
    with pytest.raises(ValueError, match="twice"):
        pm.Category(values=("north", "north"))
