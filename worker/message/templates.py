"""The shipped templates: found by name, compiled once, filled in a sandbox.

A template is a folder with ``subject.txt``, ``body.txt`` and ``body.html``. Each has a model of
its variables: a kind's own fields, or `PlainNotice`. Data for a template named by an event goes
through that model too, so a link is a link and a misspelt name is an error in both ways of asking.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import PackageLoader, StrictUndefined, TemplateError, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.event import KINDS, EmailData, EmailRequested
from schemas.text import BodyText, RequiredText, Url
from worker.errors import RenderError
from worker.message.times import moment, span


class PlainNotice(BaseModel):
    """The variables of ``plain-notice``: a subject, a few paragraphs and perhaps one button.

    Empty lines part the paragraphs of `message`; its other line ends are kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: RequiredText
    message: BodyText
    heading: RequiredText | None = None
    action_url: Url | None = None
    action_label: RequiredText = "Open"
    note: RequiredText | None = None


@dataclass(frozen=True, slots=True)
class Filled:
    """A template with its variables in place."""

    subject: str
    text: str
    html: str


NOTICES: Mapping[str, type[BaseModel]] = {"plain-notice": PlainNotice}
"""The templates that are no kind's own, by name."""


def template_names() -> tuple[str, ...]:
    """Return every name that an event's ``template.name`` may give, sorted."""
    return tuple(sorted({*NOTICES, *KINDS} - {EmailRequested.TYPE}))


def fill_kind(data: EmailData) -> Filled:
    """Return the words of a notification kind. Raises RenderError below ``data``."""
    name = _kind_name(type(data))
    values = {field: getattr(data, field) for field in own_fields(type(data))}
    return _fill(name, {**values, "unsubscribe_url": data.unsubscribe_url}, "data")


def fill_named(data: EmailRequested) -> Filled:
    """Return the words of the template that an event names, with the values that it gives.

    Raises RenderError: ``data.template.name`` for an unknown one, ``data.template.data.NAME`` for
    a variable that is missing, unknown or of the wrong shape.
    """
    template = data.template
    if template is None or template.name not in template_names():
        known = ", ".join(template_names())
        raise RenderError("data.template.name", f"is not a template; known: {known}")
    values = _checked(template.name, template.data, data)
    return _fill(template.name, {**values, "unsubscribe_url": data.unsubscribe_url}, "data.template.data")


@cache
def own_fields(kind: type[EmailData]) -> tuple[str, ...]:
    """Return the fields that a kind adds to those of every event: its template's variables."""
    return tuple(name for name in kind.model_fields if name not in EmailData.model_fields)


@cache
def _kind_name(kind: type[EmailData]) -> str:
    return next(name for name, model in KINDS.items() if model is kind)


def _checked(name: str, given: Mapping[str, Any], data: EmailData) -> dict[str, Any]:
    """`given` as the template's model reads it, with the model's defaults for what may be absent."""
    notice = NOTICES.get(name)
    if notice is not None:
        return _validated(notice, dict(given), tuple(notice.model_fields))
    kind = KINDS[name]
    fields = own_fields(kind)
    for key in given:
        if key not in fields:
            raise RenderError(_variable_path(key), f"is not a variable of {name}; it has {', '.join(fields)}")
    # A kind also wants its recipients, which the event has named outside of the template.
    return _validated(kind, {**given, "to": data.to}, fields)


def _validated(model: type[BaseModel], given: dict[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    try:
        filled = model.model_validate(given)
    except ValidationError as error:
        # The input is left out of the message: a token may be among the values.
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        path = _variable_path(".".join(map(str, first["loc"])))
        raise RenderError(path, first["msg"].removeprefix("Value error, ")) from None
    return {field: getattr(filled, field) for field in fields}


def _variable_path(name: str) -> str:
    shown = "".join(c if c.isprintable() else "?" for c in name)[:100]
    return f"data.template.data.{shown}"


def _fill(name: str, values: Mapping[str, Any], prefix: str) -> Filled:
    environment = _environment()
    try:
        subject = environment.get_template(f"{name}/subject.txt").render(values).strip()
        text = environment.get_template(f"{name}/body.txt").render(values).rstrip() + "\n"
        html = environment.get_template(f"{name}/body.html").render({**values, "mail_subject": subject})
    except UndefinedError as error:
        raise RenderError(f"{prefix}.{_missing_name(error)}", f"is needed by the template {name}") from error
    except TemplateError as error:
        raise RenderError(prefix, f"the template {name} cannot be filled: {error}") from error
    return Filled(subject, text, html)


def _missing_name(error: UndefinedError) -> str:
    # "'NAME' is undefined", or "'dict object' has no attribute 'NAME'": the last quoted word is it.
    quoted = str(error).split("'")
    return quoted[-2] if len(quoted) > 1 else "?"


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        loader=PackageLoader("worker.message"),
        autoescape=_is_html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,  # what is shipped does not change under a running worker
    )
    environment.filters.update(moment=moment, span=span, paragraphs=paragraphs)
    return environment


def _is_html(name: str | None) -> bool:
    return name is not None and name.endswith(".html")


def paragraphs(value: str) -> list[list[str]]:
    """Return the paragraphs of a text, each as its lines; empty lines part them."""
    lines = value.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    found: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            found[-1].append(line.rstrip())
        elif found[-1]:
            found.append([])
    return [lines for lines in found if lines]
