import pytest

from levit_deploy.text import rounded_up


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "0"),
        (0.00301, "0.0031"),
        (0.3, "0.30"),
        (0.7234, "0.73"),
        (0.999, "1.00"),
        (2.0001, "2.1"),
        (100, "100"),
        (1006, "1,100"),
        (1100, "1,100"),
        (2_340_001, "2,400,000"),
    ],
)
def test_a_limit_is_never_told_as_less_than_it_is(number, words):
    assert rounded_up(number) == words
