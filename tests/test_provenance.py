import dataclasses
import importlib.metadata

import pytest
from networks import SMALL

from levit_deploy.interface import Interface
from levit_deploy.pictures.preprocessing import IMAGENET, Preprocessing
from levit_deploy.provenance import Provenance, claimed_precision, is_ours

PROVENANCE = Provenance(checkpoint_sha256="ab" * 32, config=SMALL, head="distill", layout="spatial")


def test_metadata_is_strings_and_reads_back():
    metadata = PROVENANCE.to_metadata()
    assert all(isinstance(value, str) for value in metadata.values())
    assert Provenance.from_metadata(metadata) == PROVENANCE
    assert is_ours(metadata)


def test_what_becomes_of_pictures_is_carried_along():
    own = Preprocessing(
        crop_fraction=0.9, interpolation="bilinear", mean=(0.5,), std=(0.25,), assumed=False
    )
    provenance = dataclasses.replace(PROVENANCE, preprocessing=own)
    assert Provenance.from_metadata(provenance.to_metadata()).preprocessing == own
    metadata = PROVENANCE.to_metadata()
    del metadata["preprocessing"]  # as in the first files that were written
    assert Provenance.from_metadata(metadata).preprocessing == IMAGENET
    metadata["preprocessing"] = own.to_json().replace("0.9", "7")
    with pytest.raises(ValueError, match="the crop is 7"):
        Provenance.from_metadata(metadata)


def test_the_precision_is_carried_along_and_was_float32_at_first():
    provenance = dataclasses.replace(PROVENANCE, precision="int8", accuracy="lost 0.00 points")
    assert Provenance.from_metadata(provenance.to_metadata()) == provenance
    metadata = PROVENANCE.to_metadata()
    del metadata["precision"], metadata["accuracy"]
    assert Provenance.from_metadata(metadata).precision == "fp32"
    with pytest.raises(ValueError, match="'fp12' is not one of fp32, fp16, bf16"):
        claimed_precision({"precision": "fp12"})


def test_both_ends_and_the_labels_are_carried_along_and_were_none_at_first():
    own = dataclasses.replace(
        PROVENANCE,
        interface=Interface("uint8", "probabilities"),
        labels=("Ä", "b", "c"),
        problem_type="regression",
        written_with="torch 2.13.0",
    )
    metadata = own.to_metadata()
    assert (metadata["input"], metadata["output"]) == ("uint8", "probabilities")
    assert Provenance.from_metadata(metadata) == own
    for key in ("input", "output", "labels", "problem_type", "written_with"):
        del metadata[key]
    assert Provenance.from_metadata(metadata) == PROVENANCE
    for key, damage in (("input", "int4"), ("output", "top5"), ("labels", "[1]")):
        with pytest.raises(ValueError, match=r"label|is not one of"):
            Provenance.from_metadata({**metadata, key: damage})


@pytest.mark.parametrize("key", ["checkpoint_sha256", "config", "head", "layout"])
def test_damage_is_an_ordinary_error(key):
    metadata = PROVENANCE.to_metadata()
    del metadata[key]
    with pytest.raises(KeyError):
        Provenance.from_metadata(metadata)
    with pytest.raises(ValueError, match="Expecting"):
        Provenance.from_metadata({**PROVENANCE.to_metadata(), "config": "{"})


@pytest.mark.parametrize("metadata", [{}, {"tool": "another 1.0"}, {"format": "pt"}])
def test_other_tools_files_are_not_ours(metadata):
    assert not is_ours(metadata)


def test_the_tool_is_named_with_the_installed_version():
    installed = importlib.metadata.version("levit-deploy")
    assert PROVENANCE.to_metadata()["tool"] == f"levit-deploy {installed}"
