"""The one exception that means "the user gave something that cannot work"."""


class UserError(Exception):
    """Bad input. The message is one line: the offending value, where it stands and what is allowed."""


def check_choice(value, allowed, what):
    """Return `value` if it is one of `allowed`; otherwise raise UserError naming both. `what` says what it is."""
    allowed = list(allowed)
    if value not in allowed:
        raise UserError(f"unknown {what} {value!r}; allowed: {', '.join(map(str, allowed))}")
    return value
