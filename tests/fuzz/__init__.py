import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a name that looks like the hub's is not asked for
