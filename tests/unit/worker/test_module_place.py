"""Where a user's module is looked up."""

from purvey.worker.training.classifier import module_place


def test_a_relative_module_is_looked_up_in_the_roots() -> None:
    assert module_place("net.py:Net", ("/srv/a",)) == ("net.py:Net", ("/srv/a",))


def test_an_absolute_module_is_looked_up_in_its_own_folder() -> None:
    assert module_place("/srv/nets/net.py:Net", ("/a",)) == ("net.py:Net", ("/srv/nets",))


def test_other_architectures_pass() -> None:
    assert module_place("text-ngrams", ()) == ("text-ngrams", ())
    assert module_place(None, ("/a",)) == (None, ("/a",))
