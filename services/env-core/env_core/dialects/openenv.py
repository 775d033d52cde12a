"""OpenEnv 0.10's WebSocket and its JSON-RPC route. A connection plays in one session, which ends with it.

Over OpenEnv's own server: a session that expires says so and closes the connection, an action may carry the `metadata` that its typed
clients send along, and `/ws?session_id=` goes on with a session that exists (it then outlives the connection).
"""

import asyncio
import contextlib
from typing import Any, TypeVar

import orjson
from fastapi import APIRouter, Request, Response, WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from env_core.environment import Environment
from env_core.errors import ServiceError, expired_session, invalid_request
from env_core.metrics import Metrics
from env_core.parsing import reasons
from env_core.protocol import ActionObject, ResetRequest, StepRequest
from env_core.sessions import SessionStore
from env_core.tasks import task_by_default

#: Our error codes in OpenEnv's words; what is not here is an EXECUTION_ERROR.
CODES = {
    "invalid_json": "INVALID_JSON",
    "unknown_type": "UNKNOWN_TYPE",
    "invalid_request": "VALIDATION_ERROR",
    "too_many_sessions": "CAPACITY_REACHED",
    "engine_unavailable": "FACTORY_ERROR",
    "no_session": "SESSION_ERROR",
    "unknown_session": "SESSION_ERROR",
    "expired_session": "SESSION_ERROR",
    "draining": "SESSION_ERROR",
}
M = TypeVar("M", ActionObject, ResetRequest)
CLOSING = frozenset({"too_many_sessions", "expired_session", "unknown_session"})

PARSE_ERROR, INVALID_RPC, METHOD_NOT_FOUND, INVALID_PARAMS, SERVER_ERROR = -32700, -32600, -32601, -32602, -32000  # JSON-RPC 2.0


def openenv_routes(environment: Environment, store: SessionStore, metrics: Metrics) -> APIRouter:
    """The WebSocket, and JSON-RPC over HTTP."""
    router = APIRouter(tags=["openenv"])

    @router.websocket("/ws")
    async def ws(socket: WebSocket) -> None:
        await socket.accept()
        await _Conversation(environment, store, metrics, socket).hold()

    @router.post("/mcp")
    async def mcp(request: Request) -> Response:
        try:
            message = orjson.loads(await request.body())
        except orjson.JSONDecodeError as error:
            answer = _rpc_error(None, PARSE_ERROR, f"The request is no JSON: {error}.")
        else:
            answer = await _rpc(environment, store, message, None)
        return Response(orjson.dumps(answer), media_type="application/json")

    return router


class _Conversation:
    """One connection."""

    def __init__(self, environment: Environment, store: SessionStore, metrics: Metrics, socket: WebSocket) -> None:
        self._environment = environment
        self._store = store
        self._metrics = metrics
        self._socket = socket
        self._session_id: str | None = socket.query_params.get("session_id")
        self._owns = self._session_id is None

    async def hold(self) -> None:
        """Answer each frame in turn, until either side closes."""
        try:
            if self._session_id is not None:
                self._store.state(self._session_id)
            elif self._store.full:
                await self._tell(self._store.too_many())
                return
            while await self._exchange():
                pass
        except ServiceError as error:  # there is no such session to go on with
            await self._tell(error)
        except WebSocketDisconnect:
            pass
        finally:
            if self._session_id is not None and self._owns and not self._store.draining:
                with contextlib.suppress(ServiceError):  # it may be gone already
                    self._store.delete(self._session_id)
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # it may be closed already, see _send
                await self._socket.close()

    async def _exchange(self) -> bool:
        """Read one frame and answer it; return whether to go on."""
        try:
            message = await self._read()
            answer = await self._answer(message)
        except ServiceError as error:
            await self._tell(error)
            return error.code not in CLOSING
        if answer is None:
            return False
        await self._send(answer)
        return True

    async def _read(self) -> dict[str, Any]:
        """Return the next frame; ServiceError where it is none, or where the session expires first."""
        receiving = asyncio.ensure_future(self._socket.receive())
        expiry = None if self._session_id is None else self._store.watch(self._session_id)
        try:
            waits: list[asyncio.Future[Any]] = [receiving] if expiry is None else [receiving, expiry]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not receiving.done():
                receiving.cancel()
        if not receiving.done() or receiving.cancelled():
            assert expiry is not None  # noqa: S101 - else the wait was for the frame alone
            raise expired_session(str(self._session_id), expiry.result())
        frame = receiving.result()
        if frame["type"] == "websocket.disconnect":
            raise WebSocketDisconnect
        try:
            message = orjson.loads(frame.get("text") or b"")
        except orjson.JSONDecodeError as error:
            raise ServiceError(422, "invalid_json", f"A frame was no JSON text ({error}); send an object with a type.") from None
        if not isinstance(message, dict) or message.keys() - {"type", "data"} or not isinstance(message.get("data", {}), dict):
            raise invalid_request("A frame was sent that is not {type, data}; send an object of these two, the second an object too.")
        return message

    async def _answer(self, message: dict[str, Any]) -> dict[str, Any] | None:
        data = message.get("data", {})
        match message.get("type"):
            case "reset":
                return {"type": "observation", "data": orjson.Fragment(await self._reset(data))}
            case "step":
                action = _validated(ActionObject, {name: value for name, value in data.items() if name != "metadata"})
                request = StepRequest(session_id=self._session(), action=action)
                return {"type": "observation", "data": orjson.Fragment(await self._store.step(request))}
            case "state":
                return {"type": "state", "data": self._store.state(self._session())}
            case "mcp":
                return {"type": "mcp", "data": await _rpc(self._environment, self._store, data, self._session_id)}
            case "close":
                return None
            case other:
                raise ServiceError(
                    422,
                    "unknown_type",
                    f"A frame of type {str(other)[:100]!r} was sent, but there is none; send reset, step, state, mcp or close.",
                )

    async def _reset(self, data: dict[str, Any]) -> bytes:
        given = {name: value for name, value in data.items() if value is not None}
        if "session_id" in given:
            raise invalid_request("A reset named a session, but a connection has one of its own; connect to /ws?session_id= instead.")
        request = _validated(ResetRequest, given)
        request.session_id = self._session_id
        self._session_id, reply = await self._store.reset(request, task_by_default(self._environment, request))
        return reply

    def _session(self) -> str:
        if self._session_id is None:
            raise ServiceError(409, "no_session", "A frame asked for an episode, but none has begun here; send a reset first.")
        return self._session_id

    async def _tell(self, error: ServiceError) -> None:
        self._metrics.rejections.labels(error.code).inc()
        data: dict[str, Any] = {"message": error.message, "code": CODES.get(error.code, "EXECUTION_ERROR"), "error_code": error.code}
        if error.code == "too_many_sessions":
            data |= {"active_sessions": self._store.live, "max_sessions": self._store.limits.max_sessions}
        await self._send({"type": "error", "data": data})

    async def _send(self, message: dict[str, Any]) -> None:
        try:
            await self._socket.send_text(orjson.dumps(message).decode())
        except RuntimeError as error:  # uvicorn's, where it closed the connection itself: a client that no longer answers pings
            raise WebSocketDisconnect(1006) from error


def _validated(model: type[M], data: dict[str, Any]) -> M:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise invalid_request(f"The data of a frame was refused, because {reasons(error)}; correct it (GET /schema shows it).") from None


async def _rpc(environment: Environment, store: SessionStore, message: Any, own_session: str | None) -> dict[str, Any]:
    """Answer a JSON-RPC message of the Model Context Protocol. There are no tools: an action is text, and steps go another way."""
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0" or not isinstance(message.get("method"), str):
        return _rpc_error(None, INVALID_RPC, "The request is not JSON-RPC 2.0; send {jsonrpc: '2.0', id, method, params}.")
    rpc_id = message.get("id") if isinstance(message.get("id"), str | int) else None
    params = message.get("params", {})
    if not isinstance(params, dict):
        return _rpc_error(rpc_id, INVALID_PARAMS, "The params are no object; send one.")
    try:
        match message["method"]:
            case "tools/list":
                return _rpc_result(rpc_id, {"tools": []})
            case "openenv/session/create":
                request = ResetRequest()
                session_id = own_session or (await store.reset(request, task_by_default(environment, request)))[0]
                return _rpc_result(rpc_id, {"session_id": session_id})
            case "openenv/session/close":
                store.delete(str(params.get("session_id")))
                return _rpc_result(rpc_id, {"session_id": params.get("session_id"), "closed": True})
            case other:
                return _rpc_error(
                    rpc_id, METHOD_NOT_FOUND, f"{other[:100]} was asked for, but this environment has no tools; play by /step or /ws."
                )
    except ServiceError as error:
        return _rpc_error(rpc_id, INVALID_PARAMS if error.status == 404 else SERVER_ERROR, error.message)


def _rpc_result(rpc_id: str | int | None, result: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": rpc_id, "result": result}


def _rpc_error(rpc_id: str | int | None, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": rpc_id, "error": {"code": code, "message": message}}
