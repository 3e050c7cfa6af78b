"""The words in which the table is written: rows, what a node gives, and how its values read.

A node that makes settings gives values to *stages*: nodes that the conversion writes, most of them in the chain of the
MODEL. A node that ends such a chain (a loader, a sampler's preparation) is where the stages are built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .targets import WIDGETS, Input, parse_inputs


@dataclass(frozen=True)
class Of:
    """The value of an input of the node, or its link. choices: their value -> ours; others have no counterpart."""

    name: str
    choices: Mapping[Any, Any] | None = None


@dataclass(frozen=True)
class Made:
    """A value that a function makes of those of several inputs, none of which may be linked.

    It raises LookupError where the first has no counterpart.
    """

    function: Callable[..., Any]
    names: tuple[str, ...]


@dataclass(frozen=True)
class BatchOf:
    """The batch_size, width or height of latents, by the node that makes them; `unknown` where that is not known."""

    name: str
    unknown: int
    part: str = "batch_size"


@dataclass(frozen=True)
class Named:
    """What a function makes of the value `wanted` of the node that an input comes from."""

    function: Callable[..., Any]
    name: str
    wanted: str


Fold = tuple[str, dict[str, Any], str | None]
"""A stage and values for it, or what is lost."""


def is_linked(value: Any) -> bool:
    """Whether the value of a widget comes over a link."""
    return value is not None and not isinstance(value, (str, int, float))


def of(name: str, choices: Mapping[Any, Any] | None = None) -> Of:
    """The value or link of an input."""
    return Of(name, choices)


def made(function: Callable[..., Any], *names: str) -> Made:
    """What a function makes of the values of inputs, or None for no value."""
    return Made(function, names)


@dataclass(frozen=True)
class Give:
    """Values for a stage.

    Attributes:
        stage: a name of `STAGES`, or one that a reader's `reads` turns into such a name.
        inputs: input of the stage's node -> value, `Of` or `Made`.
        weak: only where another gift makes the stage.
        when: (input, values): only where the node's input has one of these.
        over: wins over what others give with a smaller number, unless it is the default.
        again: a stage of its own, behind those that others give.
    """

    stage: str
    inputs: Mapping[str, Any]
    weak: bool = False
    when: tuple[str, tuple[Any, ...]] | None = None
    over: int = 0
    again: bool = False


@dataclass(frozen=True)
class Only:
    """Values of an input that mean the same here; another one is lost, and `lost` says what that does."""

    values: tuple[Any, ...]
    lost: str


@dataclass(frozen=True)
class Row:
    """How nodes of a type translate.

    Attributes:
        kind: their type.
        inputs: in the order of their widgets.
        absent: inputs of which an API graph without them means another value than the page, which has the default.
        outputs: types.
        gives: to stages.
        reads: setting input -> how the stages of its gifts are called here, where not by their own names.
        only: inputs of which only some values have a counterpart.
        ignored: inputs without an effect on the result.
        formerly: inputs as older versions called them -> as they are called now.
        chain: the input through which nodes of this type follow each other; the earlier ones give first.
        groups: each node of the chain is a motion module of its own, with what it reads.
        fold: makes gifts of its values and of what its inputs read, where that takes more than one of them.
        folds: the stages that these gifts, or values that others fold, may go to.
        more: widgets of the chosen format stand behind the inputs, whatever they are.
        orders: names of widgets in orders of older versions that their types do not tell.
        emits: output -> "model" for the end of the chain of stages, the name of an input that goes through, or
            (stage, output of its node), or several of these, of which the first that is written counts. None: a node
            that only makes settings.
        home: the stage that takes the node's place and number.
        why: there is no counterpart, and why.
        note: said where such a node was converted.
        defect: of the node itself, for which the result differs.
        pack: "" for AnimateDiff-Evolved, else the pack, whose nodes stay where it is installed.
    """

    kind: str
    inputs: Mapping[str, Input]
    outputs: tuple[str, ...]
    gives: tuple[Give, ...] = ()
    reads: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    only: Mapping[str, Only] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    formerly: Mapping[str, str] = field(default_factory=dict)
    absent: Mapping[str, Any] = field(default_factory=dict)
    chain: str | None = None
    groups: bool = False
    fold: Callable[[Mapping[str, Any], Mapping[str, Any]], Iterable[Fold]] | None = None
    folds: tuple[str, ...] = ()
    more: bool = False
    orders: tuple[str, ...] = ()
    emits: Mapping[int, Any] | None = None
    home: str | None = None
    why: str | None = None
    note: str | None = None
    defect: str | None = None
    pack: str = ""

    def widgets(self) -> list[Input]:
        """Inputs that have a widget."""
        return [spec for spec in self.inputs.values() if spec.type in WIDGETS]


def row(kind: str, inputs: str, outputs: str, *gives: Give, **rest: Any) -> Row:
    """A row; inputs as `parse_inputs` reads them, outputs as types with spaces between."""
    return Row(kind, parse_inputs(inputs), tuple(outputs.split()), gives, **rest)


@dataclass(frozen=True)
class Stage:
    """A node that a conversion writes.

    Attributes:
        kind: its type.
        model: the input through which the MODEL runs, where it stands in that chain.
        feeds: (stage, input)s that its first output goes into; later stages of the list win.
        makes: the first that it feeds is written with it.
        sets: values of that one where nothing else gives them.
        skip: not written where all its values are defaults, or those of `neutral`.
        without: function of its values that says which of them are left out, and why.
        says: function of its values that gives what is to know about them.
        fixed: values that the node always has.
        demand: only written where something reads it.
        each: every gift is a node of its own.
    """

    kind: str
    model: str | None = None
    feeds: tuple[tuple[str, str], ...] = ()
    makes: bool = False
    sets: Mapping[str, Any] = field(default_factory=dict)
    skip: bool = False
    neutral: Mapping[str, Any] = field(default_factory=dict)
    without: Callable[[Mapping[str, Any]], Mapping[str, str]] | None = None
    says: Callable[[Mapping[str, Any]], Iterable[str]] | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    demand: bool = False
    each: bool = False
