"""Hold the whole export of a LeViT-256 against Optimum's: time and memory of each command.

    pip install . 'optimum-onnx[onnxruntime]'
    python examples/compare_optimum.py --runs 3

Both read the same folder, as transformers saves it, with random weights, and write ONNX. Ours
proves the file; Optimum runs it once and only warns. They take turns. Prints the medians of the
wall time, of the processor time with that of every process started, and of the most memory that all
of a command's processes held together, as /proc has it twenty times a second: Linux only. Pages
that two processes share count twice.
"""

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_folder(folder: Path) -> None:
    import torch
    from transformers import LevitConfig, LevitForImageClassificationWithTeacher

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_sizes": [256, 384, 512], "num_attention_heads": [4, 6, 8]}
    sizes |= {"depths": [4, 4, 4], "key_dim": [32, 32, 32], "num_labels": 1000}
    model = LevitForImageClassificationWithTeacher(LevitConfig(**sizes))
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point() and tensor.dim() == 1:
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                tensor.normal_(std=tensor[0].numel() ** -0.5)
    model.save_pretrained(folder)


def resident_mib(session: int) -> float:
    """The memory of every process of a session."""
    pages = 0
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                pages += int(fields[21])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measured(command: Sequence[str | Path]) -> tuple[float, float, float]:
    """Run a command: wall and processor time in seconds, and peak memory in MiB."""
    start, peak, ended = time.perf_counter(), 0.0, 0
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
        while not ended:
            time.sleep(0.05)
            peak = max(peak, resident_mib(process.pid))
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{command[0]} failed: {said.read().decode()}")
    return time.perf_counter() - start, used.ru_utime + used.ru_stime, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    scripts = Path(sys.executable).parent
    if not (scripts / "optimum-cli").exists():
        raise SystemExit("Optimum is not installed: pip install 'optimum-onnx[onnxruntime]'")

    with tempfile.TemporaryDirectory() as folder:
        model, ours, theirs = (Path(folder) / name for name in ("model", "ours.onnx", "optimum"))
        # not in this process, whose size a command would be charged with
        writer = multiprocessing.get_context("spawn").Process(target=write_folder, args=(model,))
        writer.start()
        writer.join()
        optimum: list[str | Path] = [scripts / "optimum-cli", "export", "onnx", "--model", model]
        commands: dict[str, list[str | Path]] = {
            "levit-deploy": [scripts / "levit-deploy", "export", model, "-o", ours, "--force"],
            "Optimum": [*optimum, "--task", "image-classification", theirs],
        }
        taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
        for _ in range(args.runs):
            for name, command in commands.items():
                taken[name].append(measured(command))
    print(f"LeViT-256, {args.runs} runs      wall   processor   memory")
    for name, runs in taken.items():
        wall, processor, peak = map(statistics.median, zip(*runs, strict=True))
        print(f"{name:20} {wall:8.2f} s {processor:9.2f} s {peak:5.0f} MiB")
    walls = [(ours[0], theirs[0]) for ours, theirs in zip(*taken.values(), strict=True)]
    slower = statistics.median(ours / theirs for ours, theirs in walls)
    print(f"ours takes {slower:.2f} times as long, the median of the runs")


if __name__ == "__main__":
    main()
