"""The OpenAPI page: bodies are parsed by hand (see parsing), so their schemas are added by hand."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

REF = "#/components/schemas/{model}"


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI description of a body."""
    return {"required": True, "content": {"application/json": {"schema": {"$ref": REF.format(model=model.__name__)}}}}


def describe(app: FastAPI, models: list[type[BaseModel]]) -> None:
    """Make the app's OpenAPI page hold `models` too."""

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            page = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            _, definitions = models_json_schema([(model, "validation") for model in models], ref_template=REF)
            page.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
            app.openapi_schema = page
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
