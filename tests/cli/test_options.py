"""What an option may be, said without torch."""

from command_line import COMMANDS

from levit_deploy.cli.options import SUFFIXES
from levit_deploy.targets.target import EXPORTERS


def test_the_default_suffixes_are_the_exporters():
    assert {name: exporter.suffix for name, exporter in EXPORTERS.items()} == SUFFIXES


def test_the_opsets_completed_are_those_there_are():
    from levit_deploy.cli import options
    from levit_deploy.targets.onnx_writer import OPSETS

    assert list(options.OPSETS) == list(OPSETS)


def helps(command):
    """The help of each option of a command, in one line."""
    parameters = COMMANDS[command].params
    return {p.name: p.help for p in parameters}


def test_only_commands_that_know_int8_speak_of_it():
    assert {name for name in COMMANDS if "int8" in (helps(name).get("images") or "")} == {
        "export",
        "verify",
    }
