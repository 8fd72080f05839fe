"""Import every module, train a teacher and a student for a few steps, and read the student back: for systems on which the tests do not run."""

import importlib
import pkgutil
import tempfile

import sastc
from sastc import Run, distill, train_teacher


def main():
    modules = [module.name for module in pkgutil.walk_packages(sastc.__path__, "sastc.")]
    for name in modules:
        importlib.import_module(name)
    # on the CPU: the Apple GPU of a hosted runner is listed and has no memory
    digits = dict(data="digits", batch_size=64, epochs=2, device="cpu")
    # Windows cannot remove a file that is still open; the run is what counts here
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        teacher = train_teacher(model="wrn16_2", width=0.125, folder=f"{folder}/teacher", **digits)
        student = distill(teacher=teacher.folder, student="vgg11", width=0.125, time_steps=2, method="sastc", folder=f"{folder}/student", **digits)
        read = Run(student.folder)
        accuracy, attention = read.result["test_accuracy_last"], read.attention  # [records, T, S, N]
        assert 0 < accuracy <= 1, accuracy
        assert abs(attention.sum(-1) - 1).max() < 1e-3, attention
    print(f"sastc {sastc.__version__}: {len(modules)} modules, a student of {accuracy:.1%} after two epochs")


if __name__ == "__main__":
    main()
