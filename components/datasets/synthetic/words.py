"""What a synthetic speaker says: template sentences of neutral words, with words that carry an emotion.

Each emotion has some forty words of its own, three or four of them in a sentence: a few labelled sentences show a part
of them only, and a model learns the others from unlabelled clips, by the voice and face that go with them.
"""

from __future__ import annotations

from typing import Final

import numpy as np


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


LEXICON: Final[dict[str, tuple[str, ...]]] = {
    "neutral": _words(
        "usual ordinary regular plain average standard normal routine common typical moderate steady even general "
        "simple formal basic practical familiar middling everyday scheduled expected customary factual measured "
        "level constant neutral medium settled official technical printed numbered listed filed dated sorted "
        "marked"
    ),
    "happy": _words(
        "wonderful lovely great delightful sunny cheerful brilliant joyful fantastic sweet merry splendid pleasant "
        "glorious charming bright funny festive marvelous blissful radiant jolly superb golden playful lucky "
        "gleaming grand heavenly sparkling thrilling perfect adorable upbeat smiling laughing celebrated winning "
        "gorgeous beautiful"
    ),
    "sad": _words(
        "lonely gloomy tearful miserable lost grey mournful hopeless bleak weary sorrowful empty broken faded "
        "forlorn tragic dreary wistful heavy abandoned aching fallen forgotten hollow joyless melancholy missing "
        "somber withered deserted homesick crying grieving regretful neglected unloved wretched downcast gone "
        "dying"
    ),
    "angry": _words(
        "outrageous stupid infuriating unfair maddening rude insulting hateful annoying furious vicious spiteful "
        "ridiculous disgraceful wicked hostile cruel dishonest shameless insolent irritating bitter crooked "
        "provoking offensive raging savage bloody damned impossible unjust arrogant careless idiotic intolerable "
        "obnoxious reckless selfish ruthless vile"
    ),
    "fearful": _words(
        "terrifying dangerous dark scary creepy threatening ghostly deadly haunted eerie horrible ominous sinister "
        "frightening menacing alarming dreadful shadowy unsafe risky lurking nightmarish panicked trembling "
        "shrieking unknown trapped stalking poisonous armed exploding burning collapsing looming lethal hunted "
        "strange unstable warned cursed"
    ),
    "disgusted": _words(
        "filthy rotten slimy stinking moldy nasty sticky greasy putrid sour foul smelly gross spoiled dirty "
        "revolting sickening rancid vomited infested grimy decayed oozing sweaty mucky squalid festering repulsive "
        "nauseating tainted soiled reeking maggoty stale clotted septic polluted unwashed scabby leaking"
    ),
}

_PLACES: Final = _words(
    "kitchen garden office station street market school bridge river house room library church harbor"
)
_THINGS: Final = _words("letter table car coat picture dinner book door window phone story meeting lamp cup train song")
_PEOPLE: Final = _words("brother neighbor teacher doctor sister driver cousin friend uncle boss")
_VERBS: Final = _words("saw found left heard watched opened carried noticed remembered described")

# Lower case is said as it stands; PLACE, THING, PERSON and VERB are drawn; EMOTION is a word of the lexicon.
_TEMPLATES: Final = (
    "a EMOTION EMOTION THING in the EMOTION PLACE",
    "the EMOTION PERSON was EMOTION and EMOTION",
    "my EMOTION PERSON VERB EMOTION EMOTION things",
    "it was a EMOTION EMOTION and EMOTION THING",
    "the EMOTION PLACE looks EMOTION and EMOTION today",
    "EMOTION EMOTION PERSON by the EMOTION THING",
    "we VERB EMOTION things at the EMOTION EMOTION PLACE",
    "such EMOTION EMOTION people in a EMOTION PLACE",
)

# Share of the emotion slots that hold a word of an emotion drawn at random: sentences are not clean either.
STRAY_SHARE: Final = 0.1
_ZIPF_EXPONENT: Final = 0.7


def sentence(emotion: str, generator: np.random.Generator) -> str:
    """One sentence whose emotion words mostly belong to `emotion`."""
    emotions = tuple(LEXICON)

    def said(word: str) -> str:
        match word:
            case "PLACE":
                return str(generator.choice(_PLACES))
            case "THING":
                return str(generator.choice(_THINGS))
            case "PERSON":
                return str(generator.choice(_PEOPLE))
            case "VERB":
                return str(generator.choice(_VERBS))
            case "EMOTION":
                is_stray = generator.random() < STRAY_SHARE
                lexicon = LEXICON[emotions[generator.integers(len(emotions))] if is_stray else emotion]
                shares = 1.0 / np.arange(1, len(lexicon) + 1) ** _ZIPF_EXPONENT
                return str(generator.choice(lexicon, p=shares / shares.sum()))
            case _:
                return word

    return " ".join(said(word) for word in _TEMPLATES[generator.integers(len(_TEMPLATES))].split())
