"""How the work is done: data in, models and measurements out. No Prefect and no HTTP below this folder."""
