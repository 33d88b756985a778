"""Leave-one-out on subjects whose truth is known."""

import numpy as np
from numpy.typing import NDArray

from purvey.explain.leave_one_out import coarse_to_fine, leave_one_out
from purvey.explain.parts import Part, leaves
from purvey.explain.subject import Masks, Subject, Values
from purvey.explain.words import text_parts


def additive(weights: NDArray[np.float64]) -> Subject:
    def value(keep_MA: Masks) -> Values:
        return keep_MA @ weights - 3.0

    return Subject(num_atoms=len(weights), value=value)


def document(num_sentences: int) -> tuple[Part, ...]:
    return text_parts("one two three four. " * num_sentences)


def test_an_additive_value_gives_exact_scores() -> None:
    weights = np.array([0.5, -2.0, 0.0, 4.0])
    found = leave_one_out(additive(weights), document(1), max_forwards=8)
    np.testing.assert_allclose(found.scores, weights, atol=1e-12)
    assert (found.value_full, found.value_empty) == (-0.5, -3.0)
    assert not found.is_coarsened


def test_a_planted_word_is_found_under_a_budget_that_does_not_fit_all_words() -> None:
    weights = np.zeros(400)
    weights[[42, 321]] = [3.0, -1.0]
    subject = additive(weights)
    found = leave_one_out(subject, document(100), max_forwards=120)
    assert subject.forwards <= 120 + 2
    assert found.is_coarsened
    by_strength = np.argsort(-np.abs(found.scores))
    assert [found.parts[row].atoms for row in by_strength[:2]] == [(42,), (321,)]
    assert sorted(atom for part in found.parts for atom in part.atoms) == list(range(400))


def test_coarse_to_fine_divides_the_strong_and_leaves_the_weak_whole() -> None:
    weights = np.zeros(16)
    weights[5] = 1.0
    found = coarse_to_fine(additive(weights), document(4), max_forwards=100)
    assert [part.kind for part in found.parts] == ["sentence"] + ["word"] * 4 + ["sentence"] * 2
    assert found.parts[2].atoms == (5,)


def test_no_mask_is_evaluated_twice() -> None:
    seen: list[bytes] = []

    def value(keep_MA: Masks) -> Values:
        seen.extend(row.tobytes() for row in keep_MA)
        return np.asarray(keep_MA.sum(axis=1), dtype=np.float64)

    subject = Subject(num_atoms=3, value=value)
    masks = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=bool)
    np.testing.assert_array_equal(subject.values(masks), [3, 2, 3])
    np.testing.assert_array_equal(subject.values(masks), [3, 2, 3])
    assert len(seen) == len(set(seen)) == subject.forwards == 2


def test_leaves_are_the_finest_parts() -> None:
    assert [part.atoms for part in leaves(document(2))] == [(n,) for n in range(8)]
