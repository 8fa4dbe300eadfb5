"""One family of errors. Each message names the layer, op and shape at fault, and says what to do."""

from collections.abc import Collection

_LISTED = 5  # names in one message


def few(names: Collection[str], separator: str = ", ") -> str:
    """The first five names, and how many more there are."""
    more = len(names) - _LISTED
    return separator.join(list(names)[:_LISTED]) + (f" and {more} more" if more > 0 else "")


class SecateurError(Exception):
    """Base of every error that secateur raises on purpose."""


class InputError(SecateurError, ValueError):
    """An argument, a file or a tensor that the caller gave cannot be used as it is."""


class CaptureError(SecateurError):
    """The model cannot be turned into a static graph (control flow, training mode, wrong example inputs)."""


class UnsupportedOpError(SecateurError, NotImplementedError):
    """The graph holds an op for which there is no rule; guessing would be unsound."""


class NothingToPruneError(SecateurError):
    """No group can lose a unit: all are pinned, ignored, or too small for the ratio asked."""


class TargetMissedError(SecateurError):
    """The requested size cannot be reached; the message says how near one can come."""


class VerificationError(SecateurError):
    """The shrunk model does not equal the masked original: a fault in secateur, never to be passed over."""


class RecipeError(SecateurError):
    """A recipe cannot be read, or does not belong to the model it is replayed on."""


class StopPruning(Exception):
    """Raised by a callback of `prune` to end the run after the step it was called for; the text says why.

    No error, and `prune` does not let it through: the result is that of this step, `Result.stopped` holds the
    text.
    """


class SecateurWarning(UserWarning):
    """The result is usable, but not all that was requested; the message says what is missing."""
