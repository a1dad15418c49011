"""What Django REST framework says, and how it judges fields.

Only what a worker can meet. The texts are DRF's own, in its two languages here: Russian, and
English for those who ask for it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection
from typing import Any

import attrs
from quart import Response, request

__all__ = [
    "BODY_LIMIT",
    "BodyTooLargeError",
    "Checks",
    "RefusalError",
    "choice",
    "html",
    "json_response",
    "key",
    "language",
    "page_of",
    "read_json",
    "require_acceptable",
    "say",
    "text",
    "whole_number",
]

BODY_LIMIT = 2_621_440  # bytes; Django's DATA_UPLOAD_MAX_MEMORY_SIZE
PAGE_SIZE = 50
SURROGATES = re.compile("[\ud800-\udfff]")

REQUIRED = "This field is required."
NULL = "This field may not be null."
BLANK = "This field may not be blank."
BAD_CHOICE = '"{input}" is not a valid choice.'
BAD_KEY = 'Invalid pk "{key}" - object does not exist.'
BAD_KEY_TYPE = "Incorrect type. Expected pk value, received {type}."
NOT_TEXT = "Not a valid string."
NOT_WHOLE = "A valid integer is required."
TOO_LONG = "Ensure this field has no more than {most} characters."
NUL = "Null characters are not allowed."
SURROGATE = "Surrogate characters are not allowed: U+{code:X}."
NOT_OBJECT = "Invalid data. Expected a dictionary, but got {type}."
NO_CREDENTIALS = "Authentication credentials were not provided."
BAD_METHOD = 'Method "{method}" not allowed.'
BAD_MEDIA_TYPE = 'Unsupported media type "{type}" in request.'
BAD_ACCEPT = "Could not satisfy the request Accept header."
BAD_PAGE = "Invalid page."
NOT_FOUND = "Not found."

# Texts that are not here have no translation in DRF either.
RUSSIAN = {
    REQUIRED: "Обязательное поле.",
    NULL: "Это поле не может быть пустым.",
    BLANK: "Это поле не может быть пустым.",
    BAD_CHOICE: "Значения {input} нет среди допустимых вариантов.",
    BAD_KEY: 'Недопустимый первичный ключ "{key}" - объект не существует.',
    BAD_KEY_TYPE: "Некорректный тип. Ожидалось значение первичного ключа, получен {type}.",
    NOT_WHOLE: "Введите правильное число.",
    TOO_LONG: "Убедитесь, что это значение содержит не более {most} символов.",
    NUL: "Данные содержат запрещённый символ: ноль-байт",
    NOT_OBJECT: "Недопустимые данные. Ожидался dictionary, но был получен {type}.",
    NO_CREDENTIALS: "Учетные данные не были предоставлены.",
    BAD_METHOD: 'Метод "{method}" не разрешен.',
    BAD_MEDIA_TYPE: 'Неподдерживаемый тип данных "{type}" в запросе.',
    BAD_ACCEPT: 'Невозможно удовлетворить "Accept" заголовок запроса.',
    BAD_PAGE: "Неправильная страница",
    NOT_FOUND: "Страница не найдена.",
}


class RefusalError(Exception):
    """The call is answered with an error.

    Args:
        status: The HTTP status.
        body: What is sent as JSON.
        headers: Sent beside it.
    """

    def __init__(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body
        self.headers = headers or {}


class BodyTooLargeError(Exception):
    """Django refuses to read the body."""


# Languages.


def language() -> str:
    """Choose between ``ru`` and ``en`` as Django does: what the caller likes best of the two."""
    wishes = [wish.split(";q=") for wish in request.headers.get("Accept-Language", "").lower().split(",")]
    ranked = sorted(wishes, key=lambda wish: -_quality(wish[1:]))
    for wish in ranked:
        name = wish[0].strip().partition("-")[0]
        if name in ("ru", "en"):
            return name
    return "ru"


def _quality(rest: list[str]) -> float:
    try:
        return float(rest[0]) if rest else 1.0
    except ValueError:
        return 0.0


def say(template: str, **values: object) -> str:
    """Put a text into the caller's language."""
    if language() == "ru":
        template = RUSSIAN.get(template, template)
    return template.format(**values)


# Answers.


def json_response(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with JSON."""
    encoded = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    response = Response(encoded, status, headers, content_type="application/json")
    response.headers["Vary"] = "Accept-Language"
    response.headers["Content-Language"] = language()
    return response


def html(status: int, title: str) -> Response:
    """Answer with one of Django's own pages, which no API ever wrote."""
    page = f'<!doctype html>\n<html lang="en"><head><title>{title}</title></head><h1>{title}</h1></html>\n'
    return Response(page, status, content_type="text/html; charset=utf-8")


def page_of(items: Collection[Any], show: Callable[[Any], dict[str, object]]) -> Response:
    """Answer with one page of a list: 50 items, and the addresses of its neighbours."""
    pages = max(1, -(-len(items) // PAGE_SIZE))
    wanted = request.args.get("page", "1")
    number = pages if wanted == "last" else int(wanted) if wanted.isdecimal() else 0
    if not 1 <= number <= pages:
        raise RefusalError(404, {"detail": say(BAD_PAGE)})
    start = (number - 1) * PAGE_SIZE
    return json_response(
        {
            "count": len(items),
            "next": _page_url(number + 1) if number < pages else None,
            "previous": _page_url(number - 1) if number > 1 else None,
            "results": [show(item) for item in list(items)[start : start + PAGE_SIZE]],
        }
    )


def _page_url(number: int) -> str:
    others = [f"{name}={value}" for name, value in request.args.items(multi=True) if name != "page"]
    query = "&".join(others if number == 1 else [f"page={number}", *others])
    return request.base_url + (f"?{query}" if query else "")


# Requests.


def require_acceptable() -> None:
    """Refuse callers who do not take JSON; DRF looks at this before anything else."""
    accepted = {part.partition(";")[0].strip() for part in request.headers.get("Accept", "*/*").split(",")}
    if not accepted & {"*/*", "application/*", "application/json"}:
        raise RefusalError(406, {"detail": say(BAD_ACCEPT)})


async def read_json() -> dict[str, Any]:
    """Read the body as DRF's serializers want it: an object, or nothing at all."""
    body: bytes = await request.get_data(as_text=False)  # type: ignore[assignment]
    if len(body) > BODY_LIMIT:
        raise BodyTooLargeError
    if not body:
        return {}
    data = _parse(body)
    if data is None:
        raise RefusalError(400, {"non_field_errors": ["No data provided"]})
    if not isinstance(data, dict):
        raise RefusalError(400, {"non_field_errors": [say(NOT_OBJECT, type=type(data).__name__)]})
    return data


def _parse(body: bytes) -> object:
    # http.server, under Django's own server, takes a missing Content-Type for text/plain.
    media_type = request.headers.get("Content-Type", "text/plain").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise RefusalError(415, {"detail": say(BAD_MEDIA_TYPE, type=media_type)})
    try:
        return json.loads(body.decode(), parse_constant=_refuse_constant)
    except ValueError as error:
        raise RefusalError(400, {"detail": f"JSON parse error - {error}"}) from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"Out of range float values are not JSON compliant: {name!r}")


# Fields.


class BadFieldError(Exception):
    """A field's value is refused; the text says why."""


Check = Callable[[Any], Any]


@attrs.frozen
class Checks:
    """What a serializer does: every field is judged, and all that is wrong is said at once.

    Attributes:
        fields: A check for each field that may be written; others are ignored.
        required: The fields that may not be missing; none in a PATCH.
    """

    fields: dict[str, Check]
    required: frozenset[str] = frozenset()

    def run(self, data: dict[str, Any]) -> dict[str, Any]:
        """Give the cleaned values of the fields that are there."""
        values, errors = {}, {}
        for name, check in self.fields.items():
            try:
                if name in data:
                    values[name] = check(data[name])
            except BadFieldError as error:
                errors[name] = [str(error)]
            if name not in data and name in self.required:
                errors[name] = [say(REQUIRED)]
        if errors:
            raise RefusalError(400, errors)
        return values


def text(*, blank: bool = False, most: float = math.inf) -> Check:
    """Check a text as DRF does: whitespace at both ends goes, NUL and surrogates are refused.

    Args:
        blank: Whether it may be blank.
        most: How many characters it may have.
    """

    def check(value: object) -> str:
        if value is None:
            raise BadFieldError(say(NULL))
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise BadFieldError(say(NOT_TEXT))
        stripped = str(value).strip()
        if not stripped and not blank:
            raise BadFieldError(say(BLANK))
        _refuse_bad_characters(stripped)
        if len(stripped) > most:
            raise BadFieldError(say(TOO_LONG, most=most))
        return stripped

    return check


def _refuse_bad_characters(value: str) -> None:
    if "\0" in value:
        raise BadFieldError(say(NUL))
    if (surrogate := SURROGATES.search(value)) is not None:
        raise BadFieldError(say(SURROGATE, code=ord(surrogate[0])))


def whole_number(value: object) -> int | None:
    """Check a whole number that may be null."""
    if value is None:
        return None
    number = _integer(value)
    if number is None:
        raise BadFieldError(say(NOT_WHOLE))
    return number


def choice(*allowed: str) -> Check:
    """Check that it is one of a few words."""

    def check(value: object) -> str:
        if value is None:
            raise BadFieldError(say(NULL))
        if str(value) not in allowed:
            raise BadFieldError(say(BAD_CHOICE, input=value))
        return str(value)

    return check


def key(exists: Callable[[int], bool]) -> Check:
    """Check that it is the number of something that exists."""

    def check(value: object) -> int:
        if value is None or value == "":
            raise BadFieldError(say(NULL))
        number = _integer(value)
        if number is None:
            raise BadFieldError(say(BAD_KEY_TYPE, type=type(value).__name__))
        if not exists(number):
            raise BadFieldError(say(BAD_KEY, key=value))
        return number

    return check


def _integer(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        return int(value)
    except ValueError:
        return None
