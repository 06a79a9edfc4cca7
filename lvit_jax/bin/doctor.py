"""Looks at this machine before a run does: versions, devices, workdir, data, disk. Each failure comes with one fix.

  lvit doctor
  lvit doctor --config=configs/pretrain/mae_tiny.py --workdir=gs://my-bucket/mae --json
  lvit doctor --distributed       # on every machine of a run: do they find each other

Exit code 0 if nothing failed, 1 otherwise.
"""

import json
import os
import sys
from collections.abc import Sequence

from lvit_jax.bin import app, distributed, doctor_machine, doctor_places, flags
from lvit_jax.bin.doctor_finding import Patient, Result
from lvit_jax.bin.doctor_run import isolated

# name -> the check, and the seconds it may take
CHECKS = {
    "python": (doctor_machine.check_python, 20),
    "packages": (doctor_machine.check_packages, 20),
    "tested": (doctor_machine.check_tested, 20),
    "devices": (doctor_machine.check_devices, 120),
    "processes": (doctor_machine.check_processes, 60),  # and --wait
    "workdir": (doctor_places.check_workdir, 60),
    "disk": (doctor_places.check_disk, 20),
    "data": (doctor_places.check_data, 300),
    "cache": (doctor_places.check_cache, 20),
}
MARKS = {"ok": "ok", "failed": "FAILED", "skipped": "-"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs every check in a process of its own, so that none can crash or hang the doctor."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = flags.Parser("doctor", __doc__)
    parser.add_argument("--workdir", help="the folder of the run: is it writable, and how fast")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    distributed.add_flags(parser)
    if any(arg.startswith("--config") for arg in argv):
        args, config = flags.parse_with_config(parser, argv)
    else:
        parser.add_argument("--config", help="a config file: are its data there")
        args, config = parser.parse_args(argv), None
    job = args if distributed.check_flags(args) or args.distributed else None
    if job and args.workdir:  # where `app.start` puts it in a run of several processes
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{args.workdir}/compile_cache")
    app.start()
    patient = Patient(config.to_dict() if config else None, args.workdir, job)
    results = []
    for name, (check, seconds) in CHECKS.items():
        wait = distributed.WAIT if args.wait is None else args.wait
        results.append(isolated(name, check, patient, seconds + (wait if name == "processes" else 0)))
        if not args.json:
            print(line(results[-1]), flush=True)
    failed = [result.name for result in results if result.status == "failed"]
    if args.json:
        print(json.dumps({"ok": not failed, "checks": [result._asdict() for result in results]}))
    return 1 if failed else 0


def line(result: Result) -> str:
    """A result for a person, and the fix below it."""
    text = f"{MARKS[result.status]:7} {result.name:10} {result.message}"
    return f"{text}\n{'':19}fix: {result.fix}" if result.fix else text


if __name__ == "__main__":
    app.run(main)
