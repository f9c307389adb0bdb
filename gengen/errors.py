"""What can go wrong by the user's hand. Free of JAX, so that the command line answers at once."""


class InputError(ValueError):
    """What the user gave is wrong; the message is one line that names the cause and the cure."""
