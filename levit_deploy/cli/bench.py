"""``levit-deploy bench``: time a network in every form."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from levit_deploy.cli.exits import reports_errors
from levit_deploy.cli.inputs import check_paths, parsed_batch_size, read
from levit_deploy.cli.options import (
    ActivationOption,
    ForceOption,
    ImageSizeOption,
    JsonOption,
    QuietOption,
    VerboseOption,
    WeightsOption,
)
from levit_deploy.cli.outputs import write_report
from levit_deploy.cli.status import status
from levit_deploy.errors import InputError, UsageError


def _completed_variant(incomplete: str) -> list[str]:
    from levit_deploy.config import VARIANTS

    return [variant for variant in VARIANTS if variant.startswith(incomplete)]


@reports_errors
def bench(
    network: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT|VARIANT",
            autocompletion=_completed_variant,
            help="A checkpoint, or a published network such as LeViT-256, with random weights.",
        ),
    ],
    artifacts: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[ARTIFACT]...", help="Artifacts to time as well."),
    ] = None,
    batch_size: Annotated[
        str, typer.Option(metavar="N[,N...]", help="Batch sizes to time.")
    ] = "1,8",
    threads: Annotated[int, typer.Option(min=1, help="Threads of every runtime.")] = 1,
    rounds: Annotated[int, typer.Option(min=2, help="How often each form has its turn.")] = 50,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw the result as PNG.")
    ] = None,
    activation: ActivationOption = None,
    image_size: ImageSizeOption = None,
    weights: WeightsOption = None,
    json_file: JsonOption = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Time the original, the plain export and every form of ours, in turns, in one process.

    Example: levit-deploy bench LeViT-256 --batch-size 1
    """
    from levit_deploy.config import VARIANTS

    path = None if network in VARIANTS else Path(network)
    if path is None and (activation or image_size or weights):
        raise UsageError(
            f"--activation, --image-size and --weights are for checkpoints: {network} is timed as "
            "it was published. Leave them out, or give a checkpoint."
        )
    if path is not None and not os.path.lexists(path):
        raise InputError(
            f"{network} is no file, and no published network. Expected a checkpoint, or one of "
            f"{', '.join(VARIANTS)}. Check the path."
        )
    check_paths(
        path,
        *(artifacts or ()),
        output=plot_file,
        output_option="--plot",
        json_file=json_file,
        force=force,
    )
    sizes = list(dict.fromkeys(parsed_batch_size(size.strip()) for size in batch_size.split(",")))
    if None in sizes:
        raise UsageError("--batch-size dynamic cannot be timed. Give numbers, as in 1,8.")
    with status("loading torch", quiet=quiet):
        from levit_deploy import report
        from levit_deploy.bench.benchmark import benchmark, random_network
    from levit_deploy.bench.plot import plot, require_plotting
    from levit_deploy.publish.file import staged

    if plot_file is not None:
        require_plotting()
    if path is None:
        config, head = VARIANTS[network], "mean"
        model = random_network(config)
    else:
        loaded = read(path, activation, image_size, weights, quiet=quiet)
        model, config, head = loaded.model, loaded.config, loaded.head
    with status("making every form", quiet=quiet) as tell:
        result = benchmark(
            model,
            config,
            network=network,
            head=head,
            artifacts=list(dict.fromkeys(artifacts or ())),
            batch_sizes=[size for size in sizes if size is not None],
            threads=threads,
            rounds=rounds,
            progress=tell,
        )
    data = report.benchmark_data(result)
    if plot_file is not None:
        with staged(plot_file, sources=(), force=force, option="--plot") as temporary:
            plot(data, str(temporary))
    write_report(data, report.print_benchmark, json_file, quiet, force)
