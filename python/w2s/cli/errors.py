"""What a command raises when the user can put it right: exit code 2 and one sentence on stderr."""

from __future__ import annotations


class BadInput(Exception):
    """Something given on the command line or in a file cannot be used.

    The message is one sentence: what is wrong, where (file, line, field or option) and what
    is allowed.
    """


class Interrupted(Exception):
    """Ctrl-C after some rows were finished; the message says where they are."""


def one_sentence(error: BaseException) -> str:
    """An error's message on one line; its type's name where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
