"""The addresses of the application: FastAPI around a `Session`."""

import pathlib
from typing import TYPE_CHECKING, Annotated, Any, Literal

from urnet_tf.errors import UsageError
from urnet_tf.images.headers import Refused
from urnet_tf.review.guard import Application, Guard
from urnet_tf.review.journal import GIVEN, NOT_SURE, OF_NO_CLASS, Stale
from urnet_tf.review.pictures import THUMBNAIL_SIDES
from urnet_tf.review.session import PAGE, Session, UnknownQueue

if TYPE_CHECKING:
    import fastapi

STATIC = pathlib.Path(__file__).with_name("static")
MOST_AT_ONCE = 5000  # images of one judgement
_LOOK_ALIKES = 12
_TRUTHS: dict[str, int | str] = {"given": GIVEN, "none": OF_NO_CLASS, "unsure": NOT_SURE}


class Rerun(Exception):
    """The work directory holds other results than those that are shown."""


def build_application(session: Session, token: str, port: int) -> Application:
    """The guarded application.

    Args:
      token: what browsers have to know, see `guard`.
      port: on which it will listen.
    """
    import fastapi
    from fastapi.staticfiles import StaticFiles

    app = fastapi.FastAPI(openapi_url=None)
    _answer_errors(app)
    _add_reading(app, session)
    _add_images(app, session)
    _add_pictures(app, session)
    _add_writing(app, session)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/")
    def index() -> fastapi.responses.FileResponse:
        return fastapi.responses.FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    return Guard(app, token, port)


def _answer_errors(app: "fastapi.FastAPI") -> None:
    """What went wrong, as a sentence and a kind that the page knows."""
    import fastapi
    from fastapi.exceptions import RequestValidationError

    def answer(status: int, kind: str, sentence: str) -> fastapi.responses.JSONResponse:
        return fastapi.responses.JSONResponse({"kind": kind, "error": sentence}, status)

    @app.exception_handler(UnknownQueue)
    def unknown(request: fastapi.Request, error: Exception) -> fastapi.responses.JSONResponse:
        return answer(404, "unknown", "There is no such image, class or queue in this run.")

    @app.exception_handler(Stale)
    def stale(request: fastapi.Request, error: Exception) -> fastapi.responses.JSONResponse:
        return answer(409, "stale", "Somebody has judged this meanwhile; look again.")

    @app.exception_handler(UsageError)
    def usage(request: fastapi.Request, error: Exception) -> fastapi.responses.JSONResponse:
        return answer(507, "write", str(error))

    @app.exception_handler(RequestValidationError)
    def invalid(request: fastapi.Request, error: Exception) -> fastapi.responses.JSONResponse:
        return answer(422, "bad", "The request is not as it should be.")

    @app.exception_handler(Rerun)
    def rerun(request: fastapi.Request, error: Exception) -> fastapi.responses.JSONResponse:
        return answer(410, "rerun", "The run was made again meanwhile; start `urnet review` anew.")

    @app.exception_handler(Refused)
    def refused(request: fastapi.Request, error: Exception) -> fastapi.responses.JSONResponse:
        return answer(404, "picture", "This picture cannot be shown.")


def _add_reading(app: "fastapi.FastAPI", session: Session) -> None:
    import fastapi

    Place = Annotated[int, fastapi.Query(ge=0)]
    Limit = Annotated[int, fastapi.Query(ge=1, le=PAGE)]
    Text = Annotated[str, fastapi.Query(max_length=5000)]

    @app.get("/api/start")
    def start() -> dict[str, Any]:
        return session.start()

    @app.get("/api/progress")
    def progress() -> dict[str, Any]:
        return session.progress()

    @app.get("/api/items")
    def items(queue: Text, offset: Place = 0, limit: Limit = PAGE) -> dict[str, Any]:
        return session.page(queue, offset, limit)

    @app.get("/api/next")
    def next_open(queue: Text, after: int = -1, back: bool = False) -> dict[str, int]:
        return {"place": session.next_open(queue, after, back)}

    @app.get("/api/classes")
    def classes(search: Text = "", offset: Place = 0, limit: Limit = PAGE) -> dict[str, Any]:
        return session.classes(search, offset, limit)

    @app.get("/api/groups")
    def groups(place: Place = 0) -> dict[str, Any]:
        return session.groups(place)


def _add_images(app: "fastapi.FastAPI", session: Session) -> None:
    import fastapi

    Row = Annotated[int, fastapi.Query(ge=0, lt=max(len(session.run), 1))]
    Text = Annotated[str, fastapi.Query(max_length=5000)]

    @app.get("/api/image")
    def image(id: Row, queue: Text = "") -> dict[str, Any]:
        return {"item": session.item(id, queue), "about": session.describe(id)}

    @app.get("/api/look_alikes")
    def look_alikes(id: Row) -> dict[str, Any]:
        return session.look_alike(id, _LOOK_ALIKES)

    @app.get("/api/find")
    def find(image: Text = "", label: Text = "") -> dict[str, Any]:
        if label:
            found = session.label_of(label)
            return {"label": found, "place": session.place_of_class(found)}
        row = session.find(image)
        if row is None:
            raise UnknownQueue(image)
        return {"id": row}


def _add_pictures(app: "fastapi.FastAPI", session: Session) -> None:
    import fastapi

    Row = Annotated[int, fastapi.Path(ge=0, lt=max(len(session.run), 1))]

    def jpeg(data: bytes) -> fastapi.Response:
        # An address holds the run's results, so that what it leads to never changes.
        kept = {"cache-control": "private, max-age=86400, immutable"}
        return fastapi.Response(data, media_type="image/jpeg", headers=kept)

    @app.get("/api/thumbnail/{results}/{row}/{side}")
    def thumbnail(results: str, row: Row, side: int) -> fastapi.Response:
        if side not in THUMBNAIL_SIDES or results != session.run.results:
            raise UnknownQueue(str(side))
        return jpeg(session.pictures.thumbnail(row, side))

    @app.get("/api/large/{results}/{row}")
    def large(results: str, row: Row) -> fastapi.Response:
        if results != session.run.results:
            raise UnknownQueue(results)
        return jpeg(session.pictures.large(row))


def _add_writing(app: "fastapi.FastAPI", session: Session) -> None:
    import pydantic

    class Judgement(pydantic.BaseModel):
        results: str
        ids: Annotated[list[int], pydantic.Field(min_length=1, max_length=MOST_AT_ONCE)]
        revisions: Annotated[list[int], pydantic.Field(min_length=1, max_length=MOST_AT_ONCE)]
        truth: Literal["given", "none", "unsure"] | int
        queue: Annotated[str, pydantic.Field(max_length=100)]

    class Undoing(pydantic.BaseModel):
        when: str | None = None
        queue: Annotated[str, pydantic.Field(max_length=100)] = ""

    @app.post("/api/judge")
    def judge(judgement: Judgement) -> dict[str, Any]:
        run, truth = session.run, judgement.truth
        inside = all(0 <= row < len(run) for row in judgement.ids)
        is_class = isinstance(truth, str) or 0 <= truth < run.num_classes
        if not (inside and is_class and len(judgement.ids) == len(judgement.revisions)):
            raise UnknownQueue("image or class")
        if judgement.results != run.results or not run.is_current():
            raise Rerun
        known = _TRUTHS[truth] if isinstance(truth, str) else truth
        queue = judgement.queue
        chosen_by = session.chosen_by(queue, judgement.ids)
        action = session.journal.judge(judgement.ids, judgement.revisions, known, chosen_by)
        shown = judgement.ids[:1] if queue == "copies" else session.with_copies(judgement.ids)[:PAGE]
        return {"when": action.when, "items": [session.item(row, queue) for row in shown]}

    @app.post("/api/undo")
    def undo(undoing: Undoing) -> dict[str, Any]:
        action = session.journal.undo(undoing.when)
        if action is None:
            return {"ids": [], "images": 0, "place": -1}
        rows = [int(row) for said in action.images.values() for row in session.journal.rows_of(said)]
        place = session.place_of(undoing.queue, rows[0]) if undoing.queue and rows else -1
        return {"ids": rows[:PAGE], "images": len(action.images), "place": place}
