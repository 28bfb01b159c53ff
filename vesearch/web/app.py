"""The HTTP API, and the page's files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import vesearch
from vesearch.config import Config
from vesearch.errors import (
    ConfigError,
    ImageError,
    IndexServerError,
    MissingPackageError,
    ModelError,
    StoreError,
    StoreMissingError,
    UnknownNameError,
    VesearchError,
)
from vesearch.system.printable import printable
from vesearch.web.guard import Guard, Rules, TooLargeError
from vesearch.web.pictures import SIZES
from vesearch.web.schema import SearchIn
from vesearch.web.service import MissingError, Service
from vesearch.web.turns import BusyError, Turns
from vesearch.web.zipped import zipped

R = TypeVar("R")

_STATIC = Path(__file__).with_name("static")
_WAITING = 16  # questions that need a model, before others are told to come back
_SWEEP_S = 60.0  # photos that nobody asks for any more are given up so often
_AGAIN = {"retry-after": "2"}  # seconds
_MOST_ZIPPED = 500
_Size = Annotated[int, Query(description=f"px of the longest side: one of {SIZES}")]
_Id = Annotated[int, Query(ge=0, lt=2**62)]

_IMAGE_CODES = {"too_large": 413, "unsupported": 415}
_PathId = Annotated[int, PathParameter(ge=0, lt=2**62)]
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_ERROR = {
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {"error": {"type": "string"}},
                "required": ["error"],
            }
        }
    }
}
_CODES = (400, 401, 403, 404, 405, 408, 413, 415, 421, 422, 429, 500, 503)
_IN_WORDS = {404: "there is nothing at this address", 405: "this address is not asked in that way"}
_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"description": "an error, in one line", **_ERROR} for code in _CODES
}
_JPEG = _ERRORS | {200: {"content": {"image/jpeg": {}}}, 304: {"description": "as you have it"}}


def create_app(config: Config, rules: Rules) -> Guard:
    """Return the server's ASGI application."""
    service = Service(config)
    models = Turns(1, waiting=_WAITING, name="model")
    quick = Turns(4, waiting=64, name="store")
    slow = Turns(1, waiting=16, name="groups")

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        warming = asyncio.ensure_future(models.run(service.warm))
        sweeping = asyncio.ensure_future(_now_and_then(service.uploads.sweep))
        yield
        warming.cancel()  # where it failed the first photo has told
        sweeping.cancel()
        models.close()
        quick.close()
        slow.close()

    app = FastAPI(
        title="vesearch",
        version=vesearch.__version__,
        summary="Find the same dog, cup or coat in a collection of photos.",
        lifespan=life,
        docs_url=None,  # those pages load scripts from elsewhere
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    _tell_errors(app)
    _add_photos(app, service, models, quick)
    _add_questions(app, service, models, quick)
    _add_collection(app, service, quick, slow)
    app.mount("/static", _Files(directory=_STATIC), name="static")

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(_STATIC / "index.html", headers={"cache-control": "no-cache"})

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", tags=["server"])
    async def healthz() -> dict[str, str]:
        """Say that the server answers; it does so whatever a model is busy with."""
        return {"status": "ok"}

    return Guard(app, rules)


async def _now_and_then(work: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(_SWEEP_S)
        work()


def _add_photos(app: FastAPI, service: Service, models: Turns, quick: Turns) -> None:
    @app.post("/api/entities", tags=["photos"], openapi_extra=_BODY, responses=_ERRORS)
    async def entities(request: Request) -> Response:
        """Find the entities of a photo, the body as it is; `photo` names it in questions."""
        models.check()  # before a body that would only be sent off is waited for
        data = await request.body()
        if not data:
            raise ImageError("the body is empty: it should be a photo")
        return await _answered(request, models, lambda: service.uploaded(data))

    @app.get("/api/uploads/{photo}/entities", tags=["photos"], responses=_ERRORS)
    async def upload(request: Request, photo: str) -> Response:
        """Return the entities of a photo that was uploaded; it is kept for an hour."""
        return await _answered(request, quick, lambda: service.upload(photo))

    @app.get("/api/uploads/{photo}", tags=["photos"], responses=_JPEG)
    async def upload_picture(photo: str, size: _Size = 1280) -> Response:
        """Return an uploaded photo as a JPEG."""
        _check(size)
        made = await quick.run(lambda: service.upload_picture(photo, size))
        return Response(made, media_type="image/jpeg", headers={"cache-control": "no-store"})

    @app.get("/api/photos/{image}/entities", tags=["photos"], responses=_ERRORS)
    async def stored(request: Request, image: _PathId) -> Response:
        """Return the entities of a photo of the collection."""
        return await _answered(request, quick, lambda: service.stored(image))

    @app.get("/api/photos/{image}", tags=["photos"], responses=_JPEG)
    async def picture(request: Request, image: _PathId, size: _Size = 640) -> Response:
        """Return a photo of the collection as a JPEG, by its id; never by a path."""
        _check(size)
        tag, made = await quick.run(lambda: service.picture(image, size))
        headers = {"etag": f'"{tag}"', "cache-control": "private, max-age=60"}
        if f'"{tag}"' in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(made, media_type="image/jpeg", headers=headers)

    @app.get("/api/zip", tags=["photos"], responses=_ERRORS)
    async def zip_of(images: Annotated[list[_Id], Query(max_length=_MOST_ZIPPED)]) -> Response:
        """Return photos of the collection in one ZIP file; those that are gone are left out."""
        there = await quick.run(lambda: service.places_of(images))
        headers = {"content-disposition": 'attachment; filename="photos.zip"'}
        return StreamingResponse(zipped(there), media_type="application/zip", headers=headers)


def _add_questions(app: FastAPI, service: Service, models: Turns, quick: Turns) -> None:
    @app.post("/api/search", tags=["questions"], responses=_ERRORS)
    async def search(request: Request, asked: SearchIn) -> Response:
        """Find what is most similar to some entities, and unlike others."""
        turns = models if service.needs_models(asked) else quick
        return await _answered(request, turns, lambda: service.answer(asked))


def _add_collection(app: FastAPI, service: Service, quick: Turns, slow: Turns) -> None:
    @app.get("/api/status", tags=["collection"], responses=_ERRORS)
    async def status() -> dict[str, Any]:
        """Return what the collection holds, how far it is, and what was skipped."""
        return await quick.run(service.status)

    @app.get("/api/browse", tags=["collection"], responses=_ERRORS)
    async def browse(
        count: Annotated[int, Query(ge=1, le=60)] = 24,
        seed: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    ) -> list[dict[str, Any]]:
        """Return some photos of the collection; another seed, others."""
        return await quick.run(lambda: service.some(count, seed))

    @app.get("/api/groups", tags=["collection"], responses=_ERRORS)
    async def groups(top: Annotated[int, Query(ge=1, le=60)] = 12) -> list[dict[str, Any]]:
        """Return the things that most photos show, each by one picture."""
        return await slow.run(lambda: service.frequent(top))


async def _answered(request: Request, turns: Turns, work: Callable[[], dict[str, Any]]) -> Response:
    """Return what work returns, as JSON that was made in its thread: outlines are long.

    Who gives up before its turn comes, as the page does with each move of a box, leaves the line.
    Raises ClientDisconnect then, and what Turns.run raises.
    """
    made = turns.run(lambda: json.dumps(work(), ensure_ascii=False, allow_nan=False).encode())
    answering = asyncio.ensure_future(made)
    leaving = asyncio.ensure_future(_until_nobody_listens(request))
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return Response(answering.result(), media_type="application/json")
        leaving.result()
        raise ClientDisconnect
    finally:
        answering.cancel()
        leaving.cancel()


async def _until_nobody_listens(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _check(size: int) -> None:
    if size not in SIZES:
        raise VesearchError(f"size is one of {', '.join(map(str, SIZES))}")


def _tell_errors(app: FastAPI) -> None:
    """Answer every error in one line of JSON."""
    of_request: dict[type[Exception], Callable[[Exception], Response]] = {
        TooLargeError: lambda err: _told(413, "the body is larger than it may be"),
        TimeoutError: lambda err: _told(408, "the body did not arrive in time"),
        BusyError: lambda err: _told(429, "many are asking just now: try again", _AGAIN),
        ClientDisconnect: lambda err: _told(400, "the request was given up"),
    }
    for kind, answer in of_request.items():
        _on(app, kind, answer)
    _on(app, VesearchError, lambda err: _told(_code_of(err), str(err)))
    _on(app, MissingError, lambda err: _told(404, str(err)))
    # the error says where the server is, which is nobody's business here
    _on(app, IndexServerError, lambda _: _told(503, "the index cannot be asked just now"))
    _on(app, StoreMissingError, lambda err: _told(503, str(err)))
    for kind in (StoreError, ModelError, ConfigError, UnknownNameError, MissingPackageError):
        _on(app, kind, lambda err: _told(500, str(err)))  # no fault of who asks
    _on(app, RequestValidationError, lambda err: _told(422, _first_fault(err)))
    _on(app, Exception, lambda err: _told(500, "the server has failed: its log says how"))

    def refused(err: Exception) -> Response:
        assert isinstance(err, HTTPException)
        for kind, answer in of_request.items():  # why a body could not be read
            if isinstance(err.__cause__, kind):
                return answer(err.__cause__)
        words = _IN_WORDS.get(err.status_code, err.detail)
        return _told(err.status_code, words, err.headers)

    _on(app, HTTPException, refused)


def _on(app: FastAPI, kind: type[Exception], answer: Callable[[Exception], Response]) -> None:
    async def handler(_: Request, err: Exception) -> Response:
        return answer(err)

    app.add_exception_handler(kind, handler)


def _told(status: int, error: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": printable(error)}, status, headers)


class _Files(StaticFiles):
    """The page's files; asked for again each time, so that a new version is seen at once."""

    def file_response(self, *args: Any, **rest: Any) -> Response:
        """Return a file, or that it is as the browser has it."""
        response = super().file_response(*args, **rest)
        response.headers["cache-control"] = "no-cache"
        return response


def _code_of(err: Exception) -> int:
    """Return the code for what cannot be used; a photo's error may be why there is another."""
    of_photo = err if isinstance(err, ImageError) else err.__cause__
    return _IMAGE_CODES.get(of_photo.status, 422) if isinstance(of_photo, ImageError) else 422


def _first_fault(err: Exception) -> str:
    faults = err.errors() if isinstance(err, RequestValidationError) else []
    if not faults:
        return "the request is not as it should be"
    place = ".".join(str(part) for part in faults[0]["loc"])
    return printable(f"{place}: {faults[0]['msg']}")
