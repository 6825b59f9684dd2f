"""What a slot can be."""

KINDS = OBJECT, ROBOT, SURROUNDINGS = "object", "robot", "surroundings"
"""In the order of ``SlotOutput.kind_logits``."""
