"""The web application put together: access, pages, errors, and the two static files."""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from http import HTTPStatus
from importlib import resources
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from orchestrator.report.html import DASH, css, environment
from orchestrator.ui import pages, trajectory_pages
from orchestrator.ui.access import HEADERS, Access, Next
from orchestrator.ui.library import Library


def create_app(runs: Path, token: str | None = None) -> FastAPI:
    """The pages of the runs in a folder. With a token, only who has it sees them."""
    app = FastAPI(title="ETO runs", docs_url=None, redoc_url=None, openapi_url=None)
    access = Access(token)
    files = {"ui.css": (css() + _read("ui.css"), "text/css"), "ui.js": (_read("ui.js"), "text/javascript")}
    templates = environment(ui="orchestrator.ui")
    templates.filters |= {"twice": _twice, "when": _when}
    templates.globals |= {
        "stamp": hashlib.sha256("".join(text for text, _ in files.values()).encode()).hexdigest()[:12],
        "by_token": access.by_token,
    }

    def render(template: str, status: int = 200, /, **context: Any) -> HTMLResponse:
        text = templates.get_template(f"ui/{template}.html.j2").render(**context)
        return HTMLResponse(text.encode("utf-8", "replace"), status)

    app.state.library, app.state.render = Library(runs), render

    @app.middleware("http")
    async def guard(request: Request, call_next: Next) -> Response:
        if access.allows(request) or (access.by_token and request.url.path.startswith(("/static/", "/login"))):
            answer = await call_next(request)
        elif access.by_token:
            answer = render("login", 401, wrong=False, next=_target(request))
        else:
            answer = Response("this server answers requests to localhost only\n", 421, media_type="text/plain")
        for name, value in HEADERS.items():
            answer.headers.setdefault(name, value)
        return answer

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, f"no file {name}")
        text, kind = files[name]
        return Response(text, media_type=kind, headers={"Cache-Control": "public, max-age=31536000, immutable"})

    @app.get("/login")
    def ask(request: Request) -> Response:
        return render("login", wrong=False, next="/") if access.by_token else RedirectResponse("/")

    @app.post("/login")
    async def login(request: Request) -> Response:
        return await access.login(request) or render("login", 401, wrong=True, next="/")

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, error: HTTPException) -> Response:
        detail = error.detail if error.detail != HTTPStatus(error.status_code).phrase else "There is no such page."
        return render("error", error.status_code, message=detail)

    @app.exception_handler(RequestValidationError)
    async def misread(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return render("error", 422, message=f"The address is not right: {first['loc'][-1]}: {first['msg']}.")

    app.include_router(pages.router)
    app.include_router(trajectory_pages.router)
    return app


def _read(name: str) -> str:
    return (resources.files("orchestrator.ui") / name).read_text(encoding="utf-8")


def _twice(values: Iterable[str]) -> list[tuple[str, str]]:
    """Options whose text is their value."""
    return [(value, value) for value in values]


def _when(moment: str | None) -> str:
    """A moment as people write it, in UTC; what is none stays as it is."""
    try:
        return datetime.fromisoformat(moment or "").astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError):
        return moment or DASH


def _target(request: Request) -> str:
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")
