"""``levit-deploy predict --engine ray``: on a real cluster on this machine, a worker killed."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import scans
from command_line import names_in, run

from levit_deploy.errors import ArtifactError, BackendError, InputError
from levit_deploy.targets.load import load_artifact

pytest.importorskip("ray", reason="Ray is not installed: pip install -c constraints.txt '.[ray]'")
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet

from levit_deploy.prediction.parquet import is_parquet_of_ours, read_problems, schema, to_table
from levit_deploy.prediction.predict import on_ray, predictions

TORN = os.fsdecode(b"torn\xff.png")
TIMES = 60  # the folder is given so often, so that it takes long enough to interfere


@pytest.fixture
def folder(tmp_path, monkeypatch):
    data = scans.with_metadata(scans.demo_artifact(), labels=json.dumps(scans.LABELS))
    (tmp_path / "digits.onnx").write_bytes(data)
    monkeypatch.chdir(tmp_path)
    scans.save_scans(tmp_path / "scans", 150)
    scan = next((tmp_path / "scans" / "0").iterdir()).read_bytes()
    (tmp_path / "scans" / os.fsdecode(b"\xff.png")).write_bytes(scan)
    (tmp_path / "scans" / TORN).write_bytes(scan[:60])
    return tmp_path


def pictures():
    return sorted(path for path in Path("scans").rglob("*.png"))


def busy_workers():
    """The processes that have pictures to answer, as Ray names them."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"MapBatches(_Worker)).submit" in (process / "cmdline").read_bytes():
                yield int(process.name)
        except OSError:  # gone by now
            continue


def wait_for_worker(process, others):
    """What is at work besides ``others``, as soon as something is."""
    deadline = time.monotonic() + 120
    while not (found := set(busy_workers()) - others):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_a_killed_worker_changes_no_answer_and_loses_no_picture():
    folders = ["scans"] * TIMES
    arguments = ["digits.onnx", *folders, "--engine", "ray", "--parquet", "out", "--workers", "2"]
    others = set(busy_workers())
    with subprocess.Popen(
        [sys.executable, "-m", "levit_deploy", "predict", *arguments], stderr=subprocess.PIPE
    ) as process:
        found = wait_for_worker(process, others)
        time.sleep(0.5)
        os.kill(min(found), signal.SIGKILL)
        wait_for_worker(process, others | found)  # in its place, and at work
        err = process.communicate(timeout=300)[1].decode()
    assert process.returncode == 0
    *skipped, total = err.splitlines()  # and nothing of Ray's
    assert len(skipped) == TIMES
    for line in skipped:
        assert line.startswith(r"skipped: scans/torn\xff.png cannot be read as a picture: ")
    assert total == f"skipped {TIMES} of {TIMES * 152} pictures"

    code, _, _ = run("predict", "digits.onnx", "scans", "--json", "plain.json", "--threads", "1")
    assert code == 0
    plain = {p["path"]: p for p in json.loads(Path("plain.json").read_text())["pictures"]}
    rows = pa.dataset.dataset("out").to_table().to_pylist()
    assert Counter(row["path"] for row in rows) == dict.fromkeys(plain, TIMES)
    for row in rows:
        expected = plain[row["path"]]
        assert row["answers"] == expected["answers"]  # to the last bit of each probability
        assert row["problem"] == expected.get("problem", "")
    assert is_parquet_of_ours(Path("out"))


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_an_interrupt_ends_it_and_leaves_no_file():
    before = names_in(Path())
    others = set(busy_workers())
    command = [sys.executable, "-m", "levit_deploy", "predict", "digits.onnx", *["scans"] * 2000]
    command += ["--engine", "ray", "--parquet", "out", "--workers", "1"]
    # who starts the tests in the background has interrupts ignored, which is inherited
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=heard) as process:
        wait_for_worker(process, others)
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=60)[1].decode()
    assert err == "levit-deploy: interrupted. No unproven file was left behind.\n"
    assert process.returncode == 130
    assert names_in(Path()) == before


@pytest.fixture(scope="module")
def cluster():
    """The environment that a cluster was started in, which asks for a token, and its address."""
    with tempfile.TemporaryDirectory(prefix="ray") as home, closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        unused.close()
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        env |= {"HOME": home, "RAY_USAGE_STATS_ENABLED": "0"}
        (Path(home) / ".ray").mkdir()
        (Path(home) / ".ray" / "auth_token").write_text("5e" * 32)
        ray = str(Path(sys.executable).with_name("ray"))
        command = [ray, "start", "--head", "--block", "--port", address.rpartition(":")[2]]
        command += ["--num-cpus", "2", "--include-dashboard", "false", "--temp-dir", home]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
            assert any("Ray runtime started" in line for line in process.stdout)
            yield env, address
            process.terminate()
            process.communicate(timeout=60)


@pytest.mark.slow
def test_a_cluster_is_joined_by_address_with_the_token_it_asks_for(folder, cluster):
    env, address = cluster
    command = [sys.executable, "-m", "levit_deploy", "predict", "digits.onnx", "scans"]
    command += ["--engine", "ray", "--parquet", "out", "--ray-address", address]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    torn, total = done.stderr.splitlines()
    assert torn.startswith(r"skipped: scans/torn\xff.png cannot be read as a picture: ")
    assert (total, done.returncode) == ("skipped 1 of 152 pictures", 0)
    assert pa.dataset.dataset("out").count_rows() == 152

    command += ["--threads", "3", "--force"]  # each machine has two
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert "no machine of the Ray cluster has more than 2 processors" in done.stderr
    assert done.returncode == 2
    assert names_in(folder) == ["digits.onnx", "out", "scans"]


SCRIPT = """
import dataclasses, pathlib, sys
from levit_deploy.errors import LevitDeployError
from levit_deploy.prediction.on_ray import predict_on_ray
from levit_deploy.targets.load import load_artifact
artifact = load_artifact(pathlib.Path("digits.onnx"))
for change, top_k in (({"sha256": "another"}, 1), ({}, "one")):
    try:
        predict_on_ray(
            dataclasses.replace(artifact, **change),
            pathlib.Path("scans/0").iterdir(),
            pathlib.Path("out"),
            top_k=top_k,
            address=sys.argv[1],
        )
    except LevitDeployError as error:
        print(f"{type(error).__name__}: {error}")
"""


@pytest.mark.slow
def test_what_a_worker_raises_is_told_as_if_it_were_here(folder, cluster):
    env, address = cluster
    command = [sys.executable, "-c", SCRIPT, address]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    refused, broken = done.stdout.splitlines()
    assert refused.startswith(
        "ArtifactError: digits.onnx is another file on a machine of the cluster."
    )
    assert broken.startswith("BackendError: Ray failed: TypeError: '<' not supported")
    assert names_in(folder) == ["digits.onnx", "scans"]


def table_of(paths, group):
    items = [os.fsencode(path) for path in paths]
    groups = [items[i : i + group] for i in range(0, len(items), group)]
    return pa.table({"paths": groups})


def job(artifact, **changes):
    whole = on_ray.Job(
        artifact=artifact.path,
        sha256=artifact.sha256,
        folder=Path.cwd(),
        top_k=2,
        batch_size=4,
        threads=1,
    )
    return dataclasses.replace(whole, **changes)


@pytest.mark.usefixtures("folder")
def test_a_worker_answers_every_group_also_one_of_which_nothing_can_be_used():
    artifact = load_artifact(Path("digits.onnx"), 1)
    paths = [Path("scans", TORN)] * 4 + pictures()[:7]
    worker = on_ray._Worker(job(artifact))
    table = worker(table_of(paths, 4))
    worker.kept.close()
    assert table.schema.metadata[b"sha256"].decode() == artifact.sha256
    expected = to_table(predictions(artifact, paths, top_k=2, batch_size=4), schema(artifact))
    assert table.equals(expected)
    assert [bool(row["answers"]) for row in table.to_pylist()] == [False] * 4 + [True] * 7


def test_a_worker_refuses_another_artifact_and_another_folder(folder):
    artifact = load_artifact(Path("digits.onnx"))
    with pytest.raises(ArtifactError, match="another file on a machine of the cluster"):
        on_ray._Worker(job(artifact, sha256="0"))(table_of(pictures(), 4))
    with pytest.raises(InputError, match="not there on a machine of the cluster"):
        on_ray._Worker(job(artifact, folder=folder / "nowhere"))(table_of(pictures(), 4))


def test_groups_are_whole_batches_in_order():
    paths = [Path(str(i)) for i in range(10)]
    assert list(on_ray._groups(paths, 4)) == [paths[:4], paths[4:8], paths[8:]]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("change", ["lost", "twice"])
def test_pictures_lost_or_written_twice_are_noticed(change):
    artifact = load_artifact(Path("digits.onnx"))
    paths = pictures()
    table = to_table(predictions(artifact, paths, top_k=1), schema(artifact))
    Path("out").mkdir()
    pa.parquet.write_table(table, "out/a.parquet")
    (problem,) = read_problems(Path("out"), paths)
    assert problem.startswith(r"scans/torn\xff.png cannot be read")
    if change == "lost":
        paths = [*paths, Path("scans/other.png")]
    else:
        pa.parquet.write_table(table.slice(3, 1), "out/b.parquet")
    with pytest.raises(BackendError, match="1 pictures are missing"):
        read_problems(Path("out"), paths)


@pytest.mark.usefixtures("folder")
def test_a_folder_with_one_foreign_file_is_not_ours():
    artifact = load_artifact(Path("digits.onnx"))
    Path("out").mkdir()
    for name in ("a.parquet", "c.parquet"):
        pa.parquet.write_table(to_table([], schema(artifact)), f"out/{name}")
    assert is_parquet_of_ours(Path("out"))
    pa.parquet.write_table(pa.table({"a": [1]}), "out/b.parquet")
    assert not is_parquet_of_ours(Path("out"))


def test_what_makes_no_sense_is_refused_before_a_cluster_starts(folder):
    Path("mine").mkdir()
    Path("mine/notes.parquet").write_text("no Parquet")
    pa.parquet.write_table(pa.table({"a": [1]}), "mine/b.parquet")
    before = names_in(folder)
    ray = ("--engine", "ray", "--parquet")
    for options, code, reason in (
        (("--engine", "ray"), 2, "with --parquet DIR"),
        ((*ray, "out", "--csv", "a.csv"), 2, "leave --json and --csv out"),
        (("--workers", "2"), 2, "give --engine ray"),
        (("--parquet", "out"), 2, "give --engine ray"),
        ((*ray, "no/out"), 5, "Create it, or choose another with --parquet"),
        ((*ray, "mine", "--force"), 5, "did not write"),
        ((*ray, "digits.onnx"), 5, "--parquet"),
        ((*ray, os.fsdecode(b"out\xff")), 5, r"out\xff is not UTF-8"),
    ):
        found = run("predict", "digits.onnx", "scans", *options)
        assert found[:2] == (code, "")
        assert reason in found[2]
    assert names_in(folder) == before
