"""Values that people write as text: read, written, and refused with what was expected."""

import pytest
from pydantic import TypeAdapter, ValidationError

from carcls.values import Mix, Stage, Strength, Views, read_members


@pytest.mark.parametrize(
    ("kind", "text", "values", "written"),
    [
        (Stage, "64x96x3", {"height": 64, "width": 96, "epochs": 3}, "64x96x3"),
        (Views, "8", {"first": 8, "most": 8}, "8"),
        (Views, 8, {"first": 8, "most": 8}, "8"),
        (Views, " 4 - 32", {"first": 4, "most": 32}, "4-32"),
        (Strength, "1-0.5", {"start": 1, "end": 0.5}, "1-0.5"),
        (Strength, 0.25, {"start": 0.25, "end": 0.25}, "0.25"),
        (Strength, "0.1234567-0.00002", {"start": 0.1234567, "end": 2e-5}, "0.1234567-2e-05"),
        (Mix, "", {"mixup": 0, "cutmix": 0}, ""),
        (Mix, "none", {"mixup": 0, "cutmix": 0}, ""),
        (Mix, "cutmix:1", {"mixup": 0, "cutmix": 1}, "cutmix:1"),
        (Mix, "mixup:0.1234567", {"mixup": 0.1234567, "cutmix": 0}, "mixup:0.1234567"),
        (Mix, "cutmix:1,mixup:0.2", {"mixup": 0.2, "cutmix": 1}, "mixup:0.2,cutmix:1"),
    ],
)
def test_a_text_becomes_a_value_and_a_text_again(kind, text, values, written):
    value = kind.model_validate(text)
    assert {name: getattr(value, name) for name in values} == values
    assert str(value) == written
    assert kind.model_validate_json(value.model_dump_json()) == value == kind(**values)


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (Stage, "16x96x1", "greater than or equal to 32"),
        (Views, "many", "'many' is not a number of views, as in 8 or 4-32"),
        (Views, "0", "greater than or equal to 1"),
        (Strength, "-1", "'-1' is not a strength, as in 1 or 1-0.5"),
        (Strength, "2", "less than or equal to 1"),
        (Mix, "mixup", "'mixup' is not mixup:ALPHA"),
        (Mix, "mixup:-1", "greater than or equal to 0"),
        (Views, True, "valid dictionary"),
    ],
)
def test_a_wrong_text_is_named_with_what_was_expected(kind, text, expected):
    with pytest.raises(ValidationError, match=expected):
        TypeAdapter(kind).validate_python(text)


def test_what_values_say_of_themselves():
    assert Stage.model_validate("64x96x3").size == (64, 96)
    assert [Views.model_validate(text).adaptive for text in ("8", "8-8", "4-32")] == [0, 0, 1]
    assert [bool(Mix.model_validate(text)) for text in ("", "mixup:0", "cutmix:1")] == [0, 0, 1]


def test_members_are_separated_by_plus_and_their_settings_by_slashes():
    assert read_members("seed=1+seed=2/pooling=max") == [
        {"seed": "1"},
        {"seed": "2", "pooling": "max"},
    ]
    weights = {"weights": "/kaggle/input/a/b", "seed": "2"}  # slashes of a path are its own
    assert read_members("weights=/kaggle/input/a/b/seed=2") == [weights]
    assert read_members("+seed=2") == [{}, {"seed": "2"}]  # the first as all settings say
    for text, expected in (("seed=1/seed=2", "one setting twice"), ("seed", "is not key=value")):
        with pytest.raises(ValueError, match=expected):
            read_members(text)
