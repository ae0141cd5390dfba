import pytest
import torch

from levit_deploy.errors import first_line
from levit_deploy.targets.torchscript_writer import deprecation_accepted


def test_the_first_line_without_its_full_stop():
    assert first_line(ValueError("One.\nTwo.")) == "One"
    assert first_line(ValueError()) == "ValueError"


@pytest.mark.parametrize("size", [3, 4])
def test_of_a_torchscript_program_the_cause(size):
    with deprecation_accepted():
        unit = torch.jit.CompilationUnit(
            "def f(x):\n  y = x.view(2, 2)\n  if bool(y.sum() > 1):\n"
            "    raise ValueError('mine: a\\nb')\n  return y\n"
        )
    with pytest.raises(Exception, match="The following operation failed") as caught:
        unit.f(torch.ones(size))
    expected = {3: "shape '[2, 2]' is invalid for input of size 3", 4: "mine: a"}
    assert first_line(caught.value) == expected[size]
