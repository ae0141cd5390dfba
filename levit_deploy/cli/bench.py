"""``levit-deploy bench``: time a network in every form."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from levit_deploy.choices import require_one_of
from levit_deploy.cli.paths import Inputs
from levit_deploy.cli.reading import Reading
from levit_deploy.cli.reporting import Reporting
from levit_deploy.cli.sizes import parsed_batch_size
from levit_deploy.cli.status import status
from levit_deploy.errors import InputError, UsageError

if TYPE_CHECKING:
    from levit_deploy.config import LeViTConfig
    from levit_deploy.model import LeViT


def _completed_variant(incomplete: str) -> list[str]:
    from levit_deploy.config import VARIANTS

    return [variant for variant in VARIANTS if variant.startswith(incomplete)]


def bench(
    network: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT|VARIANT",
            autocompletion=_completed_variant,
            help="A checkpoint, or a published network with random weights, such as LeViT-256.",
        ),
    ],
    artifacts: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[ARTIFACT]...", help="Artifacts to time as well."),
    ] = None,
    *,
    batch_size: Annotated[
        str,
        typer.Option(
            metavar="N[,N...]",
            help="Batch sizes to time. Files that have a fixed one get the first.",
        ),
    ] = "1,8",
    runtime: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,NAME...]",
            help="Runtimes to time, as in onnxruntime,litert; the default is all.",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of every runtime.")] = 1,
    rounds: Annotated[int, typer.Option(min=2, help="Turns of each form.")] = 50,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw the result as PNG.")
    ] = None,
    reading: Reading,
    reporting: Reporting,
) -> None:
    """Time the original, the plain export and all our forms, in turns.

    Example: levit-deploy bench LeViT-256 --batch-size 1
    """
    checkpoint = _checkpoint(network, reading)
    inputs = Inputs(checkpoint=checkpoint, artifacts=artifacts or (), expect=reading.expect)
    reporting.check_paths(inputs, {"--plot": plot_file})
    sizes = _sizes(batch_size)
    with status("loading torch", quiet=reporting.quiet):
        from levit_deploy import report
        from levit_deploy.bench.benchmark import benchmark
    from levit_deploy.bench.plot import plot, require_plotting
    from levit_deploy.publish.file import staged

    if plot_file is not None:
        require_plotting()
    runtimes = _runtimes(runtime)
    model, config, head = _read(network, checkpoint, reading, reporting)
    with status("making every form", quiet=reporting.quiet) as tell:
        result = benchmark(
            model,
            config,
            network=network,
            head=head,
            artifacts=list(dict.fromkeys(artifacts or ())),
            batch_sizes=sizes,
            runtimes=runtimes,
            threads=threads,
            rounds=rounds,
            progress=tell,
        )
    data = report.benchmark_data(result)
    if plot_file is not None:
        with staged(plot_file, sources=(), force=reporting.force, option="--plot") as temporary:
            plot(data, str(temporary))
    reporting.write(data, report.print_benchmark)


def _checkpoint(network: str, reading: Reading) -> Path | None:
    """The checkpoint's path, or None for the name of a published network."""
    from levit_deploy.config import VARIANTS

    if network in VARIANTS:
        reading.refuse_without_checkpoint("a checkpoint in place of the network's name")
        return None
    if not os.path.lexists(network):
        raise InputError(
            f"{network} is neither a file nor a published network. Expected a checkpoint, or one "
            f"of {', '.join(VARIANTS)}. Check the path."
        )
    return Path(network)


def _sizes(text: str) -> list[int]:
    """The batch sizes to time, each once."""
    sizes = []
    for part in text.split(","):
        size = parsed_batch_size(part.strip())
        if not isinstance(size, int):
            raise UsageError(f"--batch-size {text} cannot be timed. Give numbers, as in 1,8.")
        sizes.append(size)
    return list(dict.fromkeys(sizes))


def _runtimes(text: str | None) -> list[str] | None:
    """The runtimes to time, or None for all."""
    from levit_deploy.bench.contenders import RUNTIMES

    if text is None:
        return None
    return [require_one_of("--runtime", name.strip().lower(), RUNTIMES) for name in text.split(",")]


def _read(
    network: str, checkpoint: Path | None, reading: Reading, reporting: Reporting
) -> tuple[LeViT, LeViTConfig, str]:
    """The network to time, with its config and the head of its logits."""
    from levit_deploy.bench.benchmark import random_network
    from levit_deploy.config import VARIANTS

    if checkpoint is None:
        return random_network(VARIANTS[network]), VARIANTS[network], "mean"
    loaded = reading.read(checkpoint, quiet=reporting.quiet)
    reporting.warn_of_reading(loaded)
    return loaded.model, loaded.config, loaded.head
