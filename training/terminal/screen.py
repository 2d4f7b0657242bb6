"""What somebody in a terminal sees of a run: a bar with loss, learning rate and tokens a second, and what is told.

Runs as a thread of `python -m training train --dataset …`. It follows `events.jsonl` as the agent would, so it
shows the same whether one process trains or several do; everything else that a run prints goes to its log file.
"""

import math
import threading
from pathlib import Path
from typing import Any, Self, TextIO

from tqdm import tqdm

from monitoring.events import Checkpoint, Error, Log, Metrics, Progress, Result, Sample, decode_event, read_lines

POLL_SECONDS = 0.1
PLAIN_SECONDS = 10.0
"""Where stderr is a file, the bar is written so often: each time is a line there."""


class Screen:
    """Follows the events of one attempt while it is entered; on leaving, what is left in the file is shown."""

    def __init__(self, events_path: Path, out: TextIO) -> None:
        self._path = events_path
        self._out = out
        self._offset = 0
        self._bar: Any = None
        self._figures: dict[str, str] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="screen", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._read()
        if self._bar is not None:
            self._bar.close()
        self._out.flush()

    def say(self, text: str) -> None:
        """A line above the bar."""
        tqdm.write(text, file=self._out)

    def _follow(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            self._read()

    def _read(self) -> None:
        lines, self._offset = read_lines(self._path, self._offset)
        while lines:
            for line in lines.splitlines():
                self._show(decode_event(line).body)
            lines, self._offset = read_lines(self._path, self._offset)

    def _show(self, body: Any) -> None:
        match body:
            case Progress(done=done, total=total, unit="steps"):
                self._move(int(done), int(total) if total else None)
            case Metrics(values=values):
                self._note(values)
            case Log(level=level, text=text):
                self.say(text if level == "info" else f"{level.capitalize()}: {text}")
            case Checkpoint(step=step, path=path):
                self.say(f"Step {step}: {path} is written.")
            case Sample(step=step, prompt=prompt, text=text):
                self.say(f"Step {step}, asked {prompt!r}: {text}")
            case Error(message=message, fix=fix):
                self.say(f"Error: {message}" + (f"\n{fix}" if fix else ""))
            case Result(values=values):
                self._conclude(values)
            case _:
                pass

    def _move(self, done: int, total: int | None) -> None:
        if self._bar is None:
            pace = 0.0 if self._out.isatty() else PLAIN_SECONDS
            self._bar = tqdm(total=total, initial=done, unit="step", file=self._out, mininterval=pace, ncols=100)
        self._bar.update(done - self._bar.n)

    def _note(self, values: dict[str, float]) -> None:
        shown = {"loss": "loss", "learning_rate": "lr", "tokens_per_second": "tokens/s", "eval_loss": "eval"}
        formats = {"lr": "{:.2e}", "tokens/s": "{:,.0f}"}
        for name, label in shown.items():
            if name in values:
                value = values[name]
                self._figures[label] = (
                    formats.get(label, "{:.4f}").format(value) if math.isfinite(value) else str(value)
                )
        if self._bar is not None:
            self._bar.set_postfix(self._figures, refresh=False)

    def _conclude(self, values: dict[str, Any]) -> None:
        loss, eval_loss = values.get("loss"), values.get("eval_loss")
        figures = [f"loss {loss:.4f}"] if loss is not None else []
        figures += [f"evaluation loss {eval_loss:.4f}"] if eval_loss is not None else []
        self.say(
            f"{values['steps']} steps, {values['tokens']:,} tokens in {values['seconds']:.0f} s"
            + (f": {', '.join(figures)}." if figures else ".")
        )
