"""The live line of a training: everything of the notes' sample, as much of it as the terminal is wide, by importance.

Epoch 1/50 - train [saved: batch 100]:   8%|#         |  100/1250 [02:30<28:45, 1.50s/it, loss=0.4123, cls=0.2056, ...]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LEAST_BAR, MOST_BAR = 5, 20
NARROW = 100  # columns below which `avg_loss` is `avg`
BLOCKS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What is known at one batch.

    Attributes:
        done: batches that `seconds` were spent on; of a continued epoch only those of this process.
        saved: `batch 100`, or empty. wait: share of the time in which training waited for data.
        validating: the epoch's batches are done.
    """

    epoch: int
    epochs: int
    batch: int
    num_batches: int
    done: int
    seconds: float
    loss: float
    losses: Mapping[str, float]
    mean: float | None
    errors: int
    saved: str
    memory_bytes: float
    wait: float
    windows_per_second: float
    learning_rate: float
    validating: bool = False


def progress_line(now: Moment, width: int) -> str:
    """One line of at most `width` columns."""
    facts = _facts(now, narrow=width < NARROW)
    chosen: list[str] = []
    for name in _by_importance(now, facts):
        if len(_joined(now, facts, [*chosen, name])) <= width:
            chosen.append(name)
    line = _joined(now, facts, chosen)
    room = min(width - len(line) - 2, MOST_BAR)
    return _joined(now, facts, chosen, _bar(now.batch / now.num_batches, room)) if room >= LEAST_BAR else line[:width]


def _facts(now: Moment, *, narrow: bool) -> dict[str, str]:
    """Parts by name, in the order in which they stand inside the brackets."""
    several = now.losses if len(now.losses) > 1 else {}
    return {
        "train": " - train",
        "saved": f" [saved: {now.saved}]" if now.saved else "",
        "validating": "validating" if now.validating else "",
        "loss": f"loss={now.loss:.4f}",
        **{f"loss {name}": f"{name}={loss:.4f}" for name, loss in several.items()},
        "errors": f"errors={now.errors}",
        "avg": "" if now.mean is None else f"{'avg' if narrow else 'avg_loss'}={now.mean:.4f}",
        "memory": f"mem={now.memory_bytes / 1e6:,.0f}MB",
        "wait": f"wait={100 * now.wait:.1f}%",
        "windows": f"{now.windows_per_second:,.0f} windows/s",
        "rate": f"lr={now.learning_rate:.1e}",
    }


def _by_importance(now: Moment, facts: Mapping[str, str]) -> list[str]:
    parts = [name for name in facts if name.startswith("loss ")]
    errors = (["errors"], []) if now.errors else ([], ["errors"])
    order = ["validating", "loss", *errors[0], "avg", "saved", *parts, "memory", *errors[1], "wait"]
    return [name for name in [*order, "train", "windows", "rate"] if facts[name]]


def _joined(now: Moment, facts: Mapping[str, str], chosen: list[str], bar: str = "") -> str:
    width = len(str(now.num_batches))
    label = f"Epoch {now.epoch}/{now.epochs}" + "".join(facts[name] for name in ("train", "saved") if name in chosen)
    inside = [facts[name] for name in facts if name in chosen and name not in ("train", "saved")]
    times = ", ".join([f"{_clock(now.seconds)}<{_clock(_left(now))}", _pace(now), *inside])
    share = f"{100 * now.batch // now.num_batches:3d}%"
    return f"{label}: {share}{f'|{bar}|' if bar else ''} {now.batch:>{width}}/{now.num_batches} [{times}]"


def _bar(share: float, width: int) -> str:
    eighths = round(share * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (BLOCKS[rest] if full < width else "")).ljust(width)


def _left(now: Moment) -> float | None:
    return now.seconds / now.done * (now.num_batches - now.batch) if now.done else None


def _pace(now: Moment) -> str:
    """Writes the pace as `1.50s/it`, or `12.3it/s` where one takes less than a second."""
    if not now.done or now.seconds <= 0:
        return "?it/s"
    each = now.seconds / now.done
    return f"{each:.2f}s/it" if each >= 1 else f"{1 / each:.1f}it/s"


def _clock(seconds: float | None) -> str:
    """Writes a duration as `02:30`, `1:02:30`, `?` for what is not known."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes:02d}:{rest:02d}"
