"""Reads a request's body into a model, whatever content type it claims, within a bound."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from env_core.errors import ServiceError, invalid_request
from env_core.protocol import MAX_BODY_BYTES

Model = TypeVar("Model", bound=BaseModel)


def parsed(model: type[Model]) -> Callable[[Request], Awaitable[Model]]:
    """Return a dependency that gives the body as `model`."""

    async def parse(request: Request) -> Model:
        body = await read_body(request)
        try:
            return model.model_validate_json(body or b"{}")
        except ValidationError as error:
            raise invalid_request(
                f"The body of {request.url.path} was refused, because {reasons(error)}; correct it (GET /docs shows its fields)."
            ) from None

    return parse


async def read_body(request: Request) -> bytes:
    """Return the body; ServiceError 413 where it is too large."""
    body = bytearray()
    declared = request.headers.get("content-length", "")
    too_large = declared.isdecimal() and len(declared) < 20 and int(declared) > MAX_BODY_BYTES
    if not too_large:
        async for chunk in request.stream():
            body += chunk
            if too_large := len(body) > MAX_BODY_BYTES:
                break
    if too_large:
        raise ServiceError(
            413,
            "body_too_large",
            f"The body of {request.url.path} was refused, because it is over {MAX_BODY_BYTES} bytes; send a shorter one.",
        )
    return bytes(body)


def reasons(error: ValidationError) -> str:
    """Return what is wrong, in words: the first three faults."""
    found = []
    for detail in error.errors(include_url=False, include_context=False, include_input=False)[:3]:
        place = ".".join(str(part) for part in detail["loc"])
        found.append(f"{place}: {detail['msg']}" if place else detail["msg"])
    return "; ".join(found)
