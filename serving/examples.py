"""What the OpenAPI document shows for each route: requests and answers as they come, cut to a second."""

from __future__ import annotations

from typing import Any, Final

REQUEST: Final[dict[str, Any]] = {"video": "(the file's bytes)", "text": "what a day"}

FEATURES: Final = "(a safetensors file with audio, video and words)"

HEALTH: Final[dict[str, Any]] = {"status": "ok"}

METRICS: Final = """# HELP affect_requests_total Requests by route, status and kind of problem.
# TYPE affect_requests_total counter
affect_requests_total{problem="",route="/v1/emotion",status="200"} 12.0
"""

ANSWER: Final[dict[str, Any]] = {
    "request_id": "5f0c6b1e9a7d4f3d8c2b1a0e9f8d7c6b",
    "model": {"system": "trimodal", "version": "3f9c2a7d10be", "release": 3},
    "label": "happy",
    "probabilities": {"neutral": 0.12, "happy": 0.81, "sad": 0.03, "angry": 0.04},
    "timeline": [
        {
            "start_s": 0.0,
            "end_s": 1.0,
            "probabilities": {"neutral": 0.2, "happy": 0.7, "sad": 0.04, "angry": 0.06},
        }
    ],
    "contributions": {"audio": 0.42, "video": 0.11, "text": -0.03},
    "warnings": ["no-face"],
}

BATCH_REQUEST: Final[dict[str, Any]] = {"video.a": "(the file's bytes)", "text.a": "what a day", "audio.b": "(bytes)"}

BATCH_ANSWER: Final[dict[str, Any]] = {
    "request_id": ANSWER["request_id"],
    "clips": [
        {"name": "a", "answer": ANSWER},
        {
            "name": "b",
            "problem": {
                "type": "urn:affect:problem:not-media",
                "title": "An upload is not a recording that can be read",
                "status": 422,
                "detail": "the recording is no audio or video file: give wav, mp4, webm or alike",
                "instance": "urn:affect:request:5f0c6b1e9a7d4f3d8c2b1a0e9f8d7c6b",
            },
        },
    ],
}

MODEL: Final[dict[str, Any]] = {
    "system": "trimodal",
    "version": "3f9c2a7d10be",
    "release": 3,
    "labels": ["neutral", "happy", "sad", "angry"],
    "modalities": ["audio", "video", "text"],
    "limits": {
        "max_bytes": 67108864,
        "max_duration_s": 600.0,
        "max_analysed_s": 8.0,
        "max_characters": 10000,
        "max_clips": 16,
    },
    "features": "5d0c8a41b7e2f963",
    "provenance": {"system": "trimodal", "dataset": "synthetic", "commit": "9f1c2d7"},
    "refused": None,
}

CARD: Final = "# trimodal 3f9c2a7d10be\n\nTrained and tested on the synthetic corpus; says nothing about people.\n"


def shown(example: object, media_type: str = "application/json") -> dict[int | str, dict[str, Any]]:
    """A route's answer with its example, for the OpenAPI document."""
    return {200: {"content": {media_type: {"example": example}}}}
