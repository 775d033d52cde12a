"""The command line: python -m trainer JOB.json (or accelerate launch -m trainer JOB.json)."""

import argparse
import json
import sys


def main() -> int:
    """Run one job file; the exit code is 0 (done), 2 (bad job or data, nothing started) or 1 (failed)."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer",
        description="Run one training job: init, sft or dpo. Progress lines go to standard output, logs to standard "
        "error. Exit code 0: output holds a complete checkpoint; 2: bad job file or data, nothing was started; "
        "1: failed (the last progress line says why; the same command goes on where it stopped).",
    )
    parser.add_argument("job", nargs="?", metavar="JOB.json", help="the job file")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of the job file with all options")
    arguments = parser.parse_args()
    if arguments.schema:
        from trainer.job import Job

        print(json.dumps(Job.model_json_schema(), indent=2))
        return 0
    if arguments.job is None:
        parser.error("which job should run? Name a job file, or --schema to see what it may hold")
    from trainer.progress import take_standard_output
    from trainer.run import run_job_file

    return run_job_file(arguments.job, take_standard_output())


if __name__ == "__main__":
    sys.exit(main())
