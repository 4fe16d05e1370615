"""Names to builders: Detectron2's registries, and ours for the parts that it has no registry for.

A config names a component, a builder makes it. Another project enters its own with one decorator::

    @MATCHER_REGISTRY.register()
    def my_matcher(cfg): ...
"""

import logging
from collections.abc import Callable
from typing import TypeVar

from detectron2.utils.registry import Registry

from ..errors import InputError, did_you_mean

Builder = TypeVar("Builder", bound=Callable)

MASK_DECODER_REGISTRY = Registry("MASK_DECODER")
MASK_DECODER_REGISTRY.__doc__ = "(cfg, in_channels) to a module as TransformerMaskDecoder."
MATCHER_REGISTRY = Registry("MATCHER")
MATCHER_REGISTRY.__doc__ = "(cfg) to a function (prediction, targets) to Matches."
CRITERION_REGISTRY = Registry("CRITERION")
CRITERION_REGISTRY.__doc__ = "(cfg, matcher) to a module as SetCriterion."

_ours: dict[tuple[str, str], Callable] = {}
_taken: list[str] = []


def register(registry: Registry, name: str) -> Callable[[Builder], Builder]:
    """Enters a component of ours, unless another package has taken the name before.

    Then its registration stays, and :func:`get` still gives ours.
    """

    def enter(builder: Builder) -> Builder:
        _ours[registry._name, name] = builder
        if name in registry:
            _taken.append(f"{name} ({registry._name})")
        else:
            # register() would take the builder's own name.
            registry._do_register(name, builder)
        return builder

    return enter


def get(registry: Registry, name: str, key: str) -> Callable:
    """The builder of that name, ours before others'.

    Args:
        registry: where the name is looked up.
        name: the name of the component.
        key: the configuration's key that gave the name, for the message.

    Raises:
        InputError: nobody has registered the name.
    """
    ours = _ours.get((registry._name, name))
    if ours is None and name not in registry:
        known = sorted(known for known, _ in registry)
        hint = did_you_mean(name, known) or f"; known are {', '.join(known)}"
        raise InputError(f"{key}: nobody has registered {name!r} as {registry._name}{hint}")
    return registry.get(name) if ours is None else ours


def report_taken(data_sets: list[str]) -> None:
    """Says once, in one line, which of our names another package had registered before."""
    taken = _taken + [f"{name} (data set)" for name in data_sets]
    if taken:
        logging.getLogger(__name__).warning(
            "Already registered by another package, whose registrations stay: %s. "
            "Models built by mask_former use its own components all the same.",
            ", ".join(taken),
        )
