"""Compare a LiteRT file with the network that was exported again, operator by operator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from levit_deploy.targets.litert_file import facts, name_of, numbers_of, read_model
from levit_deploy.targets.same_numbers import are_between
from levit_deploy.targets.target import ExportOptions


def chosen(options: ExportOptions, data: bytes) -> ExportOptions:
    """Return options with the names of a file's input and output, if they are not the usual."""
    (graph,) = read_model(Path("it"), data).subgraphs
    interface = options.interface()
    given, taken = (name_of(graph.tensors[ends[0]]) for ends in (graph.inputs, graph.outputs))
    return replace(
        options,
        input_name=None if given == interface.input_name else given,
        output_name=None if taken == interface.output or len(graph.outputs) > 1 else taken,
    )


def difference(data: bytes, least: bytes, most: bytes) -> str:
    """Return the first difference of a file from two others, in words; empty if there is none.

    Names and metadata may differ.
    """
    given, wanted, other = (read_model(Path("it"), each) for each in (data, least, most))
    try:
        return _difference(given, wanted, other)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):  # of the schema's objects
        return "a part is missing, or there is one more"


def _difference(given: Any, wanted: Any, other: Any) -> str:
    own, expected = dict(facts(given)), dict(facts(wanted))
    for what in (*expected, *own):
        if own.get(what) != expected.get(what):
            return f"{what} is another, or in one of them only"
    tensors = (model.subgraphs[0].tensors for model in (given, wanted, other))
    for ours, least, most in zip(*tensors, strict=True):
        numbers = numbers_of(given, ours)
        low, high = numbers_of(wanted, least), numbers_of(other, most)
        if numbers is None and low is None:
            continue
        if numbers is None or low is None or high is None:
            return f"{name_of(least)} is a constant in one of them only"
        if not are_between(numbers, low, high):
            return f"{name_of(least)} has other numbers"
    return ""
