"""How a command ends early: which exit code, and one sentence on standard error."""

from __future__ import annotations


class BadInput(Exception):
    """Something given on the command line or in a file cannot be used (exit code 2).

    The message is one sentence: what is wrong, where (file, line, field or option) and what
    is allowed.
    """


class Stopped(Exception):
    """The machine let a run down, say with a full disk (exit code 1); says what is kept."""


class Interrupted(Exception):
    """Ctrl-C after some rows were finished (exit code 130); the message says where they are."""


def one_sentence(error: BaseException) -> str:
    """An error's message on one line; its type's name where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
