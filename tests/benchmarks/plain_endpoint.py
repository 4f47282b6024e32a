"""The peer that most people would write: FastAPI and uvicorn around the eager model, a request at a time in a thread.

`python -m tests.benchmarks.plain_endpoint BUNDLE PORT` serves it on the loopback address.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import Body, FastAPI, File, UploadFile

from serving import feature_file
from serving.answering import answer_of, name_of
from serving.prediction import Request
from serving.runtime import Runtime


def create_app(bundle: Path) -> FastAPI:
    """Two routes, for a recording and for features, that do all in this process."""
    runtime = Runtime(bundle, step_by_step=True)
    runtime.warmup()
    model = name_of(runtime.info(), release=1)
    app = FastAPI()

    def judged(request: Request) -> dict[str, Any]:
        [prediction] = runtime.predict([request])
        return answer_of(prediction, model, request_id="").model_dump(mode="json")

    @app.post("/media")
    def media(video: Annotated[UploadFile, File()]) -> dict[str, Any]:
        return judged(Request(video=video.file.read()))

    @app.post("/features")
    def features(content: Annotated[bytes, Body(media_type=feature_file.MEDIA_TYPE)]) -> dict[str, Any]:
        return judged(Request(features=content))

    return app


if __name__ == "__main__":
    uvicorn.run(create_app(Path(sys.argv[1])), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
