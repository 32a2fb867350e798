"""Where bugs are planted: layer 2 of four, or everywhere, which must be found in layer 0."""

LAYER = 2
AT = f"decoder.{LAYER}"
HERE = rf"decoder\.{LAYER}"
FIRST = r"decoder\.0"
