import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx
import pytest
from networks import SMALL, images, trained
from onnx import TensorProto, helper

from levit_deploy.checkpoint import fused
from levit_deploy.errors import ArtifactError, BackendError
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.runtime import isolated
from levit_deploy.runtime.child import array_to_bytes, bytes_to_array
from levit_deploy.targets.load import load_artifact, open_isolated
from levit_deploy.targets.onnx_writer import to_onnx
from levit_deploy.targets.torchscript_writer import to_torchscript
from levit_deploy.timing import in_turns, seconds_of

PROVENANCE = Provenance(checkpoint_sha256="ab" * 32, config=SMALL, head="mean", layout="tokens")
WRITERS = {
    "onnx": lambda model: to_onnx(model, PROVENANCE).SerializeToString(),
    "torchscript": lambda model: to_torchscript(model, PROVENANCE),
    "fused": lambda model: fused.serialize(model, PROVENANCE),
}
pytestmark = pytest.mark.isolated


@pytest.fixture
def onnx_file(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(WRITERS["onnx"](to_plain(trained())))
    return path


needs_ps = pytest.mark.skipif(shutil.which("ps") is None, reason="ps is not installed")


def ps(*options):
    """The words that ps, which lists processes, prints."""
    return subprocess.run(["ps", *options], capture_output=True, text=True).stdout.split()


def children():
    """The processes this one has started and that still are."""
    return set(ps("-o", "pid=", "--ppid", str(os.getpid())))


def on_a_few_pixels(path):
    """A graph that leaves out all but seven numbers of an image, and then computes for a while."""
    rng = np.random.default_rng(0)
    weights = {
        "wide": rng.standard_normal((7, 4096), np.float32),
        "narrow": rng.standard_normal((4096, 7), np.float32),
        "starts": np.zeros(3, np.int64),
        "ends": np.array([1, 1, 7]),
        "axes": np.array([1, 2, 3]),
    }
    nodes = [
        helper.make_node("Slice", ["pixel_values", "starts", "ends", "axes"], ["few"]),
        helper.make_node("Flatten", ["few"], ["flat"]),
        helper.make_node("MatMul", ["flat", "wide"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "narrow"], ["logits"]),
    ]
    taken = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, 64, 96])
    given = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 7])
    initial = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "few", [taken], [given], initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def test_two_copies_are_level_here_and_in_a_child(tmp_path):
    """The way to the child, with 38 MB of pictures, takes many times as long as the run."""
    for name in ("here.onnx", "there.onnx"):
        on_a_few_pixels(tmp_path / name)
    batch = images(n=512).numpy()
    here = load_artifact(tmp_path / "here.onnx", threads=1)
    with open_isolated(tmp_path / "there.onnx", threads=1) as there:
        took = in_turns(
            {
                "here": lambda: here.seconds(batch),
                "there": lambda: there.seconds(batch),
                "the whole way": lambda: seconds_of(lambda: there.run(batch)),
            },
            rounds=9,
        )
        assert here.load_s is None
        assert there.load_s > 0
    best = {name: min(seconds) for name, seconds in took.items()}  # other work disturbs it least
    assert best["there"] < best["the whole way"] / 4
    assert best["here"] / 2 < best["there"] < best["here"] * 2


def test_a_child_times_the_batch_it_is_asked_for(tmp_path):
    """It is sent a batch once, and holds it until another is timed."""
    on_a_few_pixels(tmp_path / "a.onnx")
    few, many = images(n=1).numpy(), images(n=512).numpy()
    with open_isolated(tmp_path / "a.onnx", threads=1) as artifact:
        order = [few, many, many, few, few, many]
        took = []
        for batch in order:
            took.append(min(artifact.seconds(batch) for _ in range(5)))
            artifact.run(few if batch is many else many)  # which is none of the timed
    assert max(s for s, batch in zip(took, order, strict=True) if batch is few) < min(
        s for s, batch in zip(took, order, strict=True) if batch is many
    )


@pytest.mark.parametrize("format", WRITERS)
def test_a_child_gives_the_bits_this_process_would(format, tmp_path):
    path = tmp_path / "artifact"
    path.write_bytes(WRITERS[format](to_plain(trained())))
    here = load_artifact(path, threads=1)
    with open_isolated(path, threads=1) as there:
        for n in (1, 3):
            x = images(n=n).numpy()
            assert np.array_equal(there.run(x), here.run(x))
        for fact in ("path", "format", "sha256", "metadata", "batch_size", "image_shape"):
            assert getattr(there, fact) == getattr(here, fact)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("given", "policy"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_the_threads_of_a_child_wait_as_they_are_told_and_else_without_spinning(
    given, policy, onnx_file, monkeypatch
):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    mine = dict(os.environ)
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(
        isolated.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1]
    )
    with open_isolated(onnx_file):
        its = Path(f"/proc/{started[0].pid}/environ").read_bytes().split(b"\0")
    assert f"OMP_WAIT_POLICY={policy}".encode() in its
    assert os.environ == mine


@needs_ps
def test_the_child_ends_with_the_block(onnx_file):
    before = children()
    with open_isolated(onnx_file) as artifact:
        artifact.run(images(n=1).numpy())
        assert len(children() - before) > 0
    assert {pid for pid in children() - before if Path(f"/proc/{pid}/exe").exists()} == set()


def test_a_refusal_comes_back_as_itself(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"no artifact")
    with pytest.raises(ArtifactError, match="no ONNX file"), open_isolated(path):
        pass
    with pytest.raises(ArtifactError, match="cannot be read"), open_isolated(tmp_path / "none"):
        pass


def test_what_the_runtime_refuses_comes_back_as_itself(onnx_file):
    with open_isolated(onnx_file) as artifact, pytest.raises(BackendError, match="batch of shape"):
        artifact.run(np.zeros((1, 3, 8, 8), np.float32))


@pytest.mark.parametrize(
    ("number", "how"),
    [(signal.SIGKILL, "memory runs out"), (signal.SIGSEGV, r"crashed \(SIGSEGV\)")],
)
def test_a_child_that_dies_is_an_error_here(onnx_file, number, how, monkeypatch):
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        isolated.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1]
    )
    with open_isolated(onnx_file) as artifact:
        artifact.run(images(n=1).numpy())
        started[0].send_signal(number)
        for _ in range(2):  # who asks again does not wait
            with pytest.raises(BackendError, match=how):
                artifact.run(images(n=1).numpy())


def test_a_child_outlives_the_thread_that_asked_for_it(onnx_file):
    """As a server's worker, or a notebook's cell, that takes one answer and ends."""
    with ExitStack() as stack:
        opened = []
        asking = threading.Thread(
            target=lambda: opened.append(stack.enter_context(open_isolated(onnx_file)))
        )
        asking.start()
        asking.join()
        time.sleep(0.3)  # the system ends a child with its thread after that, not with it
        assert opened[0].run(images(n=1).numpy()).shape == (1, 7)


def test_a_child_that_hangs_is_stopped(onnx_file, monkeypatch):
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        isolated.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1]
    )
    with open_isolated(onnx_file, timeout_s=120) as artifact:
        artifact.run(images(n=1).numpy())
        started[0].send_signal(signal.SIGSTOP)
        artifact.run.__self__.timeout_s = 0.5
        begin = time.monotonic()
        with pytest.raises(BackendError, match="no answer within 0 seconds"):
            artifact.run(images(n=1).numpy())
        assert time.monotonic() - begin < 60
    assert started[0].returncode == -signal.SIGKILL


def loop_forever(path):
    """A standard graph that never ends: a Loop whose condition stays true."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["more"], ["still"]),
            helper.make_node("Identity", ["x"], ["y"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("more", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["pixel_values"], ["flat"]),
            helper.make_node("Loop", ["", "true", "flat"], ["logits"], body=body),
        ],
        "forever",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 48])],
        [helper.make_tensor("true", TensorProto.BOOL, [], [True])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def test_an_artifact_that_never_ends_is_stopped(tmp_path):
    loop_forever(tmp_path / "a.onnx")
    with open_isolated(tmp_path / "a.onnx", threads=1) as artifact:
        artifact.run.__self__.timeout_s = 1
        with pytest.raises(BackendError, match="gave no answer within 1 seconds"):
            artifact.run(np.ones((1, 3, 4, 4), np.float32))


def gone(pid, within_s=20):
    """Whether a process that is not ours ends in time; what nobody has waited for counts."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        state = ps("-o", "stat=", "-p", str(pid))
        if not state or state[0].startswith("Z"):
            return True
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    return False


PARENT = """
import subprocess, sys
from pathlib import Path
import numpy as np
from levit_deploy.targets.load import open_isolated
popen = subprocess.Popen
started = []
subprocess.Popen = lambda *a, **k: started.append(popen(*a, **k)) or started[-1]
with open_isolated(Path(sys.argv[1]), threads=1) as artifact:
    print(started[0].pid, flush=True)
    artifact.run(np.ones((1, 3, 4, 4), np.float32))
"""


@needs_ps
def test_no_child_outlives_a_parent_that_is_killed(tmp_path):
    loop_forever(tmp_path / "a.onnx")
    program = [sys.executable, "-c", PARENT, str(tmp_path / "a.onnx")]
    with subprocess.Popen(program, stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        time.sleep(1)  # it has the batch by then
        parent.kill()
    assert gone(child)


WITH_THE_LOCK = "ctypes.PyDLL(None).sleep(600)"  # the interpreter's, so that no thread runs


@needs_ps
@pytest.mark.parametrize(
    ("platform", "wait"),
    [("linux", WITH_THE_LOCK), ("linux", "time.sleep(600)"), ("other", "time.sleep(600)")],
)
def test_a_process_ends_with_its_parent(platform, wait):
    if platform == "linux" != sys.platform:
        pytest.skip("needs Linux")
    child = (
        "import ctypes, os, sys, time; from levit_deploy.runtime.child import end_with; "
        f"sys.platform = {platform!r}; "
        f"end_with(os.getppid()); print(os.getpid(), flush=True); {wait}"
    )
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        pid = int(parent.stdout.readline())
        parent.kill()
    assert gone(pid)


def test_modules_in_the_current_folder_are_not_imported(onnx_file, tmp_path, monkeypatch):
    for name in ("numpy", "json", "onnxruntime", "levit_deploy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the folder')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", ".")])
    with open_isolated(onnx_file) as artifact:
        assert artifact.run(images(n=1).numpy()).shape == (1, 7)


def test_arrays_survive_the_pipe():
    for array in (np.zeros((0, 3), np.float32), np.arange(6, dtype=np.float32).reshape(2, 3).T):
        assert np.array_equal(bytes_to_array(array_to_bytes(array)), array)


def test_several_at_once_do_not_meet(onnx_file):
    results = []

    def work(n):
        with open_isolated(onnx_file, threads=1) as artifact:
            results.append((n, artifact.run(images(n=n).numpy())))

    threads = [threading.Thread(target=work, args=(n,)) for n in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {n: logits.shape for n, logits in results} == {1: (1, 7), 2: (2, 7)}


def test_values_that_cannot_be_told_or_are_left_leave_the_artifact_running(tmp_path):
    on_a_few_pixels(tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0), "first"))
    model.graph.node[-1].output[0] = "alone"
    model.graph.node.append(helper.make_node("SequenceConstruct", ["alone"], ["several"]))
    model.graph.node.append(helper.make_node("SequenceAt", ["several", "first"], ["logits"]))
    onnx.save(model, tmp_path / "sequence.onnx")
    batch = images(n=2).numpy()
    with open_isolated(tmp_path / "sequence.onnx") as artifact:
        answers = artifact.run(batch)
        with pytest.raises(BackendError, match=r"sequence\.onnx could not be run: "):
            list(artifact.values(batch))
        np.testing.assert_array_equal(artifact.run(batch), answers)
    with open_isolated(tmp_path / "model.onnx") as artifact:
        assert len(next(artifact.values(batch))) == 2  # and those behind it are not taken
        np.testing.assert_array_equal(artifact.run(batch), answers)
