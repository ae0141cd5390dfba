import copy
import io
import json
import os
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from networks import SMALL, float64_logits, golden, images, trained
from onnx import TensorProto, helper
from safetensors.torch import save_file

from levit_deploy.checkpoint import fused
from levit_deploy.errors import ArtifactError, BackendError
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.runtime.artifact import MOST_BYTES
from levit_deploy.targets.load import load_artifact, open_isolated
from levit_deploy.targets.onnx_writer import to_onnx
from levit_deploy.targets.pt2_writer import exported, to_pt2, torch_kept_quiet
from levit_deploy.targets.torchscript_writer import deprecation_accepted, to_torchscript

FORMATS = ("onnx", "torchscript", "pt2", "fused")
PROVENANCE = Provenance(checkpoint_sha256="ab" * 32, config=SMALL, head="mean", layout="tokens")


@cache
def contents(format: str) -> bytes:
    model = to_plain(trained())
    if format == "onnx":
        return to_onnx(model, PROVENANCE).SerializeToString()
    if format == "torchscript":
        return to_torchscript(model, PROVENANCE)
    if format == "pt2":
        return to_pt2(model, PROVENANCE)
    return fused.serialize(model, PROVENANCE)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        load_artifact(path)
    return one_paragraph(caught.value, path)


def one_paragraph(error: Exception, path: Path) -> str:
    message = str(error)
    assert "\n" not in message
    assert str(path) in message
    assert message.endswith(".")
    return message


@pytest.mark.parametrize("name", ["a.onnx", "a.pt", "a.safetensors", "artifact"])
@pytest.mark.parametrize("format", FORMATS)
def test_an_artifact_is_known_by_its_contents_whatever_its_name(format, name, tmp_path):
    artifact = load_artifact(written(tmp_path / name, contents(format)), threads=1)
    assert artifact.format == format
    assert artifact.path == tmp_path / name
    assert artifact.batch_size is None
    assert Provenance.from_metadata(artifact.metadata) == PROVENANCE


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("format", FORMATS)
def test_it_runs_float32_images_to_float32_logits(format, n, tmp_path):
    artifact = load_artifact(written(tmp_path / "a", contents(format)), threads=1)
    logits = artifact.run(images(n=n).numpy())
    assert (logits.dtype, logits.shape) == (np.float32, (n, 7))
    expected = float64_logits(trained(), images(n=n))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_a_fixed_batch_is_known(tmp_path):
    proto = to_onnx(to_plain(trained()), PROVENANCE, batch_size=3)
    artifact = load_artifact(written(tmp_path / "a.onnx", proto.SerializeToString()))
    assert artifact.batch_size == 3
    with pytest.raises(BackendError) as caught:
        artifact.run(images(n=2).numpy())
    one_paragraph(caught.value, tmp_path / "a.onnx")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 4, 64, 96), (1, 3, 128, 96), (3, 64, 96)])
def test_images_of_another_shape_are_refused(shape, format, tmp_path):
    path = written(tmp_path / "a", contents(format))
    artifact = load_artifact(path, threads=1)
    with pytest.raises(BackendError) as caught:
        artifact.run(np.zeros(shape, np.float32))
    assert str(shape) in one_paragraph(caught.value, path)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shape", [(1, 3, 96, 64), (1, 3, 63, 95)], ids=["turned", "cropped"])
def test_images_of_another_shape_with_as_many_tokens_are_refused(shape, format, tmp_path):
    path = written(tmp_path / "a", contents(format))
    artifact = load_artifact(path, threads=1)
    with pytest.raises(BackendError):
        artifact.run(np.zeros(shape, np.float32))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    assert "No such file" in refusal(tmp_path / "missing.onnx")


def test_what_never_ends_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        assert "not a regular file" in refusal(path)


def test_a_file_too_large_for_any_levit_is_refused_unread(tmp_path):
    path = tmp_path / "sparse.onnx"
    path.write_bytes(b"\x08")
    os.truncate(path, MOST_BYTES + 1)
    with pytest.raises(ArtifactError, match="has 2,147,483,649 bytes"):
        load_artifact(path)


def test_a_folder_is_refused(tmp_path):
    assert "directory" in refusal(tmp_path)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00", b"Not an artifact, just a line of text.\n", b"PK\x03\x04", b"\x00" * 64],
    ids=["empty", "one byte", "text", "start of a zip", "zeros"],
)
def test_what_is_no_artifact_is_refused(data, tmp_path):
    refusal(written(tmp_path / "a.onnx", data))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_truncated_artifact_is_refused(kept, format, tmp_path):
    data = contents(format)
    refusal(written(tmp_path / "a", data[: int(kept * len(data))]))


def test_a_checkpoint_of_torch_is_refused(tmp_path):
    path, _, _ = golden("official")
    refusal(written(tmp_path / "checkpoint.pth", path.read_bytes()))


def test_a_plain_safetensors_checkpoint_is_refused(tmp_path):
    save_file(trained().state_dict(), tmp_path / "a.safetensors")
    assert "not one that levit-deploy fuse wrote" in refusal(tmp_path / "a.safetensors")
    assert "If it is a checkpoint, export it first" in refusal(tmp_path / "a.safetensors")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_is_to_be_exported_first(tmp_path, zipped):
    path = tmp_path / "a.pth"
    torch.save({"w": torch.ones(1)}, path, _use_new_zipfile_serialization=zipped)
    for load in (load_artifact, lambda path: open_isolated(path).__enter__()):
        with pytest.raises(ArtifactError, match=r"is a checkpoint and not an artifact.* export "):
            load(path)


def test_a_fused_file_may_begin_with_the_byte_of_a_pickle(tmp_path):
    data = contents("fused")
    length = int.from_bytes(data[:8], "little")
    padding = (0x80 - length) % 256
    longer = (length + padding).to_bytes(8, "little") + data[8 : 8 + length] + b" " * padding
    path = written(tmp_path / "a.safetensors", longer + data[8 + length :])
    assert path.read_bytes().startswith(b"\x80")
    assert load_artifact(path).format == load_artifact(written(tmp_path / "b", data)).format


def test_a_fused_file_with_damaged_metadata_is_refused(tmp_path):
    metadata = PROVENANCE.to_metadata() | {"config": '{"image_size": 3}'}
    save_file(to_plain(trained()).state_dict(), tmp_path / "a", metadata=metadata)
    assert "metadata is damaged" in refusal(tmp_path / "a")


def test_a_fused_file_without_one_of_its_tensors_is_refused(tmp_path):
    state = to_plain(trained()).state_dict()
    del state["blocks.1.m.0.bias"]
    save_file(state, tmp_path / "a", metadata=PROVENANCE.to_metadata())
    with pytest.raises(ArtifactError, match=r"missing blocks\.1\.m\.0\.bias"):
        load_artifact(tmp_path / "a")


def edited_onnx(path: Path, edit) -> Path:
    proto = copy.deepcopy(onnx.ModelProto.FromString(contents("onnx")))
    edit(proto.graph)
    onnx.save(proto, path)
    return path


def test_an_onnx_file_that_takes_a_number_is_refused(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Identity", ["pixel_values"], ["logits"])],
        "number",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, [])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [])],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "a.onnx")
    assert "three fixed sizes of an image" in refusal(tmp_path / "a.onnx")


def test_an_onnx_file_with_a_float16_output_is_refused(tmp_path):
    def cast(graph):
        graph.node[-1].output[0] = "float32"
        graph.node.append(helper.make_node("Cast", ["float32"], ["logits"], to=TensorProto.FLOAT16))
        graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16

    assert "float16" in refusal(edited_onnx(tmp_path / "a.onnx", cast))


def torchscript(extra: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with deprecation_accepted():
        traced = torch.jit.trace(to_plain(trained()), images(), check_trace=False)
        torch.jit.save(torch.jit.freeze(traced), buffer, _extra_files=extra)
    return buffer.getvalue()


EXTRA = {
    "none": {},
    "empty": {"provenance.json": ""},
    "cut off": {"provenance.json": "{"},
    "a list": {"provenance.json": "[]"},
    "a string": {"provenance.json": json.dumps("levit-deploy")},
}


@pytest.mark.parametrize("extra", EXTRA.values(), ids=EXTRA)
def test_a_torchscript_program_without_our_provenance_is_refused(extra, tmp_path):
    assert "provenance" in refusal(written(tmp_path / "a.pt", torchscript(extra)))


@pytest.fixture(scope="module")
def program():
    """One that torch.export alone made of a network."""
    with torch_kept_quiet():
        return exported(to_plain(trained()), images(n=2))


@pytest.mark.parametrize("extra", EXTRA.values(), ids=EXTRA)
def test_a_program_of_torch_export_without_our_provenance_is_refused(extra, program, tmp_path):
    path = tmp_path / "a.pt2"
    with torch_kept_quiet():
        torch.export.save(program, path, extra_files=extra)
    assert "is a program of torch.export with missing or damaged provenance" in refusal(path)


def test_a_program_of_torch_export_that_is_damaged_is_refused(tmp_path):
    data = contents("pt2")
    graph = data.replace(b"torch.ops.aten.conv2d", b"torch.ops.aten.conv9d")
    path = written(tmp_path / "a.pt2", graph)
    assert "cannot be loaded as a program of torch.export" in refusal(path)
