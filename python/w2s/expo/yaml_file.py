"""A small YAML file of plain values, and the line on which each of them stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from w2s.errors import ExpoError

# A place in the file: the keys and list positions that lead there.
Place = tuple[str | int, ...]

_LIMIT = 64 * 1024  # bytes
_DEEPEST = 20


class YamlFile:
    """What a YAML file says (`value`), with errors that name the file, the line and the key.

    Read by `yaml.safe_load`: tags that would make objects are refused, and so are aliases (a few
    bytes of them can stand for gigabytes), keys that are there twice, more than one document, and
    files of more than 64 KiB.

    Raises:
        ExpoError: the file cannot be read, or is no such YAML.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[Place, int] = {}
        text = self._text()
        try:
            self._refuse_aliases(text)
            self.value: Any = yaml.safe_load(text)
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            raise ExpoError(f"{path} is not YAML that can be read: {_sentence(error)}") from error
        except ValueError as error:  # such as a date that is none
            raise ExpoError(f"{path} is not YAML that can be read: {error}") from error
        self._note_lines(root, ())

    def _text(self) -> str:
        try:
            with self.path.open("rb") as file:
                content = file.read(_LIMIT + 1)
        except OSError as error:
            raise ExpoError(f"{self.path} cannot be read ({error.strerror})") from error
        if len(content) > _LIMIT:
            raise ExpoError(
                f"{self.path} is longer than {_LIMIT // 1024} KiB, which no merge of two models is"
            )
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ExpoError(f"{self.path} is not a text file in UTF-8 ({error.reason})") from error

    def _refuse_aliases(self, text: str) -> None:
        """And what is nested so deeply that it could only be an attempt to do harm."""
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            where = f"{self.path}, line {event.start_mark.line + 1}:"
            if isinstance(event, yaml.AliasEvent):
                raise ExpoError(f"{where} the alias *{event.anchor} is not taken; write it out")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise ExpoError(f"{where} nested too deeply, more than {_DEEPEST} levels")

    def _note_lines(self, node: Any, place: Place) -> None:
        if node is None:
            return
        self._lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner, line = (*place, str(key.value)), key.start_mark.line + 1
                if inner in self._lines:
                    raise ExpoError(f"{self.path}, line {line}: {named(inner)} is there twice")
                self._lines[inner] = line
                self._note_lines(value, inner)
        elif isinstance(node, yaml.SequenceNode):
            for number, value in enumerate(node.value):
                self._note_lines(value, (*place, number))

    def error(self, place: Place, what: str) -> ExpoError:
        """An error about what stands at `place`; `what` goes on after its name."""
        while place and place not in self._lines:
            place = place[:-1]
        line = self._lines.get(place, 1)
        name = f" {named(place)}" if place else ""
        return ExpoError(f"{self.path}, line {line}:{name} {what}")


def named(place: Place) -> str:
    """A place as users write it: models[1].parameters.weight."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _sentence(error: yaml.YAMLError) -> str:
    """PyYAML's problem and its line, without the excerpt that it draws."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    where = f"line {mark.line + 1}: " if mark is not None else ""
    return where + " ".join(problem.split())
