"""One configuration for both projects, and what both models take from diffusers' base classes."""

from __future__ import annotations

import inspect
from typing import Any, cast

from diffusers.configuration_utils import ConfigMixin, FrozenDict
from diffusers.models.modeling_utils import ModelMixin

from ..config.fields import ConfigBase


class Configuration(FrozenDict):
    """diffusers' dictionary of a model's configuration, with the methods of this project's :class:`ConfigBase`."""

    def __init__(self, fields: ConfigBase, others: dict[str, Any]):
        values = {name: fields[name] for name in fields.field_names() if not _is_usual(name, fields[name])}
        super().__init__({**others, **values})
        object.__setattr__(self, "_fields", fields)

    def __missing__(self, name: str) -> Any:
        return self._fields[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_fields":
            raise AttributeError(name)
        return getattr(self._fields, name)

    def __reduce__(self):
        names = self._fields.field_names()
        return Configuration, (self._fields, {name: value for name, value in self.items() if name not in names})


def _is_usual(name: str, value: Any) -> bool:
    """Whether a field that diffusers does not know has the value of all that diffusers builds: it need not be said."""
    usual = {"resnet_norm_scope": "frame", "motion_norm_scope": "clip", "use_image_encoder": False}
    return name in usual and usual[name] == value


class StandsFor(type):
    """Of classes that equal the class of diffusers that they stand for.

    ``from_pipe`` takes over a part only where its class is in a list; one that is derived from it will not do.
    """

    stands_for: type | None = None

    def __eq__(cls, other: object) -> bool:
        return cls is other or (other is not None and other is cls.__dict__.get("stands_for"))

    __hash__ = type.__hash__


class Model(ModelMixin, ConfigMixin, metaclass=StandsFor):
    """What the two models share: diffusers' loading and saving, and one configuration for both projects."""

    def register_to_config(self, **values: Any) -> None:
        fields = cast(Configuration, self.config)._fields
        names = fields.field_names()
        others = {name: value for name, value in {**self.config, **values}.items() if name not in names}
        changes = {name: value for name, value in values.items() if name in names}
        self._hold(Configuration(fields.replace(**changes) if changes else fields, others))

    def _hold(self, configuration: Configuration) -> None:
        cast(dict[str, Any], self.__dict__)["_internal_dict"] = configuration

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "config":
            # Which `ConfigMixin` reads as `_internal_dict`.
            others = {key: other for key, other in self.__dict__.get("_internal_dict", {}).items() if key[0] == "_"}
            self._hold(Configuration(getattr(value, "_fields", value), others))
        else:
            super().__setattr__(name, value)

    # Loading, saving and making from a configuration are diffusers' own.
    from_pretrained = ModelMixin.__dict__["from_pretrained"]
    save_pretrained = ModelMixin.save_pretrained
    from_config = ConfigMixin.__dict__["from_config"]
    dtype, device = ModelMixin.dtype, ModelMixin.device


def signature(config_class: type[ConfigBase]) -> inspect.Signature:
    """Of an ``__init__`` whose arguments are the fields of a configuration: diffusers looks there for their names."""
    this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return inspect.Signature([this, *inspect.signature(config_class).parameters.values()])
