"""What ends a command although neither the user nor the program is to blame: the machine."""

import errno


def explain_environment(error: BaseException, workdir: str) -> str | None:
    """One sentence for an error that the machine is to blame for; None for any other."""
    text = " ".join(str(error).split())
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in text:
        place = getattr(error, "filename", None) or f"in {workdir} or the directory of temporary files"
        return f"The disk is full: {place}. Free some space, and the same command goes on from here."
    if isinstance(error, MemoryError):
        return (
            "There is not enough memory. `urnet run --dry_run` says what each stage needs and what to lower."
        )
    if isinstance(error, OSError):
        place = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        reason = error.strerror or text[:300] or type(error).__name__
        where = f": {place}" if place else ""
        return f"{reason}{where}. When that is mended, the same command goes on from here."
    return None
