"""Where bugs are injected: layer 2 of four; or every layer, and then layer 0 must be named.

The patterns match the name of the first wrong tensor.
"""

LAYER = 2
LAYER_PREFIX = f"decoder.{LAYER}"
IN_LAYER = rf"decoder\.{LAYER}"
IN_LAYER_0 = r"decoder\.0"
