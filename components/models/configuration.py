"""What the configurations of systems share: the sizes that the data decide, and no tolerance for unknown keys."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any, Final

from transformers import PreTrainedConfig

# Keys that transformers itself hands to a configuration, or writes into one, beside the declared fields.
_OF_TRANSFORMERS: Final = frozenset(
    {"model_type", "name_or_path", "_name_or_path", "num_labels", "attn_implementation", "output_attentions"}
)


class SystemConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]  # transformers leaves these untyped
    """Fields that every system understands. Those of a modality that it does not look at say nothing to it.

    Attributes:
        system: name of the system's module in components/models.
        modalities: what it looks at; the rest is as if it were missing.
        audio_features, video_features: width of one step; a waveform has one feature.
        vocabulary_size: ids that the words' tokenizer can give.
        num_classes: outputs of the head; 0 builds none, for pre-training.
        audio_step_s, video_step_s: seconds from one step to the next.

    Raises:
        ValueError: a key is unknown (transformers would keep it silently), or a modality is.
    """

    system: str = ""
    modalities: list[str] | tuple[str, ...] = ()
    audio_features: int = 1
    video_features: int = 1
    vocabulary_size: int = 0
    num_classes: int = 0
    audio_step_s: float = 0.04
    video_step_s: float = 0.08

    def __post_init__(self, **kwargs: Any) -> None:
        known = [field.name for field in dataclasses.fields(self)]
        for key in kwargs:
            if key not in _OF_TRANSFORMERS:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(_own_keys(known))}"
                raise ValueError(f"{self.system}: unknown setting {key!r}; {hint}")
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]  # transformers leaves these untyped

    def check_modalities(self, *possible: str) -> None:
        """Refuse a choice of modalities that is empty or not among those that the system can look at.

        Raises:
            ValueError: as said.
        """
        wrong = [modality for modality in self.modalities if modality not in possible]
        if wrong or not self.modalities:
            raise ValueError(
                f"{self.system}: modalities = {list(self.modalities)!r}: choose one or more of {', '.join(possible)}"
            )


def _own_keys(known: list[str]) -> list[str]:
    of_transformers = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    return [name for name in known if name not in of_transformers]
