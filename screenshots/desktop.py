"""A virtual screen with a window manager, and on it real terminals and a real browser, which a program can use."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import machine

MONO = "DejaVu Sans Mono"
DESKTOP, TITLE_BAR, PAPER, INK = "#2d3e50", "#44607c", "#10181f", "#e8eef4"
FONT_SIZE = 20  # pixels; GitHub shows a picture of 1,500 pixels at about half that
CELL_WIDTH, CELL_HEIGHT = 12, 24  # pixels, of a character of that size
MARGIN = 12  # pixels, around the text of a terminal
GAP = 12  # pixels, between windows
IN_TIME = 40.0  # seconds, for whatever should happen soon; generous, for a loaded machine

WINDOW_MANAGER = f"""
<openbox_config xmlns="http://openbox.org/3.4/rc">
  <theme>
    <name>pictures</name><titleLayout>L</titleLayout>
    <font place="ActiveWindow"><name>{MONO}</name><size>{FONT_SIZE - 2}</size><weight>bold</weight></font>
    <font place="InactiveWindow"><name>{MONO}</name><size>{FONT_SIZE - 2}</size><weight>bold</weight></font>
  </theme>
</openbox_config>
"""
THEME = "".join(
    f"window.{state}.title.bg: flat solid\nwindow.{state}.title.bg.color: {TITLE_BAR}\n"
    f"window.{state}.label.bg: parentrelative\nwindow.{state}.label.text.color: {INK}\n"
    f"window.{state}.border.color: {TITLE_BAR}\nwindow.{state}.client.color: {TITLE_BAR}\n"
    for state in ("active", "inactive")
)
THEME += "border.width: 2\nwindow.client.padding.width: 0\nwindow.handle.width: 0\npadding.height: 5\n"
THEME += "window.label.text.justify: center\n"


class PictureError(machine.CommandError):
    """A picture can't be taken; the text says why."""


def width_of(columns: int) -> int:
    """Return the width of a terminal with its frame."""
    return columns * CELL_WIDTH + 2 * MARGIN + 4


def height_of(rows: int) -> int:
    """Return the height of a terminal with its frame and title."""
    return rows * CELL_HEIGHT + 2 * MARGIN + 36


def eventually(happens: Callable[[], Any], what: str, within: float = IN_TIME) -> Any:
    """Return the first true value of `happens()`.

    Raises:
        PictureError: there was none in time.
    """
    deadline = time.monotonic() + within
    while True:
        if value := happens():
            return value
        if time.monotonic() > deadline:
            raise PictureError(f"Not within {within:.0f} seconds: {what}")
        time.sleep(0.05)


def family_of(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *itertools.chain.from_iterable(family_of(int(child)) for child in children)]


def is_running(pid: int) -> bool:
    """Tell whether there is such a process that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def end(pid: int, how: signal.Signals) -> None:
    """End a process and all that descend from it with a signal, and return when they are gone."""
    family = family_of(pid)
    send(how, family)
    with contextlib.suppress(PictureError):
        eventually(lambda: not any(map(is_running, family)), "the end", within=10)
    send(signal.SIGKILL, filter(is_running, family))


def send(number: signal.Signals, processes: Iterable[int]) -> None:
    """Send a signal to each of these processes that is still there."""
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@contextlib.contextmanager
def running(
    command: list[str], how_to_end: signal.Signals = signal.SIGINT, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Have a program run, unseen, for the time of the block."""
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # A session of its own, so that Ctrl+C in this terminal is ours to handle.
    process = subprocess.Popen(command, start_new_session=True, **{**quiet, **options})
    try:
        yield process
    finally:
        end(process.pid, how_to_end)
        process.wait()


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Give a new folder, and remove it even if something still writes there."""
    folder = tempfile.mkdtemp()
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Desktop:
    """A screen for one picture, of that picture's size.

    Args:
        folder: for the files of all that runs on it; new and empty.
        width, height: in pixels.
    """

    def __init__(self, folder: Path, width: int, height: int) -> None:
        self.folder, self.width, self.height = folder, width, height
        self._processes = contextlib.ExitStack()
        self.environment = {
            **machine.clean_environment(),
            "HOME": str(folder),
            "PATH": f"{machine.VENV_PYTHON.parent}:{os.environ['PATH']}",
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def __enter__(self) -> Desktop:
        with self._processes:  # which ends them again unless all have started
            self._start_screen()
            self._start_window_manager()
            self._processes = self._processes.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.close()

    def run(self, *command: str) -> str:
        """Run a program to its end and return what it prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=IN_TIME)
        if done.returncode != 0:
            raise PictureError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        return done.stdout

    def start(self, *command: str, **options: Any) -> int:
        """Start a program that runs as long as this desktop does, and return its process id."""
        options = {"env": self.environment, "cwd": machine.PROJECT, **options}
        return self._processes.enter_context(running(list(command), **options)).pid

    def terminal(self, title: str, columns: int, rows: int, x: int, y: int) -> Terminal:
        """Open a terminal with its frame's corner at (x, y)."""
        return Terminal(self, title, f"{columns}x{rows}+{x}+{y}")

    def browser(self, x: int, y: int, width: int, height: int, scale: float) -> Browser:
        """Have the programs that start from now on open this browser, at (x, y) and enlarged by a factor."""
        browser = Browser(self.folder / "browser", [round(pixels / scale) for pixels in (x, y, width, height)], scale)
        self.environment["BROWSER"] = str(browser.command)
        self._processes.callback(browser.close)
        return browser

    def photograph(self, file: Path) -> None:
        """Write what is on the screen to a picture."""
        from PIL import Image

        raw = self.folder / "screen.png"
        self.run("ffmpeg", "-loglevel", "error", "-y", *self._as_input(), "-frames:v", "1", str(raw))
        with Image.open(raw) as image:
            image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)

    @contextlib.contextmanager
    def filmed(self, file: Path, frame_rate: int, last_frame_for: float) -> Iterator[None]:
        """Write what happens during the block to an animated GIF, its last frame held for some seconds."""
        film = self.folder / "film.nut"
        lossless = ["-codec:v", "libx264rgb", "-qp", "0", "-preset", "ultrafast", "-flush_packets", "1"]
        with running(["ffmpeg", *self._as_input(frame_rate), *lossless, str(film)], env=self.environment) as camera:
            eventually(lambda: film.exists() and film.stat().st_size, "the camera runs")
            yield
            camera.send_signal(signal.SIGINT)  # upon which it completes its file
            camera.wait(IN_TIME)
        palette = "split[a][b];[a]palettegen=max_colors=64[p];[b][p]paletteuse=dither=none:diff_mode=rectangle"
        hold = ["-final_delay", f"{last_frame_for * 100:.0f}"]
        self.run("ffmpeg", "-loglevel", "error", "-y", "-i", str(film), "-filter_complex", palette, *hold, str(file))

    def _start_screen(self) -> None:
        reader, writer = os.pipe()
        size = f"{self.width}x{self.height}x24"
        self.start("Xvfb", "-displayfd", str(writer), "-screen", "0", size, "-dpi", "72", "-noreset", pass_fds=[writer])
        os.close(writer)
        with os.fdopen(reader) as number:
            self.environment["DISPLAY"] = f":{number.readline().strip()}"

    def _start_window_manager(self) -> None:
        theme = self.folder / ".themes" / "pictures" / "openbox-3"
        theme.mkdir(parents=True)
        (theme / "themerc").write_text(THEME)
        (self.folder / "openbox.xml").write_text(WINDOW_MANAGER)
        self.run("xsetroot", "-solid", DESKTOP)
        self.start("openbox", "--config-file", str(self.folder / "openbox.xml"))
        # A window that opens before may stay without a frame.
        eventually(self._is_managed, "the window manager runs")

    def _is_managed(self) -> bool:
        question = ["xdotool", "get_num_desktops"]
        return subprocess.run(question, env=self.environment, capture_output=True).returncode == 0

    def _as_input(self, frame_rate: int = 10) -> list[str]:
        size = f"{self.width}x{self.height}"
        options = ["-f", "x11grab", "-draw_mouse", "0", "-framerate", str(frame_rate), "-video_size", size]
        return [*options, "-i", self.environment["DISPLAY"]]


class Terminal:
    """A terminal window with a shell in the project's folder, as a person has it, and a keyboard for it."""

    def __init__(self, desktop: Desktop, title: str, geometry: str) -> None:
        self._desktop, self._title = desktop, title
        self._output = desktop.folder / f"{title}.typescript"
        look = ["-fa", MONO, "-fs", str(FONT_SIZE), "-bg", PAPER, "-fg", INK, "-b", str(MARGIN), "+sb"]
        # The recorder tells what was shown; xterm's own log is left out of some builds.
        settings = desktop.folder / "bashrc"
        settings.write_text("PS1='$ '\n")
        record = ["script", "--quiet", "--flush", "--command", f"bash --rcfile {settings}", str(self._output)]
        desktop.start("xterm", "-T", title, "-geometry", geometry, *look, "-e", *record, how_to_end=signal.SIGHUP)
        self.shows("$ ")
        self._window: str = eventually(self._visible, f"the window {title}")

    def types(self, text: str, keys_per_second: float = 30, enter: bool = True) -> None:
        """Type a line, as a person does: a key after the other."""
        self._desktop.run("xdotool", "windowactivate", "--sync", self._window)
        self._desktop.run("xdotool", "type", "--delay", f"{1000 / keys_per_second:.0f}", text)
        if enter:
            self.presses("Return")

    def presses(self, key: str) -> None:
        """Press a key."""
        self._desktop.run("xdotool", "windowactivate", "--sync", self._window, "key", key)

    def hide(self) -> None:
        """Put the window away."""
        self._desktop.run("xdotool", "windowminimize", "--sync", self._window)

    def shows(self, text: str, times: int = 1, within: float = IN_TIME) -> None:
        """Wait until the terminal has shown a text so many times."""
        eventually(lambda: self._shown().count(text) >= times, f"{self._title} shows {text!r}", within)

    def _visible(self) -> str:
        search = ["xdotool", "search", "--onlyvisible", "--name", f"^{self._title}$"]
        return subprocess.run(search, env=self._desktop.environment, capture_output=True, text=True).stdout.partition(
            "\n"
        )[0]

    def _shown(self) -> str:
        return self._output.read_text(errors="replace") if self._output.exists() else ""


class Browser:
    """A browser that somebody else will start, by `command` and an address, and its page as a program sees it.

    Args:
        folder: for its profile.
        geometry: x, y, width and height of its window, before it is enlarged.
        scale: by how much it is enlarged.
    """

    def __init__(self, folder: Path, geometry: list[int], scale: float) -> None:
        self._profile, self._pid_file = folder / "profile", folder / "pid"
        (self._profile / "Default").mkdir(parents=True)
        preferences = {"credentials_enable_service": False, "signin": {"allowed_on_next_startup": False}}
        (self._profile / "Default" / "Preferences").write_text(json.dumps(preferences))
        flags = [f"--user-data-dir={self._profile}", f"--force-device-scale-factor={scale}"]
        flags += ["--window-position={},{}".format(*geometry[:2]), "--window-size={},{}".format(*geometry[2:])]
        flags += ["--remote-debugging-port=0", "--no-first-run"]
        flags += ["--no-default-browser-check", "--password-store=basic", "--disable-gpu", "--disable-dev-shm-usage"]
        flags += ["--test-type"]  # no remarks about the other flags above the page
        if machine.is_root():
            flags += ["--no-sandbox"]  # it refuses root otherwise
        self.command = folder / "command"
        started = f'chromium {" ".join(flags)} "$1" >{folder}/log 2>&1 &'
        self.command.write_text(f"#!/bin/sh\n{started}\necho $! >{self._pid_file}\n")
        self.command.chmod(0o755)

    def evaluate(self, script: str) -> Any:
        """Run a line of JavaScript in the page and return its value."""
        from websockets.sync.client import connect

        port = eventually(self._debugging_port, "the browser is open")
        pages = f"http://127.0.0.1:{port}/json"
        with urllib.request.urlopen(pages, timeout=IN_TIME) as answer:
            (page,) = (target for target in json.load(answer) if target["type"] == "page")
        with connect(page["webSocketDebuggerUrl"], max_size=None) as socket:
            socket.send(json.dumps({"id": 1, "method": "Runtime.evaluate", "params": {"expression": script}}))
            return json.loads(socket.recv(IN_TIME))["result"]["result"].get("value")

    def shows(self, text: str) -> None:
        """Wait until a text is on the page."""
        eventually(lambda: self.evaluate(f"document.body.innerText.includes({json.dumps(text)})"), f"{text!r} is shown")

    def close(self) -> None:
        """Close the browser, if it was opened."""
        if self._pid_file.exists():
            end(int(self._pid_file.read_text()), signal.SIGINT)

    def _debugging_port(self) -> str:
        file = self._profile / "DevToolsActivePort"
        return file.read_text().split("\n")[0] if file.exists() else ""
