"""The parser: one jsonargparse parser with a subcommand for each command, built from dataclasses.

A command is a frozen dataclass. Its fields are its options and arguments, declared by `option` and
`argument`; the first line of its docstring is its line in the usage; `execute` runs it. Options may
stand anywhere: the fields determine which words are values of options.

Fields declare their flags, types and help explicitly, because jsonargparse derives neither hyphens
in names nor switches nor exclusive options from a signature.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Protocol, TypeVar

from repro import paper
from repro.commands.usage import UsageError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

T = TypeVar("T", bound="Command")


class Command(Protocol):
    """A command line after parsing."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def execute(self) -> int:
        """Run the command; the exit status."""
        ...


@dataclass(frozen=True)
class Argument:
    """The syntax of a field on the command line, and its help."""

    flags: tuple[str, ...] = ()  # besides --name; empty for a positional argument
    is_positional: bool = False
    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)  # of add_argument
    exclusive: str = ""  # options with the same name here exclude each other
    group: str = ""  # the heading in the help
    resolve: Callable[[], object] | None = None  # computes the default
    is_after_dashes: bool = False  # the words after `--`

    @property
    def is_switch(self) -> bool:
        return self.settings.get("action") == "store_true"


def option(
    about: str,
    *,
    default: object = None,
    read: Callable[[Any], object] | None = None,
    metavar: str | None = None,
    choices: Sequence[str] | None = None,
    short: str = "",
    exclusive: str = "",
    group: str = "",
    resolve: Callable[[], object] | None = None,
    is_required: bool = False,
) -> Any:  # as dataclasses.field: the field has the type that its class declares
    """A field that is an option with a value. `read` may be called again with its own result."""
    settings = {"type": read, "metavar": metavar, "choices": choices, "default": default,
                "required": is_required or None}  # fmt: skip
    return _field(default, Argument(
        flags=(short,) * bool(short),
        settings=_without_none(settings) | {"help": about},
        exclusive=exclusive, group=group, resolve=resolve,
    ))  # fmt: skip


def switch(about: str, *, short: str = "", exclusive: str = "", group: str = "") -> Any:
    """A field that is an option without a value."""
    settings = {"action": "store_true", "help": about}
    return _field(False, Argument((short,) * bool(short), False, settings, exclusive, group))


def pair(about: str, *, metavar: tuple[str, str], exclusive: str = "") -> Any:
    """A field that is an option with two values; its type is a tuple of two texts, or None."""
    settings = {"nargs": 2, "metavar": metavar, "help": about}
    return _field(None, Argument((), False, settings, exclusive))


def repeated(about: str, *, metavar: str) -> Any:
    """A field that is an option which may be repeated; its type is a tuple of texts."""
    settings = {"action": "append", "metavar": metavar, "help": about, "default": []}
    return _field((), Argument(settings=settings))


def argument(
    about: str,
    *,
    read: Callable[[Any], object] | None = None,
    metavar: str | None = None,
    choices: Sequence[str] | None = None,
) -> Any:
    """A field that is one positional argument."""
    settings = {"type": read, "metavar": metavar, "choices": choices, "help": about}
    return _field(dataclasses.MISSING, Argument((), True, _without_none(settings)))


def arguments(about: str, *, metavar: str, is_after_dashes: bool = False) -> Any:
    """A field that is all positional arguments, or the words after `--`; a tuple of texts."""
    settings = {"nargs": "*", "metavar": metavar, "help": about}
    return _field((), Argument((), True, settings, is_after_dashes=is_after_dashes))


def _without_none(settings: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in settings.items() if value is not None}


def _field(default: object, argument: Argument) -> Any:
    return dataclasses.field(default=default, metadata={"argument": argument})


def fields(command: type[Command]) -> dict[str, Argument]:
    """The options and arguments of a command, by the field's name; inherited ones come last."""
    by_name = {field.name: field.metadata["argument"] for field in dataclasses.fields(command)}
    names = [name for base in command.__mro__ for name in vars(base).get("__annotations__", ())]
    return {name: by_name[name] for name in dict.fromkeys(names) if name in by_name}


def flags(name: str, argument: Argument) -> list[str]:
    """The spellings of an option: -f and --follow."""
    return [*argument.flags, f"--{name.replace('_', '-')}"]


def switches(commands: Iterable[type[Command]]) -> frozenset[str]:
    """The options without a value, of all commands."""
    own = {
        flag
        for command in commands
        for name, argument in fields(command).items()
        if argument.is_switch
        for flag in flags(name, argument)
    }
    return frozenset({"-h", "--help", "--version", *own})


def pairs(commands: Iterable[type[Command]]) -> frozenset[str]:
    """The options with two values, of all commands."""
    return frozenset(
        flag
        for command in commands
        for name, argument in fields(command).items()
        if argument.settings.get("nargs") == 2
        for flag in flags(name, argument)
    )


# --- the words of a command line -----------------------------------------------------------------


@dataclass(frozen=True)
class Words:
    """A command line, split without knowing the command."""

    others: tuple[str, ...]  # neither options nor their values
    options: tuple[tuple[str, ...], ...]  # each with its values
    tail: tuple[str, ...]  # after `--`


def split(
    argv: Sequence[str], without_value: frozenset[str], with_two: frozenset[str] = frozenset()
) -> Words:
    """Split a command line; options have one value, except for those in the two sets."""
    others, options, rest = list[str](), list[tuple[str, ...]](), iter(argv)
    for word in rest:
        if word == "--":
            break
        if not word.startswith("-") or word == "-":
            others.append(word)
        else:
            has_value = word not in without_value and "=" not in word
            count = 2 if word in with_two else int(has_value)
            options.append((word, *islice(rest, count)))
    return Words(tuple(others), tuple(options), tuple(rest))


# --- parsing -------------------------------------------------------------------------------------


def parse(
    name: str,
    command: type[T],
    words: Words,
    title: str = "",
    elsewhere: Callable[[str], str] = lambda _: "",
) -> T:
    """The command given by the words. Raises UsageError, in one line, for invalid words.

    `title`: the command's name in help and errors, if it differs; `elsewhere`: for an option that
    this command lacks, which command it is for, or ''.
    """
    parser, sub = _with_one(name, command, title or name, elsewhere)
    for option in words.options:
        flag, has_value, _ = option[0].partition("=")
        if flag not in sub._option_string_actions:
            sub.error(f"unrecognized arguments: {' '.join(option)}")
        nargs = sub._option_string_actions[flag].nargs
        count = 1 if nargs is None else nargs
        if len(option) - 1 < count and not has_value:  # else it would take an item
            sub.error(
                f"argument {flag}: expected {'one argument' if count == 1 else '2 arguments'}"
            )
    by_field, others = fields(command), [*words.others, *words.tail]
    if any(argument.is_after_dashes for argument in by_field.values()):
        if words.others:
            sub.error(f"unrecognized arguments: {words.others[0]}")
        others = [*words.tail]
    end = ["--"] if any(word.startswith("-") for word in others) else []
    values = parser.parse_args([name, *chain(*words.options), *end, *others]).as_dict()[name]
    for field, about in by_field.items():
        value = values[field]
        if about.resolve and value is None:
            values[field] = about.resolve()
        elif isinstance(value, list):
            values[field] = tuple(value)
    return command(**values)


def build(commands: Mapping[str, type[Command]], items: Sequence[str]) -> ArgumentParser:
    """The whole parser, every command a subcommand, as a completion script needs it.

    `items`: the names that a positional ITEM may have.
    """
    import shtab

    root = _parser_type()(prog="repro", description=paper.current().title)
    subcommands = root.add_subcommands()
    for name, command in commands.items():
        parser = _of(command, name)
        for action in parser._actions:
            if action.metavar in ("FILE", "PATH"):
                action.complete = shtab.FILE
            elif action.metavar == "DIR":
                action.complete = shtab.DIRECTORY
            elif action.metavar == "ITEM":
                action.choices = items
        subcommands.add_subcommand(name, parser, help=_texts(command)[0])
    return root


def _with_one(
    name: str, command: type[Command], title: str, elsewhere: Callable[[str], str]
) -> tuple[ArgumentParser, Any]:
    """A parser with only one subcommand, which is faster to build; and the subcommand's parser."""
    root = _parser_type()(prog="repro")
    sub = _of(command, title)
    root.add_subcommands().add_subcommand(name, sub)
    sub.prog, sub.elsewhere, root.sub = f"repro {title}", elsewhere, sub
    return root, sub


def _of(command: type[Command], title: str) -> Any:
    """The subcommand's parser. It uses argparse's help: jsonargparse's would repeat types and
    defaults, which our texts contain."""
    _, about = _texts(command)
    parser = _parser_type()(prog=f"repro {title}", description=about, allow_abbrev=False)
    places: dict[str, Any] = {}
    for field, argument in fields(command).items():
        names = [field] if argument.is_positional else flags(field, argument)
        _place(parser, argument, places).add_argument(*names, **argument.settings)
    return parser


def _place(parser: Any, argument: Argument, places: dict[str, Any]) -> Any:
    """The group of the parser to which an argument belongs, created on first use."""
    if argument.group and argument.group not in places:
        places[argument.group] = parser.add_argument_group(argument.group)
    if argument.exclusive and argument.exclusive not in places:
        places[argument.exclusive] = parser.add_mutually_exclusive_group()
    return places.get(argument.exclusive or argument.group, parser)


def _texts(command: type[Command]) -> tuple[str, str]:
    """The line in the usage, and the description in the command's own help."""
    first, _, rest = inspect.cleandoc(command.__doc__ or "").partition("\n")
    return first, rest.strip() or first


@cache
def _parser_type() -> type[Any]:
    """jsonargparse's parser, with errors in one line; imported when a command is parsed."""
    from argparse import HelpFormatter

    from jsonargparse import ArgumentParser

    class Parser(ArgumentParser):  # type: ignore[misc]
        elsewhere: Callable[[str], str] = staticmethod(lambda _: "")
        sub: Parser | None = None  # the only subcommand, to which every error belongs

        def __init__(self, **settings: object) -> None:
            super().__init__(formatter_class=HelpFormatter, **settings)

        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            at = self.sub or self
            line = _one_line(message, at._actions, at.elsewhere)
            raise UsageError(f"{line} (repro {at.prog.split()[1]} --help)")

        def print_help(self, *_: object) -> None:
            """Print the help; unlike argparse's, this raises if it cannot print."""
            print(self.format_help(), end="", flush=True)

    return Parser


def _one_line(message: str, actions: Iterable[Any], elsewhere: Callable[[str], str]) -> str:
    """A parser's message with arguments as users type them, and the nearest known option."""
    line = " ".join(message.split())
    words, absent = line.partition("arguments are required: ")[::2]
    if absent:
        usages = {action.dest: _usage(action) for action in actions}
        names = (usages[name.rpartition(".")[2]] for name in absent.split(", "))
        return f"{words}arguments are required: {', '.join(names)}"
    if line.startswith("unrecognized arguments: --"):
        word = re.split("[ =]", line)[2]
        why = elsewhere(word) or _nearest(word, actions)
        return f"{line}; {why}" if why else line
    return line


def _usage(action: Any) -> str:
    """An argument as users type it: '--run RUN', or 'IMAGE'."""
    name = action.metavar or action.dest.upper()
    return f"{action.option_strings[0]} {name}" if action.option_strings else str(name)


def _nearest(word: str, actions: Iterable[Any]) -> str:
    """A suggestion of the nearest option of a command; '' if none is near."""
    option_names = [flag.lstrip("-") for action in actions for flag in action.option_strings]
    near = get_close_matches(word.lstrip("-"), option_names, 1)  # the dashes are common to all
    return f"did you mean --{near[0]}?" if near else ""
