"""The synthetic face: a drawn head whose brows, eyes, mouth and motion show an emotion in time with the voice.

`CUES` says what each emotion does to the face; the speaker's own proportions and colours vary as much, and carry
nothing. The face is shaded (dark sockets, bright nose and cheeks) so that a detector of real faces finds it.

Shape suffixes: T frames, H and W pixels, P points, XY coordinates in head units: the face is 2 wide, and the origin
lies between the eyes and the nose's tip.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE: Final = 128
FRAME_RATE_HZ: Final = 12.5

_Color = tuple[float, float, float]


@dataclass(frozen=True)
class Expression:
    """What the face does, relative to the speaker's face at rest.

    Attributes:
        brow_height: brows up.
        brow_angle: inner ends up (positive) or down.
        eye_opening: factor.
        mouth_curve: corners up (positive) or down.
        mouth_width: factor.
        mouth_opening: how far the mouth follows the voice's loudness.
        lip_raise: upper lip up, nose wrinkled.
        nod: size of the nods.
        nod_rate: nods a second.
        pitch: head lowered (positive) or raised.
        tremor: size of fast small motion.
    """

    brow_height: float = 0.0
    brow_angle: float = 0.0
    eye_opening: float = 1.0
    mouth_curve: float = 0.0
    mouth_width: float = 1.0
    mouth_opening: float = 1.0
    lip_raise: float = 0.0
    nod: float = 0.3
    nod_rate: float = 1.2
    pitch: float = 0.0
    tremor: float = 0.0


CUES: Final[dict[str, Expression]] = {
    "neutral": Expression(),
    "happy": Expression(brow_height=0.25, eye_opening=0.85, mouth_curve=1.0, mouth_width=1.2, nod=0.6, nod_rate=2.0),
    "sad": Expression(brow_angle=0.8, eye_opening=0.75, mouth_curve=-0.8, mouth_opening=0.6, nod_rate=0.6, pitch=0.6),
    "angry": Expression(-0.5, -1.0, 1.05, -0.45, mouth_width=0.92, mouth_opening=1.2, nod=1.0, nod_rate=2.6),
    "fearful": Expression(0.9, 0.5, 1.4, -0.25, mouth_opening=1.4, nod=0.2, nod_rate=1.5, pitch=-0.2, tremor=0.7),
    "disgusted": Expression(-0.35, -0.3, 0.65, -0.5, 0.95, 0.8, lip_raise=1.0, pitch=-0.5, nod_rate=0.9),
}

# How much one clip differs from the table by chance: standard deviation of each cue.
SPREAD: Final = Expression(
    brow_height=0.25,
    brow_angle=0.28,
    eye_opening=0.11,
    mouth_curve=0.3,
    mouth_width=0.06,
    mouth_opening=0.2,
    lip_raise=0.25,
    nod=0.2,
    nod_rate=0.4,
    pitch=0.25,
    tremor=0.1,
)
_LOWEST: Final = Expression(-1.2, -1.6, 0.35, -1.5, 0.7, 0.25, -0.2, 0.0, 0.3, -1.2, 0.0)


@dataclass(frozen=True)
class Face:
    """What is the speaker's own: proportions in head units, colours as RGB in 0..255."""

    length: float
    eye_distance: float
    eye_size: float
    brow_height: float
    brow_angle: float
    brow_thickness: float
    nose_length: float
    mouth_width: float
    mouth_curve: float
    lip_thickness: float
    scale: float
    skin: _Color
    hair: _Color
    wall: _Color


_SKINS: Final = ((232, 196, 170), (214, 170, 138), (190, 144, 112), (168, 124, 94), (240, 208, 188))
_HAIRS: Final = ((40, 28, 20), (70, 46, 28), (110, 78, 44), (24, 20, 18), (150, 120, 70), (96, 60, 36))


def draw_face(generator: np.random.Generator) -> Face:
    """A speaker's face."""

    def near(mean: float, deviation: float) -> float:
        return float(mean + deviation * np.clip(generator.normal(), -2, 2))

    return Face(
        length=near(1.32, 0.06),
        eye_distance=near(0.43, 0.025),
        eye_size=near(0.19, 0.015),
        brow_height=near(0.0, 0.35),
        brow_angle=near(0.0, 0.35),
        brow_thickness=near(0.075, 0.015),
        nose_length=near(0.48, 0.04),
        mouth_width=near(0.36, 0.03),
        mouth_curve=near(0.0, 0.3),
        lip_thickness=near(0.07, 0.015),
        scale=near(36.0, 2.0),
        skin=_SKINS[generator.integers(len(_SKINS))],
        hair=_HAIRS[generator.integers(len(_HAIRS))],
        wall=tuple(float(value) for value in generator.uniform(70, 190, 3)),  # type: ignore[arg-type]  # three values
    )


def film(
    face: Face, emotion: str, loudness_T: NDArray[np.float64], generator: np.random.Generator
) -> NDArray[np.uint8]:
    """(T, H, W, 3) RGB: the face saying something with `loudness_T` (one value a frame) in an emotion's manner."""
    expression = _vary(CUES[emotion], generator)
    num_frames = len(loudness_T)
    time_T = np.arange(num_frames) / FRAME_RATE_HZ
    phase = generator.uniform(0, 2 * np.pi, 3)
    # The expression comes and goes a little while the person speaks.
    strength_T = 0.85 + 0.15 * np.sin(2 * np.pi * 0.5 * time_T + phase[0])
    nod_T = expression.nod * np.sin(2 * np.pi * expression.nod_rate * time_T + phase[1])
    shake_TXY = 0.02 * expression.tremor * generator.normal(0, 1, (num_frames, 2))
    sway_T = 0.05 * np.sin(2 * np.pi * 0.35 * time_T + phase[2])
    blink = int(generator.integers(0, 40))
    place_XY = generator.normal((SIDE / 2, SIDE / 2 + 3), 2.5)
    wall_HW3 = _wall(face, generator)
    frames = []
    for index in range(num_frames):
        shift_XY = shake_TXY[index] + (sway_T[index], 0.06 * nod_T[index] + 0.09 * expression.pitch)
        canvas = _Canvas(wall_HW3.copy(), face.scale, place_XY + shift_XY * face.scale, 0.6 * sway_T[index])
        eye_opening = 0.12 if blink <= index < blink + 2 else expression.eye_opening
        _draw(canvas, face, expression, strength_T[index], eye_opening, loudness_T[index])
        frames.append(cv2.GaussianBlur(canvas.image, (3, 3), 0.7))
    return np.stack(frames).astype(np.uint8, copy=False)


def _vary(expression: Expression, generator: np.random.Generator) -> Expression:
    values = {}
    for field in fields(Expression):
        drawn = generator.normal(getattr(expression, field.name), getattr(SPREAD, field.name))
        values[field.name] = float(max(drawn, getattr(_LOWEST, field.name)))
    return Expression(**values)


def _wall(face: Face, generator: np.random.Generator) -> NDArray[np.uint8]:
    slope_HW1 = np.linspace(0.8, 1.1, SIDE)[:, None, None] * np.linspace(1.05, 0.9, SIDE)[None, :, None]
    light = generator.uniform(0.9, 1.1)
    return np.asarray(np.clip(slope_HW1 * np.array(face.wall) * light, 0, 255), dtype=np.uint8)


class _Canvas:
    """Draws in head units, with the head's place and turn."""

    def __init__(self, image: NDArray[np.uint8], scale: float, place_XY: NDArray[np.float64], turn: float) -> None:
        self.image = image
        self.scale = scale
        self.turn_degrees = math.degrees(turn)
        self.cosine, self.sine = scale * math.cos(turn), scale * math.sin(turn)
        self.matrix = np.array([[self.cosine, -self.sine], [self.sine, self.cosine]])
        self.place_XY = (float(place_XY[0]), float(place_XY[1]))

    def points(self, points_PXY: NDArray[np.float64]) -> NDArray[np.int32]:
        """Pixels times 16: OpenCV's fixed point with four bits."""
        return np.asarray(np.round((points_PXY @ self.matrix.T + self.place_XY) * 16), dtype=np.int32)

    def polygon(self, points_PXY: NDArray[np.float64], color: _Color) -> None:
        cv2.fillPoly(self.image, [self.points(points_PXY)], color, cv2.LINE_AA, 4)

    def ellipse(self, center: tuple[float, float], radii: tuple[float, float], color: _Color) -> None:
        x = self.place_XY[0] + self.cosine * center[0] - self.sine * center[1]
        y = self.place_XY[1] + self.sine * center[0] + self.cosine * center[1]
        axes = (max(1, round(radii[0] * self.scale * 16)), max(1, round(radii[1] * self.scale * 16)))
        place = (round(x * 16), round(y * 16))
        cv2.ellipse(self.image, place, axes, self.turn_degrees, 0, 360, color, cv2.FILLED, cv2.LINE_AA, 4)

    def curve(self, points_PXY: NDArray[np.float64], thickness: float, color: _Color) -> None:
        pixels = max(1, round(thickness * self.scale))
        cv2.polylines(self.image, [self.points(points_PXY)], False, color, pixels, cv2.LINE_AA, 4)


def _draw(
    canvas: _Canvas, face: Face, expression: Expression, strength: float, eye_opening: float, loudness: float
) -> None:
    _draw_head(canvas, face)
    _draw_nose(canvas, face, expression.lip_raise * strength)
    for side in (-1.0, 1.0):
        _draw_eye(canvas, face, side, 1 + (eye_opening - 1) * strength)
        height = -0.31 - 0.075 * (face.brow_height + expression.brow_height * strength)
        angle = 0.085 * (face.brow_angle + expression.brow_angle * strength)
        x = side * np.array([0.16, face.eye_distance, face.eye_distance + 0.28])
        y = height + np.array([-angle, -0.05, 0.06 + 0.6 * angle])
        canvas.curve(np.stack([x, y], axis=1), face.brow_thickness, _shade(face.hair, 0.9))
    _draw_mouth(canvas, face, expression, strength, loudness)


def _draw_head(canvas: _Canvas, face: Face) -> None:
    canvas.polygon(np.array([[-0.45, 0.8], [0.45, 0.8], [0.6, 2.2], [-0.6, 2.2]]), _shade(face.skin, 0.72))
    canvas.ellipse((0, 1.0 + face.length * 0.95), (1.5, 0.75), _shade(face.wall, 0.5))
    canvas.ellipse((0, -0.12), (1.1, face.length * 1.02), face.hair)
    canvas.ellipse((0, 0.12), (0.96, face.length), _shade(face.skin, 0.86))
    canvas.ellipse((0, 0.08), (0.86, face.length * 0.92), face.skin)
    # Forehead and cheeks catch the light.
    canvas.ellipse((0, -0.66), (0.55, 0.26), _shade(face.skin, 1.06))
    for side in (-1.0, 1.0):
        canvas.ellipse((side * 0.5, 0.38), (0.27, 0.23), _shade(face.skin, 1.08))


def _draw_nose(canvas: _Canvas, face: Face, wrinkle: float) -> None:
    tip = face.nose_length
    for side in (-1.0, 1.0):
        canvas.polygon(
            np.array([[side * 0.06, -0.12], [side * 0.14, -0.12], [side * 0.24, tip], [side * 0.1, tip]]),
            _shade(face.skin, 0.88),
        )
        canvas.ellipse((side * 0.1, tip + 0.02), (0.065, 0.04), _shade(face.skin, 0.5))
        if wrinkle > 0.2:
            fold = np.array([[side * 0.22, tip - 0.08], [side * 0.36, tip + 0.14], [side * 0.42, tip + 0.34]])
            canvas.curve(fold, 0.03, _shade(face.skin, 1 - 0.35 * min(1.0, wrinkle)))
    canvas.polygon(np.array([[-0.07, -0.3], [0.07, -0.3], [0.1, tip], [-0.1, tip]]), _shade(face.skin, 1.1))


def _draw_eye(canvas: _Canvas, face: Face, side: float, opening: float) -> None:
    x, size = side * face.eye_distance, face.eye_size
    height = size * 0.52 * float(np.clip(opening, 0.1, 1.7))
    canvas.ellipse((x, -0.04), (size * 1.65, size * 1.35), _shade(face.skin, 0.72))
    canvas.ellipse((x, 0.0), (size * 1.25, height + 0.045), _shade(face.skin, 0.42))
    canvas.ellipse((x, 0.0), (size * 1.05, height), (205, 205, 205))
    iris = min(size * 0.55, height * 1.1)
    canvas.ellipse((x, 0.0), (iris, iris), (40, 30, 26))


def _draw_mouth(canvas: _Canvas, face: Face, expression: Expression, strength: float, loudness: float) -> None:
    width = face.mouth_width * (1 + (expression.mouth_width - 1) * strength)
    curve = 0.13 * (face.mouth_curve + expression.mouth_curve * strength)
    opening = 0.02 + 0.2 * expression.mouth_opening * loudness
    middle = 0.86
    x = np.linspace(-1, 1, 9)
    corner = middle - curve * (x**2 - 0.4)
    bulge = 1 - x**2
    raised = 0.09 * max(0.0, expression.lip_raise) * strength
    upper = corner - opening * 0.4 * bulge - raised * (1 - np.abs(x))
    lower = corner + opening * bulge
    lips = _shade((face.skin[0], face.skin[1] * 0.68, face.skin[2] * 0.68), 0.72)
    canvas.curve(np.stack([x * width, upper], axis=1), face.lip_thickness * 1.3, lips)
    canvas.curve(np.stack([x * width, lower], axis=1), face.lip_thickness * 1.5, lips)
    inner = np.concatenate([np.stack([x * width, upper], axis=1), np.stack([x * width, lower], axis=1)[::-1]])
    canvas.polygon(inner, (52, 22, 22))


def _shade(color: _Color, factor: float) -> _Color:
    red, green, blue = (min(255.0, value * factor) for value in color)
    return (red, green, blue)
