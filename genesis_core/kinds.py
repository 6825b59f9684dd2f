"""What a slot can be. Apart from the models, so that whoever needs the names needs no PyTorch."""

KINDS = OBJECT, ROBOT, SURROUNDINGS = "object", "robot", "surroundings"
"""In the order of ``SlotOutput.kind_logits``."""
