"""From an HTTP request to a `runtime.Request`: forms and JSON, read within limits and never onto the disk."""

from __future__ import annotations

import difflib
from collections.abc import AsyncGenerator

from pydantic import ValidationError
from starlette import requests
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from components.clip import MODALITIES
from serving import feature_file
from serving.prediction import Limits, Request, RequestError
from serving.schema import TextRequest

# What the boundaries and headers of a form may add to its files.
_FORM_OVERHEAD_BYTES = 64 * 1024
_MAX_PARTS = 16
# Characters of UTF-8 take at most four bytes; JSON may write each as an escape of six, or two of six.
_JSON_BYTES_PER_CHARACTER = 12


class _Form(MultiPartParser):
    """Starlette's form reader, which keeps uploads in memory and refuses words that are not UTF-8."""

    spool_max_size = 0  # never rolls over to a temporary file: uploads stay off the disk

    def on_part_end(self) -> None:
        if self._current_part.file is None:
            try:
                self._current_part.data.decode("utf-8")
            except UnicodeDecodeError as error:
                raise MultiPartException("a field is not valid UTF-8: send the words as UTF-8") from error
        super().on_part_end()


async def read(request: requests.Request, limits: Limits) -> Request:
    """Read the modalities that an HTTP request carries.

    Raises:
        RequestError: the content type is not accepted, the body is too large or malformed, a field is unknown or
            of the wrong form, or there is no modality in it.
    """
    kind = kind_of(request)
    if kind == "multipart/form-data":
        return await _read_form(request, limits)
    if kind == "application/json":
        return await _read_json(request, limits)
    if kind == feature_file.MEDIA_TYPE:
        return Request(features=await _body(request, limits.max_bytes))
    raise RequestError(
        "wrong-content-type",
        f"content type {kind or '(none)'!r} is not accepted: send multipart/form-data with audio, video or text, "
        "application/json with text, or application/x-safetensors with features",
    )


def kind_of(request: requests.Request) -> str:
    """The media type of a request's body, in small letters; empty without one."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _read_form(request: requests.Request, limits: Limits) -> Request:
    form = await parsed_form(request, limits, max_parts=_MAX_PARTS)
    try:
        _check_names(form)
        return Request(
            audio=await file_of(form, "audio"),
            video=await file_of(form, "video"),
            text=words_of(form, "text"),
        )
    finally:
        await form.close()


async def parsed_form(request: requests.Request, limits: Limits, *, max_parts: int) -> FormData:
    """The parts of a form, together no larger than two files; the caller closes it.

    Raises:
        RequestError: it is too large, or cannot be read.
    """
    max_bytes = 2 * limits.max_bytes + 4 * limits.max_characters + _FORM_OVERHEAD_BYTES
    parser = _Form(
        request.headers,
        _limited(request, max_bytes),
        max_files=max_parts,
        max_fields=max_parts,
        max_part_size=4 * limits.max_characters,
    )
    try:
        return await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Part exceeded"):
            raise RequestError("too-large", f"text is longer than {limits.max_characters} characters") from error
        raise RequestError("malformed", f"the form cannot be read: {error.message}") from error


async def _body(request: requests.Request, max_bytes: int) -> bytes:
    """The whole body.

    Raises:
        RequestError: it is larger.
    """
    body = bytearray()
    async for chunk in _limited(request, max_bytes):
        body += chunk
    return bytes(body)


async def _read_json(request: requests.Request, limits: Limits) -> Request:
    body = await _body(request, _JSON_BYTES_PER_CHARACTER * limits.max_characters + _FORM_OVERHEAD_BYTES)
    try:
        return Request(text=TextRequest.model_validate_json(body).text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise RequestError("unknown-field", f"unknown field {where!r}: JSON carries only text") from error
        code = "malformed" if first["type"] == "json_invalid" else "wrong-field"
        raise RequestError(code, f'{where or "body"}: {first["msg"]}; send {{"text": "..."}}') from error


async def _limited(request: requests.Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """The body's chunks, ending with a problem as soon as there are more bytes than allowed."""
    declared = request.headers.get("content-length", "")
    num_bytes = int(declared) if declared.isascii() and declared.isdigit() else 0
    if num_bytes <= max_bytes:
        num_bytes = 0
        async for chunk in request.stream():
            num_bytes += len(chunk)
            if num_bytes > max_bytes:
                break
            yield chunk
    if num_bytes > max_bytes:
        raise RequestError("too-large", f"the body has more than {max_bytes} bytes: send a shorter recording")


def _check_names(form: FormData) -> None:
    names = [name for name, _ in form.multi_items()]
    for name in names:
        if name not in MODALITIES:
            close = difflib.get_close_matches(name, MODALITIES, n=1)
            hint = f", did you mean {close[0]!r}?" if close else ""
            raise RequestError("unknown-field", f"unknown field {name!r}{hint}; there are audio, video and text")
        if names.count(name) > 1:
            raise RequestError("wrong-field", f"{name} is given {names.count(name)} times: send it once")


async def file_of(form: FormData, name: str) -> bytes | None:
    """The bytes of an uploaded file; None when it is not there.

    Raises:
        RequestError: it is a plain field.
    """
    upload = form.get(name)
    if upload is None:
        return None
    if not isinstance(upload, UploadFile):
        raise RequestError("wrong-field", f"{name} must be a file upload, such as `curl -F {name}=@FILE`")
    return await upload.read()


def words_of(form: FormData, name: str) -> str | None:
    """The words of a plain field; None when it is not there.

    Raises:
        RequestError: it is a file.
    """
    words = form.get(name)
    if isinstance(words, UploadFile):
        raise RequestError("wrong-field", f"{name} must be a plain field, not a file: `curl -F {name}='the words'`")
    return words
