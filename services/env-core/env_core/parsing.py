"""Reads a request's body into a model, whatever content type it claims."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from env_core.errors import invalid_request

Model = TypeVar("Model", bound=BaseModel)


def parsed(model: type[Model]) -> Callable[[Request], Awaitable[Model]]:
    """Return a dependency that gives the body as `model`."""

    async def parse(request: Request) -> Model:
        body = await request.body()
        try:
            return model.model_validate_json(body or b"{}")
        except ValidationError as error:
            raise invalid_request(
                f"The body of {request.url.path} was refused, because {reasons(error)}; correct it (GET /docs shows its fields)."
            ) from None

    return parse


def reasons(error: ValidationError) -> str:
    """Return what is wrong, in words: the first three faults."""
    found = []
    for detail in error.errors(include_url=False, include_context=False, include_input=False)[:3]:
        place = ".".join(str(part) for part in detail["loc"])
        found.append(f"{place}: {detail['msg']}" if place else detail["msg"])
    return "; ".join(found)
