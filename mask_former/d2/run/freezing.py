"""Parts of a model that do not train, by the names of their parameters."""

import logging
import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from ..errors import InputError, did_you_mean

_logger = logging.getLogger(__name__)


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freezes parameters, and the running statistics of norms all of whose parameters are frozen.

    Args:
        model: changed in place.
        patterns: regular expressions, each of which is to match the beginning of a name.

    Raises:
        InputError: a pattern is none or matches nothing, or nothing is left to train.
    """
    named = dict(model.named_parameters())
    for pattern in patterns:
        try:
            found = [name for name in named if re.match(pattern, name)]
        except re.error as error:
            raise InputError(
                f"SOLVER.FREEZE has {pattern!r}, which is no regular expression: {error}"
            ) from error
        if not found:
            parts = {name.rsplit(".", depth)[0] for name in named for depth in (1, 2, 3)}
            raise InputError(
                f"SOLVER.FREEZE has {pattern!r}, which matches the beginning of no parameter's "
                f"name{did_you_mean(pattern, sorted(parts)) or '; they begin with ' + _tops(named)}"
            )
        for name in found:
            named[name].requires_grad_(False)
        _logger.info("SOLVER.FREEZE %s: %d parameters do not train", pattern, len(found))
    if not any(parameter.requires_grad for parameter in named.values()):
        raise InputError("SOLVER.FREEZE leaves no parameter to train; give fewer patterns")
    for module in model.modules() if patterns else ():
        own = list(module.parameters(recurse=False))
        is_norm = isinstance(module, nn.modules.batchnorm._NormBase)
        if is_norm and own and not any(parameter.requires_grad for parameter in own):
            module.register_forward_pre_hook(_evaluate)


def _tops(named: dict[str, nn.Parameter]) -> str:
    return ", ".join(dict.fromkeys(name.partition(".")[0] for name in named))


def _evaluate(norm: nn.Module, inputs: Any) -> None:
    """Before each forward, as ``model.train()`` would change a mode that is set once."""
    norm.eval()
