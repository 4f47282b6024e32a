"""Every way a request can fail, by name: the code, the HTTP status and the title of its RFC 9457 problem."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from serving.schema import Problem

PREFIX: Final = "urn:affect:problem:"
MEDIA_TYPE: Final = "application/problem+json"

# code -> (status, title). Codes of media errors that are not listed here are a 422 with the code as their name.
PROBLEMS: Final[dict[str, tuple[int, str]]] = {
    "malformed": (400, "The request cannot be read"),
    "no-modality": (422, "The request carries nothing to analyse"),
    "unknown-field": (422, "The request has a field that the endpoint does not know"),
    "wrong-field": (422, "A field of the request has the wrong form"),
    "empty": (422, "An uploaded file is empty"),
    "not-media": (422, "An upload is not a recording that can be read"),
    "wrong-features": (422, "The request's features are not of the kind that the model takes"),
    "truncated": (422, "A recording ends before its header says"),
    "no-audio": (422, "A recording has no sound"),
    "no-video": (422, "A recording has no picture"),
    "nothing-usable": (422, "The request's recordings hold nothing to analyse"),
    "damaged": (422, "A recording cannot be decoded"),
    "too-slow-to-decode": (422, "A recording takes too long to decode"),
    "too-large-to-decode": (422, "A recording takes too much memory to decode"),
    "undecodable": (422, "A recording ended the process that decoded it"),
    "too-long": (422, "A recording is too long"),
    "too-large": (413, "The request is too large"),
    "wrong-content-type": (415, "The request's content type is not accepted"),
    "unauthorized": (401, "The request carries no valid API key"),
    "keys-needed": (403, "The endpoint has no API keys, and the caller is on another machine"),
    "rate-limited": (429, "The API key has made too many requests"),
    "keys-unreadable": (503, "The endpoint cannot read its list of API keys"),
    "not-found": (404, "There is nothing at this address"),
    "wrong-method": (405, "This address does not take this method"),
    "overloaded": (429, "The endpoint has as much to do as it may"),
    "gone": (499, "The caller went away before the answer"),
    "timed-out": (408, "The request was not answered in time"),
    "interrupted": (503, "The replica that worked on the request ended"),
    "unavailable": (503, "No replica can take requests"),
    "idle": (408, "Nothing came for too long"),
    "not-streamable": (422, "The served model cannot follow a stream"),
    "no-model": (503, "No model is being served yet"),
    "bundle-refused": (503, "The newest model could not be loaded, and there is no older one"),
    "internal": (500, "The endpoint failed; this is its fault, not the request's"),
}


def problem(code: str, detail: str, *, request_id: str) -> Problem:
    """The RFC 9457 document of one error."""
    status, title = PROBLEMS.get(code, (HTTPStatus.UNPROCESSABLE_ENTITY.value, "A recording cannot be used"))
    return Problem(
        type=f"{PREFIX}{code}",
        title=title,
        status=status,
        detail=" ".join(detail.split()),
        instance=f"urn:affect:request:{request_id}",
    )


def responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The problems of a route, for its OpenAPI document: by status, with an example of each type."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        status, title = PROBLEMS[code]
        entry = by_status.setdefault(status, {"description": "", "content": {MEDIA_TYPE: {}}})
        entry["description"] = f"{entry['description']}; {title}" if entry["description"] else title
        content = entry["content"][MEDIA_TYPE]
        # The answer of a batch brings the schema into the document.
        content["schema"] = {"$ref": "#/components/schemas/Problem"}
        shown = problem(code, f"what is wrong this time, and what to do about it ({code})", request_id="abc-1")
        content.setdefault("examples", {})[code] = {"summary": title, "value": shown.model_dump(mode="json")}
    return by_status
