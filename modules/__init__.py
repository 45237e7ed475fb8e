"""Everything the command-line scripts share."""
import os

# Sampled subnets at several resolutions have more convolutions than the 1,024 that oneDNN keeps compiled. One that it
# has dropped costs up to milliseconds. Read at torch's first convolution.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")
