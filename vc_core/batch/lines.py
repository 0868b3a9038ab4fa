"""A row -> the words of a command: every option of the commands that make videos, from their own parsers."""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, NoReturn

from ..commands import IMAGE, TEXT, add_image_to_video, add_text_to_video
from ..errors import UserError

PROMPT, PICTURE, SEED, OUTPUT = "prompt", "picture", "seed", "output"
YES, NO = ("true", "yes", "1", "on"), ("false", "no", "0", "off")


class Takes(Enum):
    """What an option takes."""

    ONE = "one value"
    SEVERAL = "several values"
    YES = "yes or no"
    YES_OR_NO = "yes, or no as an option of its own"


@dataclass(frozen=True)
class Option:
    """An option that a line may set; the prompt has no flag."""

    name: str
    flag: str
    takes: Takes

    def words(self, value: Any) -> list[str]:
        """The words of the command for a value, one word for each text. Raises UserError for a value that the option
        cannot have; the parser checks what the words say."""
        if self.takes in (Takes.YES, Takes.YES_OR_NO):
            if self._is_yes(value):
                return [self.flag]
            return [f"--no-{self.flag.removeprefix('--')}"] if self.takes is Takes.YES_OR_NO else []
        values = value if isinstance(value, list) else [value]
        texts = [self._text(each) for each in values]
        return [f"{self.flag}={text}" for text in texts] if self.flag else texts

    def _is_yes(self, value: Any) -> bool:
        word = str(value).strip().lower()
        if word not in YES + NO:
            raise UserError(f"{self.name} is {value!r}; it should be true or false.")
        return word in YES

    def _text(self, value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise UserError(f"{self.name} is {json.dumps(value)}; it should be a text or a number.")
        text = value if isinstance(value, str) else repr(value)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{self.name} is not valid text ({error.reason}). Correct its encoding.") from error
        if "\0" in text:
            raise UserError(f"{self.name} contains a zero byte. Leave it out.")
        return text


class LineParser(argparse.ArgumentParser):
    """A parser whose errors are those of a line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


@lru_cache(maxsize=1)
def parsers() -> dict[str, LineParser]:
    """The parsers of the commands that make videos, by the command."""
    found = {}
    for command, add in ((TEXT, add_text_to_video), (IMAGE, add_image_to_video)):
        found[command] = LineParser(add_help=False, allow_abbrev=False)
        add(found[command])
    return found


@lru_cache(maxsize=2)
def options_of(command: str) -> dict[str, Option]:
    """The options of a command by their names."""
    found = {}
    for action in parsers()[command]._actions:
        flag = next((word for word in action.option_strings if word.startswith("--")), "")
        if isinstance(action, argparse.BooleanOptionalAction):
            takes = Takes.YES_OR_NO
        elif action.nargs == 0:
            takes = Takes.YES
        else:
            takes = Takes.SEVERAL if isinstance(action, argparse._AppendAction) else Takes.ONE
        found[action.dest] = Option(action.dest, flag, takes)
    return found


def command_of(values: Mapping[str, Any]) -> str:
    """The command of a line: image-to-video if there is an image."""
    return IMAGE if values.get(PICTURE) is not None else TEXT


def option_of(name: str, command: str) -> Option:
    """The option of that name. Raises UserError, with the nearest names, if the command has none."""
    known = options_of(command)
    if name in known:
        return known[name]
    if name in options_of(IMAGE):
        raise UserError(f"{name} is an option of {IMAGE}. Give a {PICTURE} as well, or leave it out.")
    if name in options_of(TEXT):
        raise UserError(f"{name} is an option of {TEXT}. Leave it out, or the {PICTURE}.")
    near = difflib.get_close_matches(name, known, n=3)
    cure = f"Did you mean {' or '.join(near)}?" if near else f"The names are those of the options: {TEXT} --help."
    raise UserError(f"There is no option {name!r}. {cure}")


def words_of(values: Mapping[str, Any]) -> list[str]:
    """The words of the command that the values of a line are, options in the order of their names. Raises UserError as
    `option_of` and `Option.words`."""
    command = command_of(values)
    given = {name: option_of(name, command).words(value) for name, value in sorted(values.items()) if value is not None}
    prompt = given.pop(PROMPT, [])
    return [word for words in given.values() for word in words] + (["--", *prompt] if prompt else [])


def parsed(values: Mapping[str, Any]) -> argparse.Namespace:
    """The options of a line, as the command line has them. Raises UserError for what its parser refuses."""
    return parsers()[command_of(values)].parse_args(words_of(values))


def key_of(values: Mapping[str, Any]) -> str:
    """What identifies a line in the manifest: its settings, however they are written."""
    text = json.dumps([command_of(values), *words_of({k: v for k, v in values.items() if k != "overwrite"})])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def names(commands: Sequence[str] = (TEXT, IMAGE)) -> list[str]:
    """The names of all options."""
    return list(dict.fromkeys(name for command in commands for name in options_of(command)))
