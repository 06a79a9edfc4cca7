"""The whole road in miniature, on 1,797 scanned digits that ship with scikit-learn: nothing is downloaded.

  lvit demo --workdir=runs/demo

Pre-trains a teacher and a student (MAE, and D²-MAE from the teacher), fine-tunes the student from scratch and from
both, on all labels and on 100, evaluates every run, exports the best one, and writes WORKDIR/report/index.html with
logistic regression on the pixels beside it. Stopped and started again, it goes on where it was.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lvit_jax.bin import app, flags


def main(argv: Sequence[str] | None = None) -> int:
    """Runs every step as the command it prints, then the table and the report."""
    parser = flags.Parser("demo", __doc__)
    parser.add_argument("--workdir", required=True, help="the folder for all runs and the report")
    parser.add_argument("--fast", action="store_true", help="a few steps of each run, to see that everything works")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object at the end")
    args = parser.parse_args(argv)
    app.start()
    from lvit_jax.bin import demo_report, demo_run

    root, began, worked = Path(args.workdir), time.perf_counter(), time.process_time()
    accuracy, best, commands = demo_run.run_all(root, args.fast)
    results = demo_report.summary(accuracy, best, root)
    results |= {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - worked}
    demo_report.write(root, results, commands)
    table = f"\n{demo_report.table(results)}\n\nexport: {results['export']}\nreport: {results['report']}"
    print(table, file=sys.stderr if args.json else sys.stdout)
    if args.json:
        app.report(results, True)
    return 0


if __name__ == "__main__":
    app.run(main)
