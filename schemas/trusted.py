"""Models out of values that are known to fit, without validating them once more."""

from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)  # 3.11 has no type parameters yet


def trusted(model: type[Model], values: dict[str, Any]) -> Model:
    """Return the instance whose fields are `values`: all of them, in the model's order, each of its type.

    Nothing is checked: whoever calls has made the values or has looked at them. Validating takes three
    times as long, and pydantic's own `model_construct` six times. `values` belong to the instance then.
    """
    made = model.__new__(model)
    _set(made, "__dict__", values)
    _set(made, "__pydantic_fields_set__", _names(model))
    _set(made, "__pydantic_extra__", None)
    _set(made, "__pydantic_private__", None)
    return made


_set = object.__setattr__  # as pydantic does it: a frozen model refuses its own


@cache
def _names(model: type[BaseModel]) -> set[str]:
    """The same set for all instances, which copies of them copy."""
    return set(model.model_fields)
