"""Real processes: killed, racing, side by side, forking. The long form is in tests/integration."""

from tests.support.journal import play


def test_nothing_that_was_appended_is_lost_by_a_kill(tmp_path):
    """DESIGN section 6, numbers 1 and 2."""
    found = play("kills", tmp_path / "journals", 8, 20260)
    assert (found["lost"], found["torn"], found["files"]) == ([], 0, [])
    assert found["appended"] > 0


def test_living_workers_leave_each_other_alone(tmp_path):
    found = play("neighbours", tmp_path / "journals")
    assert found == {"looked": ["shipped 0, holds 10"] * 2, "ended": [[], []], "files": []}


def test_a_forked_child_neither_harms_nor_keeps_its_parents_journal(tmp_path):
    found = play("forks", tmp_path / "journals")
    assert found == {"found": ["before", "after"], "files": []}
