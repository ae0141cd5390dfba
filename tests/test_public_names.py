"""The package as a notebook imports it."""

import inspect

import pytest
from command_line import loaded_by

import levit_deploy
from levit_deploy import errors


def test_the_package_is_imported_at_once_and_its_names_when_they_are_used():
    assert loaded_by("import levit_deploy; dir(levit_deploy)") == ("", "[]")
    _, loaded = loaded_by("import levit_deploy; levit_deploy.load")
    assert "torch" in loaded
    assert set(levit_deploy.__all__) <= set(dir(levit_deploy))


def test_what_annotations_and_handlers_need_can_be_imported():
    for name in levit_deploy.__all__:
        assert getattr(levit_deploy, name).__module__.startswith("levit_deploy.")
    named = {name for name in vars(errors) if name.endswith("Error")}
    named |= {"Checkpoint", "ExportOptions", "Int8Options", "TritonModel"}  # what functions take
    named |= {"Embedding", "Evaluation", "Prediction", "Published", "Verification"}
    named |= {"Answer", "Case", "Disagreement", "Quantization"}  # and give
    assert named <= set(levit_deploy.__all__)


@pytest.mark.parametrize(
    "name", ["load", "fuse", "export", "verify", "quantize", "predict", "embed", "evaluate"]
)
def test_a_notebook_is_told_what_each_function_takes_and_gives(name):
    function = getattr(levit_deploy, name)
    signature = inspect.signature(function)
    assert inspect.getdoc(function)
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty
