"""The folder below which clients may have checkpoints written, and the only way in which their paths are followed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dateshard.service.web.problems import field_problem
from dateshard.shardstore.errors import UsageError, shorten

FIELD = "output_path"
MOST_NAME_BYTES = 200


@dataclass(frozen=True, slots=True)
class OutputRoot:
    """A folder of this machine, and what clients call it.

    Attributes:
        folder: resolved. named: an absolute path that clients write for it.
    """

    folder: Path
    named: PurePosixPath

    @staticmethod
    def of(text: str) -> OutputRoot:
        """Reads `--output-root`: `DIR`, or `/models=DIR` where clients call DIR /models.

        Raises:
            UsageError: the name is no absolute path.
        """
        named, equals, folder = text.partition("=")
        if not equals:
            there = Path(text).resolve()
            return OutputRoot(there, PurePosixPath(there))
        if not named.startswith("/") or ".." in named.split("/") or not folder:
            what = f"--output-root: '{shorten(text)}' is not DIR, and not NAME=DIR with an absolute NAME"
            raise UsageError(what, todo="Write it like /models=data/models")
        return OutputRoot(Path(folder).resolve(), PurePosixPath(named))

    def below(self, text: str) -> Path:
        """The folder that a client means: below the root, also after every link is followed.

        Raises:
            ProblemError: it lies elsewhere, is the root itself, or is no path of plain names.
        """
        asked = PurePosixPath(text)
        try:
            local = asked.relative_to(self.named) if asked.is_absolute() else asked
        except ValueError:
            raise field_problem(FIELD, f"must lie below {self.named} (--output-root of the server)") from None
        names = local.parts
        if not names or any(not _is_plain(name) for name in names):
            raise field_problem(FIELD, f"must be a path of plain names below {self.named}, without '..'")
        folder = self.folder.joinpath(*names)
        try:
            inside = folder.resolve().is_relative_to(self.folder)
        except (OSError, ValueError, RuntimeError):  # too long; links in a circle
            inside = False
        if not inside:
            raise field_problem(FIELD, f"must lie below {self.named}: a link in it leads elsewhere")
        return folder


def _is_plain(name: str) -> bool:
    """Tells whether a name of a path means a file of that name alone, and can be written."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return False
    return name.isprintable() and name not in ("..", ".") and not name.startswith("~") and 0 < size <= MOST_NAME_BYTES
