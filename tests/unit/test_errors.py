"""The error tree: every class answers for its code, status, exit status."""

from purvey import errors


def _all(cls: type[errors.PurveyError]) -> list[type[errors.PurveyError]]:
    below = [sub for sub in cls.__subclasses__() if sub.__module__ == errors.__name__]
    return [cls, *(found for sub in below for found in _all(sub))]


def test_the_drawn_tree_is_the_tree() -> None:
    drawn = [line.split()[0] for line in (errors.__doc__ or "").splitlines()[2:] if line.strip()]
    assert sorted(drawn) == sorted(cls.__name__ for cls in _all(errors.PurveyError))


def test_statuses_follow_the_branches() -> None:
    for cls in _all(errors.UserError):
        assert 400 <= cls.status < 500, cls
        assert cls.exit_status in {2, 77, 78}, cls
    for cls in _all(errors.CapacityError):
        assert cls.status in {429, 503, 504, 507}, cls
        assert cls.exit_status == 75, cls


def test_an_error_survives_the_crossing_by_its_code() -> None:
    for code, cls in errors.error_classes().items():
        rebuilt = errors.from_code(code, "what happened", param="field")
        assert type(rebuilt) is cls
        assert (rebuilt.message, rebuilt.param) == ("what happened", "field")
        assert str(rebuilt) == rebuilt.text == "what happened"  # the text held the hint


def test_an_unknown_code_is_our_bug() -> None:
    assert isinstance(errors.from_code("no_such_code", "x"), errors.InternalError)


def test_text_joins_message_and_hint() -> None:
    assert errors.UserError("a.", hint="b.").text == "a. b."
    assert errors.KVCacheExhaustedError(needed=3, free=1).text.startswith("needed 3 KV blocks")
