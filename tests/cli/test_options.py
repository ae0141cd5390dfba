"""What an option may be, said without torch."""

from command_line import COMMANDS


def helps(command):
    """The help of each option of a command, in one line."""
    parameters = COMMANDS[command].params
    return {p.name: p.help for p in parameters}


def test_only_commands_that_know_int8_speak_of_it():
    assert {name for name in COMMANDS if "int8" in (helps(name).get("images") or "")} == {
        "export",
        "optimize",
        "verify",
    }
