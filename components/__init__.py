"""How the work is done: data in, models and measurements out. No Prefect and no HTTP below this folder."""

import atexit
import gc

# What torch and transformers bring along are millions of objects that live to the end. By default the collector looks
# through them hundreds of times while they load, a quarter of the seconds that takes, and once more for each at exit.
gc.set_threshold(100_000, 20, 20)
atexit.register(gc.freeze)
