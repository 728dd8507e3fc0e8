"""What a walk over chains finds: each way to tamper, and nothing else."""

import pytest

from tests.unit.proof_verify.proof_samples import MemoryReader, W, chain, named, verified
from tests.unit.proof_verify.proof_tampering import (
    all_deleted,
    at,
    chain_with_more,
    contents_swapped,
    copied_into_another_month,
    copied_under_another_id,
    field_added,
    first_deleted,
    found_by_something_else,
    head_away,
    ids_swapped,
    last_deleted,
    made_up_behind_the_last,
    made_up_branch,
    made_up_in_a_number_that_is_taken,
    made_up_with_an_unreadable_chain,
    made_up_without_a_chain,
    made_up_writer,
    moved_into_another_month,
    nothing,
    number_that_json_cannot_hold,
    one_deleted,
    other_words,
    swapped_and_resealed,
    three_deleted,
    time_away,
    time_moved_out_of_the_range,
    words_and_own_hash,
    words_and_own_hash_of_the_last,
    written_anew,
)
from worker.proof.ports import Span


@pytest.mark.parametrize(
    ("tamper", "expected"),
    [
        (nothing, []),
        (other_words, [("changed", W, "3")]),
        (words_and_own_hash, [("changed", W, "3")]),
        (words_and_own_hash_of_the_last, [("rewritten", W, "6")]),
        (field_added, [("changed", W, "3")]),
        (chain_with_more, [("changed", W, "3")]),
        (number_that_json_cannot_hold, [("changed", W, "3")]),
        (time_away, [("changed", W, "3")]),
        (time_moved_out_of_the_range, [("changed", W, "3")]),
        (found_by_something_else, [("changed", W, "3")]),
        (one_deleted, [("missing", W, "3")]),
        (first_deleted, [("missing", W, "1")]),
        (three_deleted, [("missing", W, "2-3"), ("missing", W, "5")]),
        (last_deleted, [("missing", W, "5-6")]),
        (all_deleted, [("missing", W, "1-6")]),
        (contents_swapped, [("changed", W, "3"), ("changed", W, "4")]),
        (ids_swapped, [("changed", W, "3"), ("changed", W, "4")]),
        (swapped_and_resealed, [("reordered", W, "3"), ("reordered", W, "4")]),
        (copied_under_another_id, [("inserted", W, "3")]),
        (copied_into_another_month, [("inserted", W, "3")]),
        (moved_into_another_month, [("changed", W, "3")]),
        (made_up_in_a_number_that_is_taken, [("inserted", W, "3")]),
        (made_up_branch, [("inserted", W, "3"), ("inserted", W, "4")]),
        (made_up_without_a_chain, [("inserted", None, None)]),
        (made_up_with_an_unreadable_chain, [("inserted", None, None)]),
        (made_up_behind_the_last, [("inserted", W, "7")]),
        (made_up_writer, [("inserted", "evil/1", "1")]),
        (written_anew, [("rewritten", W, "6")]),
        (head_away, [("uncovered", W, "6")]),
    ],
    ids=lambda given: given.__name__ if callable(given) else "",
)
async def test_each_way_to_tamper_is_named_and_nothing_else(tamper, expected):
    reader = MemoryReader(chain(), chain(3, "worker-2/00000001"))
    bystander = [record for record in reader.records if record.document["chain"]["writer"] != W]
    reader.records = [record for record in reader.records if record not in bystander]
    head = reader.proofs_there.pop()
    tamper(reader)
    reader.records += bystander
    reader.proofs_there.append(head)
    # One day is asked for: whoever moves a record in time moves it out of what is asked for.
    report = await verified(reader, span=Span(at(-3600), at(3600)))
    assert named(report) == expected


async def test_the_genuine_one_of_two_is_not_the_one_that_is_named():
    reader = MemoryReader(chain())
    made_up_branch(reader)
    report = await verified(reader)
    made_up = {record.document_id for record in reader.records[:2]}
    assert {finding.document_id for finding in report.findings} == made_up
