"""What somebody has who installs the wheel: the commands, a run, the pages, the panel. Run it from a folder without the source tree, with the Python of the
environment that has the wheel: `python /path/to/.ci/wheel.py`. `SASTC_DEMO_EPOCHS` makes the demo longer or shorter."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path


def sastc(*arguments: str) -> str:
    "Output of a command in a process of its own."
    program = [sys.executable, "-c", "import sys; from sastc.cli import main; sys.exit(main())", *arguments]
    done = subprocess.run(program, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"sastc {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def main() -> None:
    import sastc as package

    place, source = Path(package.__file__).resolve(), Path(__file__).resolve().parents[1]
    if place.is_relative_to(source):
        sys.exit(f"expected sastc from a wheel, got that of the source tree, {place}")
    assert (place.parent / "lab" / "static" / "launch.css").is_file(), "the wheel lacks the files of the panel"
    assert "sastc COMMAND --help" in sastc() and "cifar10" in sastc("recipes")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        said = sastc("demo", "--folder", f"{folder}/demo", "--epochs", os.environ.get("SASTC_DEMO_EPOCHS", "1"), "--seeds", "1")
        assert "teacher (ANN): test accuracy" in said and Path(folder, "demo", "report.html").is_file(), said
        from sastc import LaunchPanel, RunBoard  # those of a notebook: their scripts and styles are read from the wheel

        panel = LaunchPanel(f"{folder}/demo")
        runs = [label for label, _ in panel.run.options]
        panel.close()
        assert len(runs) >= 4 and len(RunBoard(f"{folder}/demo").rows) == 4, runs  # the teacher and its three students
    print(f"sastc {package.__version__} from {place.parent}: commands, demo, report, panel and board work")


if __name__ == "__main__":
    main()
