"""Where the service keeps what is its own: below `service/` of the data folder, for its user alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ServiceFolder:
    """The service's folder in a data folder: its database, its lock, and the log of each job."""

    data: Path

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.data / "service"

    @property
    def runs(self) -> Path:
        """All training runs; that of a job is called like the job."""
        return self.data / "runs"

    @property
    def lock(self) -> Path:
        """The file that a server holds while it runs."""
        return self.path / "server.lock"

    def log(self, job: str) -> Path:
        """What the processes of a job print."""
        return self.path / "logs" / f"{job}.log"
